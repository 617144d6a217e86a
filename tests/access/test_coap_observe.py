"""What devices read and observe over CoAP in a whole house: attributes, and commands with their answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiocoap
import httpx
import orjson
import pytest

from tests.access import test_shadow
from tests.access.conftest import Estate
from tests.access.test_coap import Thing
from tests.access.test_coap_house import Door
from tulou.access.coap import message as m
from tulou.access.coap.message import Message

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


class Observing:
    """A device that speaks CoAP by aiocoap: what it observes, and what came of it."""

    def __init__(self, context: aiocoap.Context, uri: str) -> None:
        self.context, self.uri = context, uri

    async def get(self, path: str, **options: Any) -> Any:
        return await self.context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{self.uri}/{path}", **options)).response

    async def post(self, path: str, payload: bytes) -> Any:
        return await self.context.request(aiocoap.Message(code=aiocoap.POST, uri=f"{self.uri}/{path}", payload=payload)).response

    async def observe(self, path: str) -> tuple[Any, AsyncIterator[Any], Any]:
        """The first answer, what follows, and the request that ends it."""
        asked = self.context.request(aiocoap.Message(code=aiocoap.GET, uri=f"{self.uri}/{path}", observe=0))
        async with asyncio.timeout(20):
            return await asked.response, aiter(asked.observation), asked


async def next_of(following: AsyncIterator[Any]) -> Any:
    async with asyncio.timeout(20):
        return await anext(following)


@contextlib.asynccontextmanager
async def observing(estate: Estate, device: dict[str, Any]) -> AsyncIterator[Observing]:
    context = await aiocoap.Context.create_client_context()
    try:
        yield Observing(context, f"coap://127.0.0.1:{estate.house.settings.coap_port}/api/v1/{device['token']}")
    finally:
        await context.shutdown()


async def desire(client: httpx.AsyncClient, device: dict[str, Any], **values: Any) -> None:
    answer = await test_shadow.desire(client, device, **values)
    assert answer.status_code == 200, answer.text


@pytest.mark.conformance
async def test_a_device_observes_what_it_is_to_be(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "observes", type="Device")
    async with observing(estate, device) as thing:
        first, following, asked = await thing.observe("attributes")
        assert (first.code, first.payload, first.opt.observe is not None) == (aiocoap.CONTENT, b"{}", True)
        await desire(lin, device, interval=30)
        assert orjson.loads((await next_of(following)).payload) == {"interval": 30}
        await desire(lin, device, mode="节能")
        assert orjson.loads((await next_of(following)).payload) == {"interval": 30, "mode": "节能"}
        assert (await thing.post("attributes", b'{"interval": 30}')).code == aiocoap.CHANGED
        await estate.latest(lin, device, "interval", 30)
        await desire(lin, device, mode=None)
        assert orjson.loads((await next_of(following)).payload) == {}
        whole = await thing.get("attributes")
        assert orjson.loads(whole.payload)["shared"] == {"interval": 30}
        named = await thing.context.request(
            aiocoap.Message(code=aiocoap.GET, uri=f"{thing.uri}/attributes?sharedKeys=interval")
        ).response
        assert orjson.loads(named.payload) == {"shared": {"interval": 30}}
        asked.observation.cancel()


async def test_a_large_answer_comes_in_blocks(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "blocks", type="Device")
    values = {f"setting{number:03}": "x" * 40 for number in range(80)}
    await desire(lin, device, **values)
    async with observing(estate, device) as thing:
        assert orjson.loads((await thing.get("attributes")).payload)["shared"] == values
        refused, _, _ = await thing.observe("attributes")
        assert refused.code == aiocoap.REQUEST_ENTITY_TOO_LARGE


@pytest.mark.conformance
async def test_commands_are_observed_one_after_another_and_answered(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "commanded", type="Device")
    path = f"/devices/{device['id']}/commands"

    async def send(method: str, **more: Any) -> dict[str, Any]:
        answer = await lin.post(path, params={"wait": 20}, json={"method": method, "params": {"n": 1}, **more})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async with observing(estate, device) as thing:
        assert (await thing.get("rpc")).code == aiocoap.BAD_REQUEST
        first, following, asked = await thing.observe("rpc")
        assert (first.code, first.payload) == (aiocoap.CONTENT, b"")
        sent = [asyncio.create_task(send("open")), asyncio.create_task(send("close"))]
        for _ in sent:
            told = orjson.loads((await next_of(following)).payload)
            assert told["params"] == {"n": 1}
            result = orjson.dumps({"did": told["method"]})
            assert (await thing.post(f"rpc/{told['id']}", result)).code == aiocoap.CHANGED
        done = await asyncio.gather(*sent)
        assert [(one["state"], one["result"]["did"]) for one in done] == [("done", "open"), ("done", "close")]
        assert (await send("later", answer=False))["state"] == "done"
        assert orjson.loads((await next_of(following)).payload)["method"] == "later"
        large = await send("write", params={"text": "x" * 1100})
        assert large["state"] == "failed"
        assert "1024" in large["error"]
        assert (await thing.post("rpc/999999999", b"1")).code == aiocoap.CHANGED
        asked.observation.cancel()


async def test_a_reset_ends_it_and_so_does_another_token(estate: Estate, lin: httpx.AsyncClient) -> None:
    device = await estate.device(lin, "fuzhou", "ends", type="Device")
    thing = await Thing.connect(Door(estate.house.settings.coap_port))  # type: ignore[arg-type]

    def ask(number: int, token: bytes, *options: tuple[int, bytes]) -> None:
        path = m.path_options(["api", "v1", device["token"], "attributes"])
        thing.transport.sendto(Message(m.CON, m.GET, number, token, [*path, *options]).encode())

    async def told(many: int) -> list[Message]:
        return sorted([await thing.answer() for _ in range(many)], key=lambda one: one.token)

    for number in range(6):
        ask(number, b"t%d" % number, (m.OBSERVE, b""))
        assert (await thing.answer()).uint(m.OBSERVE) is not None
    ask(9, b"t5", (m.OBSERVE, m.uint(1)))
    assert (await thing.answer()).uint(m.OBSERVE) is None
    await desire(lin, device, interval=5)
    first = await told(3)  # four observations of a device, less one
    assert [(one.kind, one.token, one.payload) for one in first] == [
        (m.CON, token, b'{"interval":5}') for token in (b"t2", b"t3", b"t4")
    ]
    for one in first:
        thing.transport.sendto(Message(m.RST if one.token == b"t2" else m.ACK, 0, one.id).encode())
    await desire(lin, device, interval=6)
    second = await told(2)
    assert [one.token for one in second] == [b"t3", b"t4"]
    for one in second:
        thing.transport.sendto(Message(m.ACK, 0, one.id).encode())
    assert (await lin.post(f"/devices/{device['id']}/token")).status_code == 200
    assert [(one.code, one.token) for one in await told(2)] == [(m.UNAUTHORIZED, b"t3"), (m.UNAUTHORIZED, b"t4")]
