"""The demo's publisher against a broker that nobody here wrote."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tulou.demo.publisher import Publisher, packet
from tulou.kernel.bus import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


@pytest.mark.parametrize(
    ("size", "length"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (16_384, b"\x80\x80\x01")]
)
def test_remaining_length(size: int, length: bytes) -> None:
    """MQTT 3.1.1, table 2.4."""
    assert packet(0x30, bytes(size))[: 1 + len(length)] == b"\x30" + length


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    (tmp_path / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([MOSQUITTO, "-c", tmp_path / "m.conf"], stderr=subprocess.DEVNULL)
    yield port
    process.kill()
    process.wait()


async def connected(port: int) -> Publisher:
    for _ in range(100):
        try:
            return await Publisher("127.0.0.1", port, "token").__aenter__()
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    raise AssertionError("no broker")


async def test_messages_are_acknowledged(broker: int) -> None:
    publisher = await connected(broker)
    await asyncio.gather(*(publisher.publish(b"x" * size) for size in (0, 1, 100, 200, 20_000) * 50))
    await publisher.__aexit__()


async def test_a_lost_connection_is_an_error(broker: int) -> None:
    publisher = await connected(broker)
    publisher._writer.transport.abort()
    with pytest.raises(ConnectionError):
        await publisher.publish(b"x")
    await publisher.__aexit__()
