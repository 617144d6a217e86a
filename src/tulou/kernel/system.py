"""The house about itself: health, the system page, `tulou status | doctor | config | backup | restore`.

Law: the doctor needs no running house and changes nothing; every finding says in both languages what was seen, and
what to do when it is not well.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tulou import __version__
from tulou.kernel import backup
from tulou.kernel.audit import audit_log
from tulou.kernel.bus import nats_server_binary
from tulou.kernel.errors import TulouError
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.http import API, json_response, route
from tulou.kernel.policy import ROOT, Actor, operation
from tulou.kernel.settings import Settings

if TYPE_CHECKING:
    from tulou.kernel.house import Check, House

Finding = tuple[bool, str, str]

DISK_FREE = 5 << 30
FILES = 4096
RELEASED = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
"""No clock is right that is before this."""


class System:
    """Figures and checks of a running house."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy

    @operation("house.system.read")
    async def show(self, actor: Actor) -> dict[str, Any]:
        """Version, processes, stores and checks, as the system page shows them."""
        self.policy.require(actor, "house.system.read", ROOT)
        house = self.house
        return {
            "version": __version__, "uptime_s": round(time.time() - house.began, 1), "roles": list(house.roles),
            "processes": self._processes(), "bus": await self._bus(), "sql": await self._sql(),
            "readings": await self._readings(),
            **house.figures(), "checks": await self.checks(),
        }

    async def checks(self) -> list[dict[str, Any]]:
        """Every check that plugins contribute, run side by side; one that hangs for ten seconds is not well."""
        found: list[Check] = [c for part in reversed(self.house.hooks.hook.checks(house=self.house)) for c in part]

        async def run(check: Check) -> dict[str, Any]:
            try:
                async with asyncio.timeout(10):
                    ok, zh, en = await check.run()
            except TimeoutError:
                ok, zh, en = False, "十秒内没有回答", "no answer in ten seconds"
            except TulouError as error:
                ok, zh, en = False, error.zh, error.en
            except Exception as error:
                ok, zh, en = False, f"检查失败：{type(error).__name__}", f"check failed: {type(error).__name__}"
            return {"name": check.name, "ok": ok, "zh": zh, "en": en}

        return list(await asyncio.gather(*[run(check) for check in found]))

    def _processes(self) -> list[dict[str, Any]]:
        from tulou.kernel.house import rss_bytes

        mine = os.getpid()
        rows = [{"name": "main", "pid": mine, "rss": rss_bytes(mine), "restarts": 0}]
        for child in self.house.children:
            pid = child.pid
            rows.append(
                {"name": child.name, "pid": pid, "rss": rss_bytes(pid) if pid else 0, "restarts": child.restarts}
            )
        return rows

    async def _bus(self) -> dict[str, Any]:
        if not hasattr(self.house, "bus"):
            return {"connected": False, "streams": []}
        streams: list[dict[str, Any]] = []
        for part in self.house.hooks.hook.streams(house=self.house):
            for spec in part:
                try:
                    state = (await self.house.bus.js.stream_info(spec.name)).state
                except Exception as error:
                    streams.append({"name": spec.name, "error": type(error).__name__})
                    continue
                streams.append(
                    {"name": spec.name, "messages": state.messages, "bytes": state.bytes, "max_bytes": spec.max_bytes}
                )
        return {"connected": self.house.bus.nc.is_connected, "streams": streams}

    async def _readings(self) -> dict[str, Any]:
        engine = "clickhouse" if self.house.settings.clickhouse_url else "chdb"
        if not hasattr(self.house, "readings"):
            return {"engine": engine}
        try:
            return {"engine": engine, **await self.house.readings.health(), "tables": await self.house.readings.disk_usage()}
        except TulouError as error:
            return {"engine": engine, "error": error.en}

    async def _sql(self) -> dict[str, Any]:
        db = self.house.db
        size = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if db.dialect == "sqlite" else "SELECT pg_database_size(current_database())"
        )
        return {"dialect": db.dialect, "bytes": await db.read(lambda c: c.execute(sa.text(size)).scalar_one())}


# --- checks of a running house ------------------------------------------------------------------------------------


