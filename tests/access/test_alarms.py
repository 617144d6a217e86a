"""Alarms: silence of devices, and what is kept, announced and acknowledged."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tests.access.conftest import Estate, eventually
from tulou.access import Alarms
from tulou.access.alarms import absence
from tulou.access.models import alarms
from tulou.access.rules.evaluator import Change
from tulou.access.rules.models import Rule, Threshold

S = 1_000_000


def fake_directory(rows: list[tuple[int, int, int, int]]) -> Any:
    """The columns of a directory: (no, seen in s, timeout in s, device)."""
    from tulou.access.directory import Directory

    made = SimpleNamespace(
        no=np.array([r[0] for r in rows], np.int64), seen=np.array([r[1] * S for r in rows], np.int64),
        device=np.array([r[3] for r in rows], np.uint8), gone=np.zeros(len(rows), np.int64), size=len(rows),
        offline_after=lambda: np.array([r[2] for r in rows], np.int64),
    )
    made.rows = lambda nos: Directory.rows(made, nos)
    return made


def test_absence_is_raised_once_and_cleared_when_it_speaks() -> None:
    directory = fake_directory([(1, 100, 10, 1), (2, 100, 100, 1), (3, 0, 10, 1), (4, 100, 10, 0)])
    raised = absence(directory, 120 * S, 0, {})
    assert [(c.kind, c.entity) for c in raised] == [("raised", 1)]  # 2 has time, 3 never spoke, 4 has no device
    assert absence(directory, 120 * S, 0, {1: 0}) == []
    directory.seen[0] = 121 * S
    assert [(c.kind, c.entity) for c in absence(directory, 122 * S, 0, {1: 0})] == [("cleared", 1)]


def test_silence_while_the_house_did_not_listen_is_no_alarm() -> None:
    directory = fake_directory([(1, 100, 10, 1)])
    assert absence(directory, 1009 * S, 1000 * S, {}) == []
    assert [c.kind for c in absence(directory, 1011 * S, 1000 * S, {})] == ["raised"]


def test_the_alarm_of_a_deleted_thing_is_cleared() -> None:
    assert [(c.kind, c.entity) for c in absence(fake_directory([]), 0, 0, {9: 0})] == [("cleared", 9)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1)), min_size=1, max_size=20))
def test_absence_never_opens_twice(moves: list[tuple[int, int]]) -> None:
    directory = fake_directory([(1, 1, 10, 1)])
    is_open: dict[int, int] = {}
    now = S
    for step, speaks in moves:
        now += step * S
        if speaks:
            directory.seen[0] = now
        for change in absence(directory, now, 0, is_open):
            assert (change.kind == "raised") == (change.entity not in is_open)
            if change.kind == "raised":
                is_open[change.entity] = change.at
            else:
                assert is_open.pop(change.entity) == change.raised_at
        assert bool(is_open) == (now - int(directory.seen[0]) > 10 * S)


# --- in the house -------------------------------------------------------------------------------------------------


async def alarm_of(client: httpx.AsyncClient, no: int, state: str) -> Any:
    items = (await client.get("/alarms", params={"state": state, "no": no})).json()["items"]
    return items[0] if items else None


async def state_is(client: httpx.AsyncClient, no: int, state: str) -> bool:
    return bool((await client.get(f"/things/{no}")).json()["state"] == state)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_value_raises_and_clears_an_alarm(estate: Estate, lin: httpx.AsyncClient) -> None:
    made = await estate.device(lin, "fuzhou", "well-1", type="Manhole")
    inbox = await estate.house.bus.js.subscribe("tulou.events.alarm.>", ordered_consumer=True)
    await estate.say(made, tilt=20)
    found = await eventually(lambda: alarm_of(lin, made["no"], "open"))
    assert (found["property"], found["rule"], found["severity"], found["value"]) == ("tilt", "above", "critical", 20.0)
    assert (found["entity_id"], found["name"], found["synthetic"]) == (made["entity_id"], "站 well-1", False)
    await eventually(lambda: state_is(lin, made["no"], "alarm"))
    assert (await lin.get("/overview")).json()["counters"]["alarms_open"] >= 1
    await estate.say(made, tilt=25)

    async def worse() -> bool:
        return bool((await alarm_of(lin, made["no"], "open"))["value"] == 25.0)

    await eventually(worse)
    await estate.say(made, tilt=10)  # between clear and the bound: still open
    await asyncio.sleep(1.2)
    assert (await alarm_of(lin, made["no"], "open"))["value"] == 25.0
    await estate.say(made, tilt=2)
    cleared = await eventually(lambda: alarm_of(lin, made["no"], "cleared"))
    assert cleared["id"] == found["id"]
    await eventually(lambda: state_is(lin, made["no"], "ok"))
    events = [await inbox.next_msg(5) for _ in range(2)]
    assert [e.subject.rsplit(".", 1)[1] for e in events] == ["raised", "cleared"]
    assert orjson.loads(events[0].data)["id"] == found["id"]
    query = sa.select(alarms.c.announced).where(alarms.c.id == found["id"])

    async def announced() -> bool:
        return bool(await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 2)

    await eventually(announced)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_alarm_is_acknowledged_by_its_own_organisation(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, yang: httpx.AsyncClient
) -> None:
    made = await estate.device(lin, "fuzhou", "well-2", type="Manhole", synthetic=True)
    await estate.say(made, tilt=90)
    found = await eventually(lambda: alarm_of(lin, made["no"], "open"))
    assert found["synthetic"]
    path = f"/alarms/{found['id']}/acknowledge"
    nowhere = f"/alarms/{found['id'] + 10**6}/acknowledge"
    theirs, absent = await chen.post(path), await chen.post(nowhere)
    assert theirs.status_code == absent.status_code == 404
    assert theirs.text.replace(str(found["id"]), "?") == absent.text.replace(str(found["id"] + 10**6), "?")
    assert (await chen.get("/alarms", params={"count": 1})).json()["count"] == 0
    assert (await chen.get("/alarms", params={"no": made["no"], "count": 1})).json()["count"] == 0
    assert (await yang.post(path)).status_code == 403
    first = (await lin.post(path)).json()
    assert first["acknowledged_by"] == "user:lin"
    again = (await lin.post(path)).json()
    assert again["acknowledged_at"] == first["acknowledged_at"]


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_crash_kept_back_is_announced(estate: Estate, lin: httpx.AsyncClient) -> None:
    service = estate.house.service(Alarms)
    found = await eventually(lambda: alarm_of(lin, (await_no(estate, "well-2")), "open"))
    undo = alarms.update().where(alarms.c.id == found["id"]).values(announced=0)
    await estate.house.db.write(lambda c: c.execute(undo) and None)
    await service.announce()
    query = sa.select(alarms.c.announced).where(alarms.c.id == found["id"])
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1


def await_no(estate: Estate, key: str) -> int:
    """The number of a thing by the end of its id."""
    from tulou.access import Directory

    directory = estate.house.service(Directory)
    return int(directory.no[next(i for i, name in enumerate(directory.ids) if name.endswith(key))])


@pytest.mark.asyncio(loop_scope="module")
async def test_writing_the_same_changes_again_changes_nothing(estate: Estate, lin: httpx.AsyncClient) -> None:
    no = await_no(estate, "well-1")
    service = estate.house.service(Alarms)
    rule = Rule("above", "Manhole", Threshold(property="waterLevel", above=1), "major")
    raised = Change("raised", no, rule, 2.0, 10**15, 10**15)
    for _ in range(3):
        await service.apply([raised])
    query = sa.select(sa.func.count()).select_from(alarms).where(
        alarms.c.entity_no == no, alarms.c.property == "waterLevel"
    )
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1
    for _ in range(2):
        await service.apply([raised._replace(kind="cleared")])
    assert await estate.house.db.read(lambda c: c.execute(query).scalar_one()) == 1
