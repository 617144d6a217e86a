"""Verification of forecasts: errors, quantile scores, coverage, skill with its uncertainty.

Sources: Jolliffe & Stephenson, Forecast Verification (2012); pinball loss (Koenker & Bassett 1978); CRPS as twice the mean pinball loss over
equally spaced levels (Gneiting & Ranjan 2011; Bracher et al. 2021, eq. 5); skill 1 - S / S_ref (Murphy 1988); circular block bootstrap
(Politis & Romano 1992), so that errors that follow each other are drawn together.

Law: a pair with a NaN does not count, and both sides of a comparison are judged on the same pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tulou.methods.arrays import Floats, floats
from tulou.methods.errors import InvalidInput, at_least


def bias(observed: ArrayLike, forecast: ArrayLike) -> float:
    """Mean of forecast - observed, (n,) each, unit of the values; NaN without a pair."""
    return _mean(_error(observed, forecast))


def mae(observed: ArrayLike, forecast: ArrayLike) -> float:
    """Mean absolute error, (n,) each, unit of the values; NaN without a pair."""
    return _mean(np.abs(_error(observed, forecast)))


def rmse(observed: ArrayLike, forecast: ArrayLike) -> float:
    """Root of the mean squared error, (n,) each, unit of the values; NaN without a pair."""
    return float(np.sqrt(_mean(_error(observed, forecast) ** 2)))


def pinball(observed: ArrayLike, forecast: ArrayLike, levels: ArrayLike) -> Floats:
    """Pinball losses (n, q) of quantile forecasts (n, q) of `levels` (q,) for `observed` (n,), unit of the values.

    `InvalidInput`: shapes that do not fit, or levels that are not ascending between 0 and 1.
    """
    values, quantiles, probabilities = _quantiles(observed, forecast, levels)
    short = values[:, None] - quantiles
    return np.maximum(probabilities * short, (probabilities - 1) * short)


def crps(observed: ArrayLike, forecast: ArrayLike, levels: ArrayLike) -> Floats:
    """CRPS (n,) from quantiles (n, q) of equally spaced `levels` k / (q + 1): twice the mean pinball loss, unit of the values.

    The more levels the nearer; with one, the median, it is the absolute error. `InvalidInput` as for `pinball`, and for other levels.
    """
    losses = pinball(observed, forecast, levels)
    count = losses.shape[1]
    if not np.allclose(floats("levels", levels), np.arange(1, count + 1) / (count + 1)):
        raise InvalidInput(
            "CRPS 要求等间距分位水平 k/(q+1)", "CRPS needs equally spaced levels k / (q + 1)",
            field="levels", value=np.asarray(levels).tolist(), rule="k / (q + 1)",
        )
    return np.asarray(2 * losses.mean(axis=1))


def coverage(observed: ArrayLike, low: ArrayLike, high: ArrayLike) -> float:
    """Share of `observed` (n,) within `low` to `high` (n,), bounds included; NaN without a pair."""
    values, lower, upper = (floats(name, array, ndim=1) for name, array in _named(observed=observed, low=low, high=high))
    there = ~np.isnan(values + lower + upper)
    return float(np.mean((values >= lower)[there] & (values <= upper)[there])) if there.any() else float("nan")


def width(low: ArrayLike, high: ArrayLike) -> float:
    """Mean width of intervals, unit of the values; NaN without one."""
    return _mean(floats("high", high, ndim=1) - floats("low", low, ndim=1))


@dataclass(frozen=True)
class Skill:
    """`value`: 1 - mean loss / mean loss of the reference: 1 perfect, 0 no better. `low`, `high`: its bootstrap interval."""

    value: float
    low: float
    high: float
    pairs: int


def skill(
    losses: ArrayLike, reference: ArrayLike, *, block: int, seed: int, draws: int = 1000, confidence: float = 0.95
) -> Skill:
    """Skill of a forecast over a reference from their losses (n,) on the same samples in the order of time.

    Circular blocks of `block` samples (about as long as errors hang together: a day, or the horizon) are drawn `draws` times with
    `seed`, pairs together. NaN when the reference never errs. `InvalidInput`: lengths that differ, a block that is not 1 to n.
    """
    own, other = floats("losses", losses, ndim=1), floats("reference", reference, ndim=1)
    _same("reference", own.shape, other.shape)
    there = ~np.isnan(own + other)
    own, other = own[there], other[there]
    count = len(own)
    at_least("block", block, 1)
    at_least("len(losses)", count, block)
    if other.sum() == 0:
        return Skill(float("nan"), float("nan"), float("nan"), count)
    blocks = -(-count // block)
    starts = np.random.default_rng(seed).integers(0, count, size=(draws, blocks))
    sums = [_circular(array, block)[starts].sum(axis=1) for array in (own, other)]
    drawn = 1 - np.divide(sums[0], sums[1], out=np.full(draws, np.nan), where=sums[1] > 0)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Skill(float(1 - own.sum() / other.sum()), float(low), float(high), count)


def _circular(array: Floats, block: int) -> Floats:
    """Sum of the block that begins at each place; the end goes on at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], array, array[: block - 1]]))
    return np.asarray(sums[block:] - sums[:-block])


def _error(observed: ArrayLike, forecast: ArrayLike) -> Floats:
    values, guesses = floats("observed", observed, ndim=1), floats("forecast", forecast, ndim=1)
    _same("forecast", values.shape, guesses.shape)
    return guesses - values


def _mean(values: Floats) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _quantiles(observed: ArrayLike, forecast: ArrayLike, levels: ArrayLike) -> tuple[Floats, Floats, Floats]:
    values, quantiles = floats("observed", observed, ndim=1), floats("forecast", forecast, ndim=2)
    probabilities = floats("levels", levels, ndim=1)
    _same("forecast", (len(values), len(probabilities)), quantiles.shape)
    if not (np.all(np.diff(probabilities) > 0) and np.all((probabilities > 0) & (probabilities < 1))):
        raise InvalidInput(
            "levels 应在 0 与 1 之间递增", "levels are not ascending between 0 and 1",
            field="levels", value=probabilities.tolist(), rule="0 < levels < 1, ascending",
        )
    return values, quantiles, probabilities


def _same(field: str, wanted: tuple[int, ...], got: tuple[int, ...]) -> None:
    if wanted != got:
        raise InvalidInput(
            f"{field} 的形状为 {got}，应为 {wanted}", f"{field} has the shape {got}, not {wanted}",
            field=field, value=got, rule=f"== {wanted}",
        )


def _named(**arrays: ArrayLike) -> list[tuple[str, ArrayLike]]:
    return list(arrays.items())