@hookimpl
def checks(house: House) -> Sequence[Check]:
    """Stores, disk, clock, certificate of the running house."""
    from tulou.kernel.house import Check

    async def sql() -> Finding:
        began = time.perf_counter()
        newest = await house.db.read(lambda c: c.execute(sa.select(sa.func.max(audit_log.c.at))).scalar())
        if newest is not None and newest > dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5):
            return False, "时钟早于最近的审计记录，请校时", "the clock is before the newest audit row; set it right"
        took = (time.perf_counter() - began) * 1000
        return True, f"{house.db.dialect}，应答 {took:.1f} 毫秒", f"{house.db.dialect} answers in {took:.1f} ms"

    async def bus() -> Finding:
        if not house.bus.nc.is_connected:
            return False, "与 NATS 的连接已断开", "the connection to NATS is down"
        began = time.perf_counter()
        await house.bus.nc.flush(5)
        took = (time.perf_counter() - began) * 1000
        return True, f"NATS 应答 {took:.1f} 毫秒", f"NATS answers in {took:.1f} ms"

    async def readings() -> Finding:
        began = time.perf_counter()
        health = await house.readings.health()
        if not health["ok"]:
            return False, f"读数库不可用：{health['error']}", f"the readings store is away: {health['error']}"
        took = (time.perf_counter() - began) * 1000
        return True, f"读数库应答 {took:.1f} 毫秒", f"the readings store answers in {took:.1f} ms"

    def later(check: Callable[[Settings], Finding]) -> Callable[[], Awaitable[Finding]]:
        return lambda: asyncio.to_thread(check, house.settings)

    found = [
        Check("kernel.sql", sql), Check("kernel.disk", later(disk_space)), Check("kernel.clock", later(clock)),
        Check("kernel.certificate", later(certificate)), Check("kernel.files", later(open_files)),
    ]
    if hasattr(house, "bus"):
        found.append(Check("kernel.bus", bus))
    if hasattr(house, "readings"):
        found.append(Check("kernel.readings", readings))
    return found


# --- the doctor's checks: of the machine and the settings ---------------------------------------------------------


def python_version(_settings: Settings) -> Finding:
    """Python 3.11 or newer."""
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return ok, f"Python {version}" + ("" if ok else "，需要 3.11 以上"), f"Python {version}" + ("" if ok else ", needs 3.11")


def sqlite_version(_settings: Settings) -> Finding:
    """SQLite 3.35 or newer (RETURNING, window functions, WAL fixes)."""
    ok = sqlite3.sqlite_version_info >= (3, 35)
    text = f"SQLite {sqlite3.sqlite_version}"
    return ok, text + ("" if ok else "，需要 3.35 以上"), text + ("" if ok else ", needs 3.35")


def write_permission(settings: Settings) -> Finding:
    """The home, or the folder it will be made in, can be written and synced."""
    folder = settings.home.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return False, f"不能写入 {folder}：{error.strerror}", f"cannot write to {folder}: {error.strerror}"
    return True, f"可写入 {folder}", f"{folder} can be written"


def disk_space(settings: Settings) -> Finding:
    """Enough free space for the stream and the stores to grow."""
    folder = settings.home.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    ok = free >= DISK_FREE
    return (
        ok, f"剩余磁盘 {free / 2**30:.1f} GiB" + ("" if ok else f"，应不少于 {DISK_FREE >> 30} GiB"),
        f"{free / 2**30:.1f} GiB free" + ("" if ok else f", should be at least {DISK_FREE >> 30} GiB"),
    )


def open_files(_settings: Settings) -> Finding:
    """`ulimit -n`: one per device connection, and what the stores need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard == resource.RLIM_INFINITY or hard >= FILES
    return (
        ok, f"可打开文件数 {soft}（上限 {hard}）" + ("" if ok else f"，应不少于 {FILES}"),
        f"open files {soft} (at most {hard})" + ("" if ok else f", should be at least {FILES}"),
    )


def clock(_settings: Settings) -> Finding:
    """The clock is not before this program, and, where the kernel says, is synchronised."""
    now = dt.datetime.now(dt.UTC)
    if now < RELEASED:
        return False, f"时钟为 {now:%Y-%m-%d %H:%M} UTC，早于本程序", f"the clock says {now:%Y-%m-%d %H:%M} UTC, before this program"
    return True, f"时钟 {now:%Y-%m-%d %H:%M:%S} UTC", f"clock {now:%Y-%m-%d %H:%M:%S} UTC"


def certificate(settings: Settings) -> Finding:
    """The TLS certificate is readable, belongs to the key and does not expire within thirty days."""
    if not settings.tls_certificate:
        return True, "未配置 TLS 证书", "no TLS certificate is set"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key or None)
        from cryptography import x509

        ends = x509.load_pem_x509_certificate(Path(settings.tls_certificate).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return False, f"TLS 证书或私钥不可用：{error}", f"TLS certificate or key: {error}"
    days = (ends - dt.datetime.now(dt.UTC)).days
    ok = days >= 30
    return (
        ok, f"TLS 证书还有 {days} 天到期" + ("" if ok else "，请更换"),
        f"TLS certificate expires in {days} days" + ("" if ok else "; renew it"),
    )


def nats_binary(settings: Settings) -> Finding:
    """nats-server is there and starts, or an external one is set."""
    if settings.nats_url:
        return True, "使用外部 NATS", "an external NATS is set"
    try:
        program = nats_server_binary(settings)
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20)
    except TulouError as error:
        return False, error.zh, error.en
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"nats-server 不能运行：{error}", f"nats-server does not run: {error}"
    version = told.stdout.strip().removeprefix("nats-server: v")
    number = re.match(r"(\d+)\.(\d+)", version)
    ok = number is not None and (int(number[1]), int(number[2])) >= (2, 11)
    return ok, f"nats-server {version}" + ("" if ok else "，需要 2.11 以上"), f"nats-server {version}" + ("" if ok else ", needs 2.11")


def chdb_opens(settings: Settings) -> Finding:
    """chDB loads and answers in a process of its own (it needs AVX2 or NEON, and about 500 MB)."""
    if settings.clickhouse_url:
        return True, "使用外部 ClickHouse", "an external ClickHouse is set"
    code = "import chdb; print(str(chdb.query('SELECT version()', 'TabSeparated')).strip())"
    try:
        told = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    except subprocess.SubprocessError as error:
        return False, f"chDB 不能运行：{error}", f"chDB does not run: {error}"
    if told.returncode != 0:
        last = (told.stderr.strip().splitlines() or [f"exit {told.returncode}"])[-1]
        return False, f"chDB 不能运行：{last}", f"chDB does not run: {last}"
    return True, f"chDB {told.stdout.strip()}", f"chDB {told.stdout.strip()}"


def ports_free(settings: Settings) -> Finding:
    """The ports that listeners want are free."""
    taken = []
    udp = [(port, socket.SOCK_DGRAM) for port in (settings.coap_port, settings.gb28181_port) if port]
    for port, kind in [*((port, socket.SOCK_STREAM) for port in settings.listening), *udp]:
        with socket.socket(socket.AF_INET6 if ":" in settings.bind else socket.AF_INET, kind) as s:
            if kind == socket.SOCK_STREAM:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((settings.bind, port))
            except OSError as error:
                taken.append(f"{port} ({error.strerror})")
    if taken:
        return False, f"端口不可用：{'、'.join(taken)}", f"ports not free: {', '.join(taken)}"
    return True, "端口空闲", "ports are free"


def console_built(_settings: Settings) -> Finding:
    """The console's pages are in the package."""
    ok = files("tulou").joinpath("console/static/index.html").is_file()
    return (ok, "控制台已构建", "the console is built") if ok else (
        False, "控制台未构建，请运行 make console", "the console is not built: run make console"
    )


