"""Standings and scores: what counts, and that the same inputs give the same bytes."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from tulou.kernel.plugins import plugins, read_packs
from tulou.plan.document import load_plan
from tulou.plan.queries import Definition, canonical, digest
from tulou.plan.scores import (
    DefinitionVersion,
    Measurement,
    Report,
    Standing,
    achievement,
    recomputed,
    score_document,
    standing,
)

PLAN = load_plan(read_packs(plugins()))
NOW = dt.datetime(2022, 12, 1, 8, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
QUERY = Definition.model_validate(
    {"query": {"count": {"types": ["*"], "reported_within_days": 7}}, "note_zh": "说明", "note_en": "note"}
)
NO_QUERY = Definition(query="none", note_zh="测不了。", note_en="It cannot be measured.")


def version(number: int, since: dt.datetime, definition: Definition = QUERY) -> DefinitionVersion:
    return DefinitionVersion(number, definition, since, "user:a", "house")


def measured(key: int, value: int | None, as_of: dt.datetime, version: int = 1) -> Measurement:
    return Measurement(key, version, as_of, None if value is None else Decimal(value), 10, 7, as_of)


def report(key: int, value: int, as_of: dt.datetime, decided: dt.datetime) -> Report:
    return Report(key, Decimal(value), as_of, decided, "甲", "乙")


FIRST = version(1, NOW - 100 * DAY)


def test_a_measurement_beats_a_report_and_says_so() -> None:
    now = standing([FIRST], [measured(1, 7, NOW - DAY)], [report(1, 9, NOW - DAY, NOW)], NOW)
    assert (now.state, now.value, now.source) == ("measured", 7, "measurement:1")
    assert "10" in now.why_en
    assert "7" in now.why_en
    assert "9" in now.why_en


def test_the_newest_approved_report_counts_where_nothing_is_measured() -> None:
    reports = [report(1, 5, NOW - 9 * DAY, NOW - 8 * DAY), report(2, 6, NOW - 3 * DAY, NOW - 2 * DAY)]
    now = standing([version(1, NOW - 100 * DAY, NO_QUERY)], [], reports, NOW)
    assert (now.state, now.value, now.as_of) == ("reported", 6, NOW - 3 * DAY)
    assert "甲" in now.why_zh
    assert "乙" in now.why_zh
    assert "cannot be measured" in now.why_en


def test_without_either_there_is_no_data_and_a_reason() -> None:
    for measurements in ([], [measured(1, None, NOW - DAY)], [measured(1, 5, NOW - 8 * DAY)]):
        now = standing([FIRST], measurements, [], NOW)
        assert (now.state, now.value) == ("no_data", None)
        assert now.why_zh
        assert now.why_en
    assert standing([], [], [], NOW).state == "no_data"


def test_a_measurement_by_an_older_definition_does_not_count() -> None:
    versions = [FIRST, version(2, NOW - 2 * DAY)]
    assert standing(versions, [measured(1, 7, NOW - 3 * DAY)], [], NOW).state == "no_data"
    assert standing(versions, [measured(1, 7, NOW - 3 * DAY)], [], NOW - 3 * DAY).state == "measured"
    assert standing(versions, [measured(2, 8, NOW - DAY, version=2)], [], NOW).value == 8


def test_only_what_was_known_then_counts() -> None:
    late = report(1, 5, NOW - 9 * DAY, NOW - DAY)
    assert standing([FIRST], [], [late], NOW - 2 * DAY).state == "no_data"
    assert standing([FIRST], [], [late], NOW).state == "reported"


def test_achievement_is_capped_and_zero_without_data() -> None:
    assert achievement(None, Decimal(3)) == 0
    assert achievement(Decimal(1), Decimal(3)) == Decimal("0.333333")
    assert achievement(Decimal(9), Decimal(3)) == 1


def standings(values: dict[str, Decimal | None]) -> dict[str, Standing]:
    return {
        key: Standing("no_data" if value is None else "reported", value, None if value is None else NOW, 1, "", "", "")
        for key, value in values.items()
    }


def test_the_formula() -> None:
    values: dict[str, Decimal | None] = dict.fromkeys(PLAN.targets)
    values |= {"5g-stations": Decimal(40_000), "ipv6-users": Decimal(60), "internet-hospitals": Decimal(25)}
    document = score_document(PLAN, standings(values), NOW)
    tasks = {task["id"]: task for task in document["tasks"]}
    assert tasks["N1"]["score"] == 37.5, "half of one target and the whole of another, of four"
    assert tasks["F6"]["score"] == 100
    assert tasks["N4"]["score"] is None, "a task without targets is not scored"
    assert tasks["N2"]["score"] == 0, "no data is worth nothing"
    assert document["score"] == 12.5, "(37.5 + 100) / 11 tasks with targets"
    targets = {row["id"]: row for row in tasks["N1"]["targets"]}
    assert (targets["ipv6-users"]["achievement"], targets["ipv6-users"]["met"]) == (1, False), "over 60, not 60"
    assert document["counts"] == {"measured": 0, "reported": 3, "no_data": 18}


amounts = st.none() | st.decimals(min_value=0, max_value=10**17, places=6)


@given(st.lists(amounts, min_size=21, max_size=21), st.integers())
def test_the_same_inputs_give_the_same_bytes_and_anyone_can_recompute(values: list[Decimal | None], seed: int) -> None:
    pairs = list(zip(PLAN.targets, values, strict=True))
    document = score_document(PLAN, standings(dict(pairs)), NOW)
    random.Random(seed).shuffle(pairs)
    again = score_document(PLAN, standings(dict(pairs)), NOW)
    assert canonical(again) == canonical(document)
    assert digest(recomputed(document)) == digest(document)
    assert document["score"] is not None
    assert 0 <= document["score"] <= 100


@given(st.sampled_from(sorted(PLAN.targets)), st.decimals(min_value=0, max_value=10**9, places=3))
def test_more_is_never_worth_less(target: str, more: Decimal) -> None:
    values: dict[str, Decimal | None] = dict.fromkeys(PLAN.targets, Decimal(1))
    before = score_document(PLAN, standings(values), NOW)["score"]
    after = score_document(PLAN, standings(values | {target: 1 + more}), NOW)["score"]
    assert after >= before
