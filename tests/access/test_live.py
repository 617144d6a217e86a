"""The live stream: what it carries, to whom, and how it ends. Over real HTTP, because a stream is more than its bytes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from tests.access.conftest import Estate, eventually
from tulou.access import Hub
from tulou.access.live import BEHIND, ITEMS, Batch, Client
from tulou.kernel.policy import Orgs

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVERYTHING = Orgs(True, frozenset())


class Page:
    """A page that listens; its events by kind."""

    def __init__(self, address: str, session: httpx.AsyncClient) -> None:
        self.url, self.cookies = f"{address}/live", dict(session.cookies)
        self.events: dict[str, list[Any]] = {"counters": [], "latest": [], "alarm": []}
        self.ended = False
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async with (
            httpx.AsyncClient(cookies=self.cookies, timeout=None) as client,
            client.stream("GET", self.url) as answer,
        ):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    self.events[kind].append(json.loads(line[6:]))
        self.ended = True

    def readings(self) -> list[dict[str, Any]]:
        return [item for batch in self.events["latest"] for item in batch]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_counters_values_and_alarms_arrive(estate: Estate, lin: httpx.AsyncClient, address: str) -> None:
    made = await estate.device(lin, "fuzhou", "live-1", type="Manhole")
    page = Page(address, lin)
    try:
        await eventually(lambda: _done(page.events["counters"]))
        await estate.say(made, tilt=45, coverOpen=True)

        async def told() -> bool:
            return bool(page.events["alarm"]) and {"tilt", "coverOpen"} <= {r["property"] for r in page.readings()}

        await eventually(told)
        values = {r["property"]: r["value"] for r in page.readings() if r["no"] == made["no"]}
        assert values == {"tilt": 45, "coverOpen": True}
        assert all(abs(r["ts"] / 1000 - time.time()) < 60 for r in page.readings())
        alarm = page.events["alarm"][0]
        assert (alarm["no"], alarm["property"], alarm["cleared_at"]) == (made["no"], "tilt", None)
        count = len(page.events["counters"])
        await asyncio.sleep(3)
        assert 2 <= len(page.events["counters"]) - count <= 4
        assert page.events["counters"][-1]["online"] >= 1
    finally:
        await page.close()


async def _done(value: Any) -> bool:
    return bool(value)


async def test_another_organisation_hears_nothing(
    estate: Estate, lin: httpx.AsyncClient, chen: httpx.AsyncClient, address: str
) -> None:
    mine = await estate.device(lin, "fuzhou", "live-mine", type="Manhole")
    own = await estate.device(chen, "xiamen", "live-own", type="Manhole")
    theirs, ours = Page(address, chen), Page(address, lin)
    try:
        await eventually(lambda: _done(theirs.events["counters"] and ours.events["counters"]))
        await estate.say(mine, tilt=80)
        await estate.say(own, tilt=80)
        await eventually(lambda: _done(ours.events["alarm"] and theirs.events["alarm"]))
        await eventually(lambda: _done(ours.readings() and theirs.readings()))
        assert {r["no"] for r in theirs.readings()} == {own["no"]}
        assert {a["org"] for a in theirs.events["alarm"]} == {"xiamen"}
        assert own["no"] not in {r["no"] for r in ours.readings()}

        async def counted() -> bool:
            return bool(theirs.events["counters"][-1]["readings_total"] == 1)

        await eventually(counted)
        assert theirs.events["counters"][-1]["entities"] == 1
    finally:
        await theirs.close()
        await ours.close()


async def test_the_stream_ends_with_the_session(
    estate: Estate, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tulou.access.live.RECHECK", 0.2)
    session = await estate.person("brief", "fuzhou", "viewer")
    page = Page(address, session)
    await eventually(lambda: _done(page.events["counters"]))
    assert (await session.delete("/session")).status_code == 204

    async def over() -> bool:
        return page.ended

    await eventually(over)
    again = await httpx.AsyncClient(cookies=page.cookies).get(page.url)
    assert again.status_code == 401


async def test_a_client_that_leaves_is_forgotten(estate: Estate, lin: httpx.AsyncClient, address: str) -> None:
    hub = estate.house.service(Hub)

    async def alone() -> bool:
        return not hub.clients

    await eventually(alone)
    pages = [Page(address, lin) for _ in range(5)]

    async def all_here() -> bool:
        return len(hub.clients) == 5

    await eventually(all_here)
    for page in pages:
        await page.close()
    await eventually(alone)


async def test_a_slow_client_holds_a_bounded_amount_and_ends_at_the_newest() -> None:
    client = Client(EVERYTHING, EVERYTHING)
    for n in range(1000):
        client.batches.append(Batch({(no, "p"): str(n).encode() for no in range(10)}))
        client.alarms.append(str(n).encode())
        client.counters = b"{}"
    assert len(client.batches) == BEHIND
    text = client.take().decode()
    latest = json.loads(text.split("event: latest\ndata: ")[1].split("\n\n")[0])
    assert latest == [999] * 10
    assert text.count("event: counters") == 1
    assert text.count("event: alarm") == 200
    assert client.take() == b""


async def test_one_event_is_bounded(estate: Estate, lin: httpx.AsyncClient) -> None:
    hub = estate.house.service(Hub)
    made = await estate.device(lin, "fuzhou", "flood")
    taken = {(made["no"], f"p{i}"): (made["no"], f"p{i}", i, 1.0) for i in range(ITEMS * 2)}
    batch = hub._batch(taken, EVERYTHING)
    assert batch is not None
    assert len(batch.latest) == ITEMS
    assert hub._batch(taken, Orgs(False, frozenset({"xiamen"}))) is None
    assert hub._batch({(10**12, "p"): (10**12, "p", 1, 1.0)}, EVERYTHING) is None