def reachable(settings: Settings) -> Finding:
    """External services that the settings name accept a connection."""
    ports = {"postgresql": 5432, "postgres": 5432, "nats": 4222, "clickhouse": 8123, "http": 80, "https": 443, "clickhouses": 8443}
    named = {
        "database_url": settings.database_url, "nats_url": settings.nats_url,
        "clickhouse_url": settings.clickhouse_url, "oidc_issuer": settings.oidc_issuer,
    }
    down, up = [], []
    for name, url in named.items():
        for one in filter(None, url.split(",")):
            address = urlsplit(one)
            try:
                port = address.port or ports.get(address.scheme.split("+")[0], 0)
                socket.create_connection((address.hostname or "", port), timeout=5).close()
                up.append(name)
            except (OSError, ValueError) as error:
                down.append(f"{name} {address.hostname}: {error}")
    if down:
        return False, f"无法连接：{'；'.join(down)}", f"not reachable: {'; '.join(down)}"
    return (True, f"可连接：{'、'.join(up)}", f"reachable: {', '.join(up)}") if up else (
        True, "未使用外部服务", "no external services are set"
    )


def packs_whole(settings: Settings) -> Finding:
    """No pack is left out."""
    from tulou.kernel.packs.collection import left_out_finding
    from tulou.kernel.plugins import plugins, read_packs

    return left_out_finding(read_packs(plugins(), settings))


MACHINE: dict[str, Callable[[Settings], Finding]] = {
    "python": python_version, "sqlite": sqlite_version, "write": write_permission, "disk": disk_space,
    "files": open_files, "clock": clock, "certificate": certificate, "nats-server": nats_binary, "chdb": chdb_opens,
    "console": console_built, "services": reachable,
}


def examine(settings: Settings, *, running: bool) -> Iterator[dict[str, Any]]:
    """The doctor's findings about machine and settings; when no house runs, also ports (it would hold them) and packs (it says itself)."""
    wanted = MACHINE if running else {**MACHINE, "ports": ports_free, "packs": packs_whole}
    for name, check in wanted.items():
        ok, zh, en = check(settings)
        yield {"name": name, "ok": ok, "zh": zh, "en": en}


# --- what the system contributes ----------------------------------------------------------------------------------


@hookimpl
def services(house: House) -> Sequence[object]:
    return [System(house), backup.Backup(house)]


@hookimpl
def routes(house: House) -> Sequence[BaseRoute]:
    system = house.service(System)

    async def show(_request: Request, actor: Actor) -> Response:
        return json_response(await system.show(actor))

    async def healthz(_request: Request) -> Response:
        if hasattr(house, "bus") and not house.bus.nc.is_connected:
            return PlainTextResponse("bus", 503, {"cache-control": "no-store"})
        return PlainTextResponse("ok", headers={"cache-control": "no-store"})

    return [
        Route("/healthz", healthz, methods=["GET"]), route(house, "GET", f"{API}/system", show), *backup.routes(house)
    ]
