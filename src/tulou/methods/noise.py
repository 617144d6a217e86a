"""Environmental noise: equivalent levels of day and night, and the limits of acoustic zones.

Source: GB 3096-2008, clauses 3.3 to 3.5 (equivalent levels), 3.6 (day is 6 to 22 o'clock, unless the county's government says otherwise),
5.1 with table 1, 5.4 (sudden noise at night at most 15 dB above the limit). Ldn: with a penalty of 10 dB at night (ISO 1996-1).
Every level is A-weighted, dB(A).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Bools, Floats, floats
from tulou.methods.errors import InvalidInput, one_of

DAY = slice(6, 22)
SUDDEN = 15.0


@dataclass(frozen=True)
class Limits:
    """Limits of day and night by zone, dB(A)."""

    standard: str
    valid_from: date
    zones: dict[str, tuple[float, float]]


GB_3096_2008 = Limits(
    "GB 3096-2008",
    date(2008, 10, 1),
    {"0": (50, 40), "1": (55, 45), "2": (60, 50), "3": (65, 55), "4a": (70, 55), "4b": (70, 60)},
)
EDITIONS = (GB_3096_2008,)


def equivalent(levels: ArrayLike) -> Floats:
    """Equivalent level of levels of equal length, over the last axis: 10 lg(mean of 10^(L/10)). NaN levels do not count."""
    array = floats("levels", levels)
    if array.ndim == 0:
        raise InvalidInput("levels 应为数组", "levels is no array", field="levels", value=array.shape, rule="ndim >= 1")
    count = np.count_nonzero(~np.isnan(array), axis=-1)
    energy = np.nansum(10 ** (array / 10), axis=-1) / np.maximum(count, 1)
    return np.where(count > 0, 10 * np.log10(np.where(count > 0, energy, 1.0)), np.nan)


def day_night(hours: ArrayLike) -> tuple[Floats, Floats]:
    """Ld (6 to 22 o'clock) and Ln (22 to 6) from the equivalent levels of the 24 hours of a day, (..., 24) to (...).

    NaN when an hour of the period is missing. The night is that of one calendar day: hours 0 to 6 and 22 to 24.
    """
    array = floats("hours", hours)
    if array.ndim == 0 or array.shape[-1] != 24:
        raise InvalidInput(
            "hours 的最后一维应为 24 小时", "the last axis of hours is not 24 hours",
            field="hours", value=array.shape, rule="shape[-1] == 24",
        )
    day, night = array[..., DAY], np.delete(array, np.r_[DAY], axis=-1)
    missing_day, missing_night = np.isnan(day).any(axis=-1), np.isnan(night).any(axis=-1)
    return np.where(missing_day, np.nan, equivalent(day)), np.where(missing_night, np.nan, equivalent(night))


def ldn(day: ArrayLike, night: ArrayLike) -> Floats:
    """Day-night level: 10 lg((16·10^(Ld/10) + 8·10^((Ln+10)/10)) / 24)."""
    ld, ln = floats("day", day), floats("night", night)
    return np.asarray(10 * np.log10((16 * 10 ** (ld / 10) + 8 * 10 ** ((ln + 10) / 10)) / 24))


@dataclass(frozen=True)
class Noise:
    """Whether limits are kept; `*_over`: dB(A) above the limit, 0 when kept, NaN when nothing was measured."""

    day_over: Floats
    night_over: Floats
    sudden_over: Floats
    attained: Bools


def assess(
    zone: str, day: ArrayLike, night: ArrayLike, sudden: ArrayLike | None = None, limits: Limits = GB_3096_2008
) -> Noise:
    """Ld and Ln (and the greatest level of sudden noise at night) of places in one `zone`, arrays of one shape.

    Attained: by day and by night, both measured, and sudden noise, where given, within 15 dB of the night's limit. Zone `4b` is that
    of railways planned from 2011 on; an older one has the limits of `4a` (5.3). `InvalidInput` for other zones.
    """
    one_of("zone", zone, limits.zones)
    by_day, by_night = limits.zones[zone]

    def over(field: str, values: ArrayLike, limit: float) -> Floats:
        return np.asarray(np.maximum(floats(field, values) - limit, 0))

    day_over, night_over = over("day", day, by_day), over("night", night, by_night)
    sudden_over = np.full(np.shape(night_over), np.nan) if sudden is None else over("sudden", sudden, by_night + SUDDEN)
    return Noise(day_over, night_over, sudden_over, (day_over == 0) & (night_over == 0) & ~(sudden_over > 0))
