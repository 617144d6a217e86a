"""Robust baseline of a series and what deviates from it.

Sources: median and MAD with the factor 1.4826 that makes it the standard deviation of a normal distribution (Rousseeuw & Croux 1993);
modified z-score and its threshold 3.5 (Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers, ch. 3).

Law: a trailing baseline never sees the value it judges, nor any after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Bools, Floats, Ints, floats
from tulou.methods.errors import at_least

SIGMA = 1.4826  # 1 / the 0.75 quantile of the normal distribution
MEAN_SIGMA = 1.253314  # sqrt(pi / 2), for mean absolute deviations


@dataclass(frozen=True)
class Baseline:
    """`level`: median; `scale`: 1.4826 x MAD; both in the unit of the values and of their shape, NaN where too few are near."""

    level: Floats
    scale: Floats


def rolling(values: ArrayLike, window: int, *, centred: bool = False, at_least_valid: int | None = None) -> Baseline:
    """Median and MAD of the `window` values before each of `values` (n,), or, `centred`, of those around and with it (odd window).

    NaN with fewer than `at_least_valid` values (by default half of the window, rounded up). Memory: n x window. `InvalidInput` for a
    window below 2, an even one when centred, or fewer than one value asked for.
    """
    array = floats("values", values, ndim=1)
    at_least("window", window, 2)
    if centred:
        at_least("window % 2", window % 2, 1)
    enough = (window + 1) // 2 if at_least_valid is None else at_least_valid
    at_least("at_least_valid", enough, 1)
    before = window // 2 if centred else window
    padded = np.concatenate([np.full(before, np.nan), array, np.full(window // 2, np.nan) if centred else []])
    near = np.lib.stride_tricks.sliding_window_view(padded, window)[: len(array)]
    level, scale = np.full(len(array), np.nan), np.full(len(array), np.nan)
    valid = np.count_nonzero(~np.isnan(near), axis=1) >= enough
    if valid.any():
        level[valid] = np.nanmedian(near[valid], axis=1)
        scale[valid] = SIGMA * np.nanmedian(np.abs(near[valid] - level[valid, None]), axis=1)
    return Baseline(level, scale)


def modified_z(residuals: ArrayLike) -> Floats:
    """Modified z-scores of residuals (n,): (r - median) / (1.4826 MAD). Where more than half are equal, so that MAD is 0, the mean
    absolute deviation x 1.2533 stands for it; where all are equal the scores are 0."""
    array = floats("residuals", residuals, ndim=1)
    there = ~np.isnan(array)
    if not there.any():
        return array
    deviation = array - np.median(array[there])
    absolute = np.abs(deviation[there])
    scale = SIGMA * float(np.median(absolute)) or MEAN_SIGMA * float(np.mean(absolute))
    return deviation / scale if scale > 0 else np.where(there, 0.0, np.nan)


def anomalies(residuals: ArrayLike, threshold: float = 3.5, consecutive: int = 1) -> Bools:
    """Which residuals (n,) are anomalous: |modified z| > `threshold`, in a run of at least `consecutive`; NaN is none and ends a run.

    Take the residuals of `decompose`, or values - `rolling(...).level`. `InvalidInput` for a threshold or run that is not positive.
    """
    at_least("threshold", threshold, np.finfo(float).tiny)
    at_least("consecutive", consecutive, 1)
    over: Bools = np.abs(modified_z(residuals)) > threshold
    starts, ends = _runs(over)
    for start, end in zip(starts, ends, strict=True):
        if end - start < consecutive:
            over[start:end] = False
    return over


def _runs(flags: Bools) -> tuple[Ints, Ints]:
    edges = np.diff(np.concatenate([[0], flags.astype(np.int64), [0]]))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
