"""Editions of a standard: each valid from a day on, until another follows.

Law: an edition is a literal that says its source; which one counts is asked by the day of the measurement, never by today.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol, TypeVar

from tulou.methods.errors import InvalidInput


class Dated(Protocol):
    @property
    def standard(self) -> str: ...
    @property
    def valid_from(self) -> date: ...


Edition = TypeVar("Edition", bound=Dated)


def in_force(editions: Sequence[Edition], on: date) -> Edition:
    """The latest of `editions` that is valid on the day `on`. `InvalidInput` for a day before the first."""
    valid = [edition for edition in editions if edition.valid_from <= on]
    if not valid:
        first = min(editions, key=lambda edition: edition.valid_from)
        raise InvalidInput(
            f"{on} 早于 {first.standard} 的实施日期 {first.valid_from}",
            f"{on} is before {first.standard}, which is valid from {first.valid_from}",
            field="on", value=on, rule=f">= {first.valid_from}",
        )
    return max(valid, key=lambda edition: edition.valid_from)
