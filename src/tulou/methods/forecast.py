"""Quantile forecasts of a series by gradient boosting, one model for each quantile and horizon, and the baselines to beat.

Sources: direct strategy (Ben Taieb, Bontempi, Atiya & Sorjamaa 2012); histogram gradient boosting with the pinball loss, as in
scikit-learn (docs/decisions/0016-methods.md says why that one); quantiles that cross are sorted (Chernozhukov, Fernández-Val & Galichon
2010); persistence and climatology as references (Murphy 1992).

Law: a forecast made at an origin uses the series up to and with the origin, the calendar of the target, and what the caller gives as known; rows
are trained on only when their target lies in what the caller calls training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from tulou.methods.arrays import Floats, Ints, floats
from tulou.methods.errors import InvalidInput, at_least


@dataclass(frozen=True)
class Recipe:
    """What a forecast is made of.

    `horizon`: steps from origin to target. `lags`: steps back from the origin, 0 being the origin itself. `windows`: lengths of trailing
    means. `periods`: cycles of the calendar in steps, told as sine and cosine of the target's phase. `levels`: ascending quantiles.
    """

    horizon: int
    lags: Sequence[int] = (0, 1, 2, 23, 24)
    windows: Sequence[int] = (6, 24)
    periods: Sequence[float] = (24.0,)
    levels: Sequence[float] = tuple(k / 10 for k in range(1, 10))

    def __post_init__(self) -> None:
        at_least("horizon", self.horizon, 1)
        for lag in self.lags:
            at_least("lags", lag, 0)
        for window in self.windows:
            at_least("windows", window, 1)
        levels = list(self.levels)
        if not levels or levels != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] < 1:
            raise InvalidInput(
                "levels 应在 0 与 1 之间递增", "levels are not ascending between 0 and 1",
                field="levels", value=levels, rule="0 < levels < 1, ascending",
            )


def features(
    values: ArrayLike, recipe: Recipe, *, known_at_origin: ArrayLike | None = None, known_at_target: ArrayLike | None = None
) -> Floats:
    """One row for each origin, (n, p): lags and trailing means of `values` (n,), the target's phases, then the inputs.

    `known_at_origin` (n, a): measured inputs, taken at the origin. `known_at_target` (n + horizon, b): what is known of the target's time
    beforehand, such as a weather forecast issued before the origin; that it was is the caller's word. NaN where history is missing, which
    the trees take. `InvalidInput` for other lengths.
    """
    series = floats("values", values, ndim=1)
    count = len(series)
    columns = []
    for lag in recipe.lags:
        columns.append(np.concatenate([np.full(min(lag, count), np.nan), series[: max(count - lag, 0)]]))
    for window in recipe.windows:
        padded = np.concatenate([np.full(window - 1, np.nan), series])
        near = np.lib.stride_tricks.sliding_window_view(padded, window)
        valid = np.count_nonzero(~np.isnan(near), axis=1)
        columns.append(np.where(valid > 0, np.nansum(near, axis=1) / np.maximum(valid, 1), np.nan))
    target = np.arange(count) + recipe.horizon
    for period in recipe.periods:
        phase = 2 * np.pi * target / period
        columns += [np.sin(phase), np.cos(phase)]
    if known_at_origin is not None:
        columns += list(_inputs("known_at_origin", known_at_origin, count).T)
    if known_at_target is not None:
        columns += list(_inputs("known_at_target", known_at_target, count + recipe.horizon)[recipe.horizon :].T)
    if not columns:
        raise InvalidInput("没有任何特征", "no features are left", field="recipe", rule="at least one feature")
    return np.column_stack(columns)


def targets(values: ArrayLike, horizon: int) -> Floats:
    """What each origin is to forecast, (n,): the value `horizon` steps later; NaN for the last `horizon`."""
    at_least("horizon", horizon, 1)
    series = floats("values", values, ndim=1)
    return np.concatenate([series[horizon:], np.full(min(horizon, len(series)), np.nan)])


@dataclass(frozen=True)
class Model:
    """Trained models, one for each level; `predict(rows)` gives quantiles (n, q), ascending in each row."""

    levels: tuple[float, ...]
    boosters: tuple[HistGradientBoostingRegressor, ...]

    def predict(self, rows: ArrayLike) -> Floats:
        matrix = np.asarray(rows, dtype=np.float64)
        with threadpool_limits(1, "openmp"):
            return np.sort(np.column_stack([booster.predict(matrix) for booster in self.boosters]), axis=1)


def fit(
    rows: Floats, wanted: Floats, train: Ints, recipe: Recipe, *, seed: int, iterations: int = 200, rate: float = 0.05,
    leaves: int = 15, least: int = 20,
) -> Model:
    """Train on the origins `train` of `rows` (n, p) and `wanted` (n,), as `features` and `targets` made them; NaN targets are left out.

    `iterations` trees of at most `leaves` leaves with at least `least` samples each, at the learning `rate`; nothing is stopped early by
    chance: choose them on the validation part. The same seed gives the same model. One thread: on a machine with other work to do,
    threads that wait for each other took sixty times as long. `InvalidInput` with fewer than 2 x `least` samples.
    """
    chosen = train[~np.isnan(wanted[train])]
    at_least("len(train)", len(chosen), 2 * least)
    with threadpool_limits(1, "openmp"):
        boosters = tuple(
            HistGradientBoostingRegressor(
                loss="quantile", quantile=level, max_iter=iterations, learning_rate=rate, max_leaf_nodes=leaves,
                min_samples_leaf=least, early_stopping=False, random_state=seed,
            ).fit(rows[chosen], wanted[chosen])
            for level in recipe.levels
        )
    return Model(tuple(recipe.levels), boosters)


def persistence(values: ArrayLike) -> Floats:
    """What each origin (n,) says by persistence: its own value or, where that is missing, the last one before it."""
    series = floats("values", values, ndim=1)
    last = np.maximum.accumulate(np.where(np.isnan(series), -1, np.arange(len(series))))
    return np.where(last >= 0, series[np.maximum(last, 0)], np.nan)


def seasonal_persistence(values: ArrayLike, horizon: int, period: int) -> Floats:
    """What each origin (n,) says by the value of the target's phase one or more `period` steps earlier, the last that is known."""
    series = floats("values", values, ndim=1)
    at_least("horizon", horizon, 1)
    at_least("period", period, 1)
    back = -(-horizon // period) * period - horizon
    return np.concatenate([np.full(min(back, len(series)), np.nan), series[: max(len(series) - back, 0)]])


def climatology(
    values: ArrayLike, groups: ArrayLike, train: Ints, horizon: int, levels: Sequence[float] = (0.5,)
) -> Floats:
    """Quantiles (n, q) of the training targets of the same group, for the target of each origin.

    `groups` (n + horizon,): a number for each step, such as the hour of day, or month x 24 + hour. A group without a training target has
    the quantiles of all of them. `InvalidInput` for other lengths, or no training target.
    """
    wanted = targets(values, horizon)
    named = np.asarray(groups)
    if named.shape != (len(wanted) + horizon,):
        raise InvalidInput(
            f"groups 长度应为 {len(wanted) + horizon}", f"groups has not the length {len(wanted) + horizon}",
            field="groups", value=named.shape, rule="n + horizon",
        )
    of_target = named[horizon:]
    chosen = train[~np.isnan(wanted[train])]
    at_least("len(train)", len(chosen), 1)
    result = np.tile(np.quantile(wanted[chosen], levels), (len(wanted), 1))
    for group in np.unique(of_target[chosen]):
        result[of_target == group] = np.quantile(wanted[chosen][of_target[chosen] == group], levels)
    return result


def _inputs(field: str, values: ArrayLike, count: int) -> Floats:
    array = floats(field, values)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != count:
        raise InvalidInput(
            f"{field} 应有 {count} 行", f"{field} has not {count} rows", field=field, value=array.shape, rule=f"{count} rows"
        )
    return array
