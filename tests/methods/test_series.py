"""Series: robust baselines, decomposition, splits that cannot leak, scores. Series made up here are synthetic, with their seeds."""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from statsmodels.datasets import co2

from tulou.methods import baseline, scores, split
from tulou.methods.decompose import decompose
from tulou.methods.errors import InvalidInput

NUMBERS = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(-1e3, 1e3))


@given(NUMBERS, st.integers(2, 10))
def test_a_trailing_baseline_knows_nothing_of_now_or_later(values: np.ndarray, window: int) -> None:
    place = len(values) // 2
    changed = values.copy()
    changed[place:] = 1e6
    one, other = baseline.rolling(values, window), baseline.rolling(changed, window)
    np.testing.assert_equal(one.level[: place + 1], other.level[: place + 1])
    np.testing.assert_equal(one.scale[: place + 1], other.scale[: place + 1])


def test_a_baseline_is_median_and_scaled_mad() -> None:
    found = baseline.rolling([1, 2, 100, 4, 5, nan], 5)
    assert found.level[5] == 4
    assert found.scale[5] == pytest.approx(1.4826 * 2)
    assert np.isnan(found.level[:3]).all()  # fewer than three before
    centred = baseline.rolling([1, 2, 100, 4, 5], 3, centred=True)
    np.testing.assert_equal(centred.level, [1.5, 2, 4, 5, 4.5])
    with pytest.raises(InvalidInput):
        baseline.rolling([1, 2, 3], 4, centred=True)


def test_the_scale_of_a_normal_distribution_is_its_standard_deviation() -> None:
    values = np.random.default_rng(1).normal(0, 3, 2001)
    assert baseline.rolling(values, 2000).scale[-1] == pytest.approx(3, rel=0.05)


def test_anomalies_by_the_modified_z() -> None:
    """Iglewicz & Hoaglin: the example of their rule, 2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3: the two eights, which hide from the plain z."""
    values = np.array([2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3])
    assert np.flatnonzero(baseline.anomalies(values)).tolist() == [8, 9]
    assert np.abs((values - values.mean()) / values.std()).max() < 3
    assert np.flatnonzero(baseline.anomalies(values, consecutive=3)).tolist() == []
    assert baseline.anomalies([1.0, 1, 1, 1, 9, nan]).tolist() == [False, False, False, False, True, False]
    assert not baseline.anomalies([2.0, 2, 2]).any()
    assert not baseline.anomalies([nan, nan]).any()


@given(NUMBERS, st.floats(0.1, 10), st.floats(-100, 100))
def test_modified_z_has_no_unit(values: np.ndarray, factor: float, shift: float) -> None:
    values = np.round(values, 2)
    np.testing.assert_allclose(
        baseline.modified_z(values), baseline.modified_z(np.round(values * factor + shift, 12)), rtol=1e-4, atol=1e-4
    )


def test_carbon_dioxide_has_a_year_and_rises() -> None:
    """Weekly CO2 of Mauna Loa, 1958 to 2001, from statsmodels, with its gaps."""
    values = co2.load_pandas().data["co2"].to_numpy()[:1040]
    found = decompose(values, [52])
    there = ~np.isnan(values)
    np.testing.assert_allclose((found.trend + found.seasonal[:, 0] + found.residual)[there], values[there])
    assert np.isnan(found.residual[~there]).all()
    assert found.trend[0] == pytest.approx(315, abs=1)  # 1958
    assert found.trend[-1] == pytest.approx(335, abs=1)  # 1978
    assert 4 < np.ptp(found.seasonal[:, 0]) < 9


def test_two_seasons_and_a_spike_are_told_apart() -> None:
    """Synthetic hours of six weeks, seed 2: a day, a week, noise of 1, and one spike of 30."""
    hours = np.arange(6 * 168)
    day, week = 10 * np.sin(2 * np.pi * hours / 24), 5 * np.sin(2 * np.pi * hours / 168)
    values = 50 + day + week + np.random.default_rng(2).normal(0, 1, len(hours))
    values[500] += 30
    found = decompose(values, [24, 168])
    assert np.corrcoef(found.seasonal[:, 0], day)[0, 1] > 0.98
    assert np.corrcoef(found.seasonal[:, 1], week)[0, 1] > 0.9
    score = np.abs(baseline.modified_z(found.residual))
    assert score.argmax() == 500
    assert score[500] > 2 * np.sort(score)[-2]
    for periods in ([], [24, 24], [168, 24], [1]):
        with pytest.raises(InvalidInput):
            decompose(values, periods)
    with pytest.raises(InvalidInput, match="len"):
        decompose(values[:300], [24, 168])


