"""The background tasks of a house: they end when told to, begin anew after a pause, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tulou.kernel import bus as kernel_bus
from tulou.kernel.errors import Unavailable
from tulou.kernel.house import House, Task


class Probe:
    """A task of the role `writer` that counts its beginnings and endings."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.began = self.ended = 0
        self.running, self.again = asyncio.Event(), asyncio.Event()

    async def run(self, _house: House) -> None:
        self.began += 1
        self.running.set()
        if self.began == 2:
            self.again.set()
        try:
            await self.work()
        finally:
            self.running.clear()
            self.ended += 1

    async def work(self) -> None:
        await asyncio.Event().wait()

    async def begin(self) -> None:
        self.house._begin(Task("probe", "writer", self.run))
        await self.running.wait()


async def test_what_is_paused_begins_anew(kernel: House) -> None:
    probe = Probe(kernel)
    await probe.begin()
    async with kernel.paused("writer"):
        assert (probe.began, probe.ended) == (1, 1)
    await probe.running.wait()
    assert (probe.began, probe.ended) == (2, 1)


async def test_a_lost_cancellation_is_said_again(kernel: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.wait_for` of Python 3.11 returns the result, and forgets the cancellation, when both come together."""
    monkeypatch.setattr(kernel_bus, "PATIENCE", 0.1)

    class Forgetful(Probe):
        async def work(self) -> None:
            if self.began == 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            await asyncio.Event().wait()

    probe = Forgetful(kernel)
    await probe.begin()
    async with asyncio.timeout(20), kernel.paused("writer"):
        assert probe.ended == 1


async def test_a_task_that_fails_while_it_ends_is_not_begun_anew(kernel: House) -> None:
    class Fails(Probe):
        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ConnectionError("the bus is away")

    probe = Fails(kernel)
    await probe.begin()
    async with asyncio.timeout(20), kernel.paused("writer"):
        await asyncio.sleep(0.3)  # longer than the pause before a failed task begins anew
        assert (probe.began, probe.ended) == (1, 1)


async def test_who_asked_for_the_pause_may_go_away(kernel: House) -> None:
    """A backup's client that hangs up while the writer still stores: the writer is there again afterwards, once."""
    release = asyncio.Event()

    class Slow(Probe):
        async def work(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await release.wait()

    async def backup() -> None:
        async with kernel.paused("writer"):
            raise AssertionError("it was not let wait")

    probe = Slow(kernel)
    await probe.begin()
    asked = asyncio.create_task(backup())
    await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert (probe.began, probe.ended) == (1, 0)
    release.set()
    await probe.again.wait()
    assert (probe.began, probe.ended) == (2, 1)


async def test_stop_during_a_pause_waits_for_what_ends(kernel: House) -> None:
    probe = Probe(kernel)
    await probe.begin()
    async with kernel.paused("writer"):
        await kernel.stop()
    assert (probe.began, probe.ended) == (1, 1)


async def test_a_write_after_the_end_is_refused(kernel: House) -> None:
    await kernel.db.close()
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await kernel.db.write(lambda _connection: None)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(kernel.db.write_soon(lambda _connection: None).result)
