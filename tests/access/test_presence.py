"""Presence: a function of two times and a timeout."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.presence import ALARM, OFFLINE, OK, SECOND, online, states

moments = st.integers(1, 4_000_000_000 * SECOND)
timeouts = st.integers(1, 1_000_000)


@given(moments, timeouts)
def test_the_timeout_is_inclusive(seen: int, after: int) -> None:
    assert online(seen, seen, after)
    assert online(seen, seen + after * SECOND, after)
    assert not online(seen, seen + after * SECOND + 1, after)


@given(moments, timeouts)
def test_what_was_never_heard_is_offline(now: int, after: int) -> None:
    assert not online(0, now, after)


@given(st.lists(moments, min_size=1, max_size=20), timeouts, moments)
def test_never_offline_while_it_speaks_never_online_after(spoken: list[int], after: int, now: int) -> None:
    """Only the last sign of life counts, whatever came before it."""
    heard = [t for t in spoken if t <= now]
    seen = max(heard, default=0)
    lively = any(now - t <= after * SECOND for t in heard)
    assert bool(online(seen, now, after)) == lively


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 20), st.booleans(), st.integers(0, 3)), max_size=30))
def test_columns_agree_with_numbers(rows: list[tuple[int, int, bool, int]]) -> None:
    now = 100 * SECOND
    seen = np.array([s * SECOND for s, *_ in rows], np.int64)
    after = np.array([a for _, a, *_ in rows], np.int64)
    device = np.array([d for *_, d, _ in rows], np.uint8)
    alarms = np.array([n for *_, n in rows], np.int32)
    for (s, a, d, n), state in zip(rows, states(seen, now, after, device, alarms).tolist(), strict=True):
        if d and not online(s * SECOND, now, a):
            assert state == OFFLINE
        else:
            assert state == (ALARM if n else OK)
