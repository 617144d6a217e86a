"""Splitting a series for forecasts into train, validation and held-out, by time.

A sample is made at its origin and judged at its target, `horizon` steps later. Source of the rule: evaluation with a fixed origin and an
embargo (Tashman 2000; López de Prado 2018, ch. 7: purging).

Law: nothing leaks. Every target of a part lies before every origin of the next one, so no value is a target of one part and
history of an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tulou.methods.arrays import Ints
from tulou.methods.errors import InvalidInput, at_least


@dataclass(frozen=True)
class Split:
    """Places of the origins of each part, ascending, in steps of the series."""

    train: Ints
    validation: Ints
    held_out: Ints


def by_time(length: int, horizon: int, *, train: float = 0.6, validation: float = 0.2, warm_up: int = 0) -> Split:
    """Split a series of `length` steps: the first `train` of it, the next `validation`, and the rest.

    A sample belongs to the part that has its origin and its target; one whose target is in the next part belongs to none. The
    first `warm_up` origins are left out, for features need history. `InvalidInput`: a horizon below 1, shares that are not positive or
    add up to 1 or more, or a part that is left empty.
    """
    at_least("horizon", horizon, 1)
    at_least("warm_up", warm_up, 0)
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise InvalidInput(
            "train 与 validation 应为正且之和小于 1", "train and validation are not positive with a sum below 1",
            field="train, validation", value=(train, validation), rule="> 0, sum < 1",
        )
    cuts = [0, round(length * train), round(length * (train + validation)), length]
    parts = [
        np.arange(max(start, warm_up), end - horizon, dtype=np.int64) for start, end in pairwise(cuts)
    ]
    if any(len(part) == 0 for part in parts):
        raise InvalidInput(
            f"序列过短：{length} 步不足以按预见期 {horizon} 划分", f"{length} steps are too few for a horizon of {horizon}",
            field="length", value=length, rule="no part empty",
        )
    return Split(*parts)
