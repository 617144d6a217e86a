"""What the base models promise: ranges that hold, alarms within them, and a word for everything."""

import math

from tulou.kernel.packs import Pack


def test_alarms_lie_within_the_range_of_their_property(pack: Pack) -> None:
    for kind, model in pack.models.items():
        for name, one in model.properties.items():
            if one.alarm is None:
                continue
            low, high = one.min if one.min is not None else -math.inf, one.max if one.max is not None else math.inf
            bounds = [bound for bound in (one.alarm.above, one.alarm.below, one.alarm.clear) if bound is not None]
            assert bounds, f"{kind}.{name}"
            assert all(low <= bound <= high for bound in bounds), f"{kind}.{name}"


def test_every_type_says_when_it_is_silent_and_how_long_its_readings_are_kept(pack: Pack) -> None:
    for kind, model in pack.models.items():
        assert model.offline_after_s >= 60, kind
        assert model.retention_days, kind