@given(st.integers(20, 500), st.integers(1, 10), st.floats(0.2, 0.6), st.floats(0.1, 0.3), st.integers(0, 5))
def test_no_target_of_a_part_is_known_to_the_next(length: int, horizon: int, train: float, validation: float, warm: int) -> None:
    try:
        parts = split.by_time(length, horizon, train=train, validation=validation, warm_up=warm)
    except InvalidInput:
        return
    assert parts.train.min() >= warm
    assert parts.train.max() + horizon < parts.validation.min()
    assert parts.validation.max() + horizon < parts.held_out.min()
    assert parts.held_out.max() + horizon == length - 1


def test_a_series_too_short_for_its_horizon_is_refused() -> None:
    with pytest.raises(InvalidInput, match="too few"):
        split.by_time(30, 10)
    with pytest.raises(InvalidInput, match="sum below 1"):
        split.by_time(100, 1, train=0.8, validation=0.2)


def test_scores_of_points() -> None:
    observed, forecast = [1, 2, 3, nan], [2, 2, 1, 5]
    assert scores.bias(observed, forecast) == pytest.approx(-1 / 3)
    assert scores.mae(observed, forecast) == pytest.approx(1)
    assert scores.rmse(observed, forecast) == pytest.approx((5 / 3) ** 0.5)
    assert isnan(scores.mae([nan], [1]))
    with pytest.raises(InvalidInput, match="shape"):
        scores.mae([1, 2], [1])


def test_pinball_is_least_at_the_quantile() -> None:
    values = np.random.default_rng(3).exponential(size=4000)
    for level in (0.1, 0.5, 0.9):
        losses = [
            scores.pinball(values, np.full((4000, 1), np.quantile(values, at)), [level]).mean() for at in (level - 0.05, level, level + 0.05)
        ]
        assert min(losses) == losses[1]


def test_crps_of_one_level_is_the_absolute_error_and_of_many_that_of_the_distribution() -> None:
    """Of the standard normal at 0: 2 phi(0) - 1 / sqrt(pi) = 0.2337 (Gneiting et al. 2005, eq. 5)."""
    from scipy import stats

    assert scores.crps([3.0], [[5.0]], [0.5]).tolist() == [2.0]
    levels = np.arange(1, 1000) / 1000
    assert float(scores.crps([0.0], [stats.norm.ppf(levels)], levels)[0]) == pytest.approx(0.2337, abs=1e-3)
    with pytest.raises(InvalidInput, match="equally spaced"):
        scores.crps([0.0], [[0, 1]], [0.1, 0.9])


@given(NUMBERS, st.floats(0.1, 10))
def test_scores_have_the_unit_of_the_values(values: np.ndarray, factor: float) -> None:
    quantiles, levels = np.column_stack([values - 1, values, values + 2]), [0.25, 0.5, 0.75]
    observed = np.roll(values, 1)
    np.testing.assert_allclose(
        scores.crps(observed * factor, quantiles * factor, levels), scores.crps(observed, quantiles, levels) * factor, atol=1e-6
    )


def test_intervals() -> None:
    assert scores.coverage([1, 2, 3, nan], [1, 0, 4, 0], [1, 3, 5, 1]) == pytest.approx(2 / 3)
    assert scores.width([1, 0], [2, 3]) == 2


def test_skill_and_its_interval() -> None:
    reference = np.abs(np.random.default_rng(5).normal(size=500))
    found = scores.skill(reference / 2, reference, block=24, seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    own = np.abs(np.random.default_rng(6).normal(size=500))
    same = scores.skill(own, reference, block=24, seed=1)
    assert same.low < 0 < same.high
    assert same == scores.skill(own, reference, block=24, seed=1)
    assert same != scores.skill(own, reference, block=24, seed=2)
    assert isnan(scores.skill([1.0], [0.0], block=1, seed=1).value)


def test_blocks_keep_what_hangs_together() -> None:
    """Losses that hang together have wider intervals by blocks than one by one (synthetic, seed 7)."""
    slow = np.repeat(np.random.default_rng(7).exponential(size=40), 25)
    single, blocks = (scores.skill(slow, np.ones(1000), block=block, seed=1) for block in (1, 50))
    assert blocks.high - blocks.low > 2 * (single.high - single.low)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 100)), st.integers(1, 30))
def test_circular_blocks_count_every_value_as_often(values: np.ndarray, block: int) -> None:
    block = min(block, len(values))
    sums = scores._circular(values, block)
    assert len(sums) == len(values)
    assert sums.sum() == pytest.approx(values.sum() * block, abs=1e-6)
    assert sums[-1] == pytest.approx(values[-1] + values[: block - 1].sum(), abs=1e-6)
