"""Backup of everything into one file, while the house runs; restore of it into an empty home.

Law: a backup is one tar whose last member, `manifest.json`, holds the SHA-256 of every other; nothing is restored
before all of them were checked, and never over anything. Consistency: the writer pauses (devices go on, their messages
wait in the stream), then streams, SQL and readings are taken in this order, so that a message is in the stream's part
or in the readings' part or in both, never in neither; the writer of the restored house drops what it already has.
Secrets of the settings are not in a backup; password hashes and token digests are.

    settings.json            entries and their sources, secrets masked
    streams/<NAME>.msgpack   messages beyond the floor that every durable consumer has acknowledged
    sql/tulou.db             SQLite, by its online backup; or sql/<table>.copy, PostgreSQL's COPY of one snapshot
    readings/<table>.parquet every table of the readings store
    objects/<key>            every object
    packs/<path>             the packs that are installed in the home
    manifest.json
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import msgpack
import orjson
import sqlalchemy as sa
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError as NoStream
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou import __version__
from tulou.kernel import audit
from tulou.kernel.bus import Bus, NatsServer, StreamSpec
from tulou.kernel.errors import Conflict, Invalid, NotFound, TulouError, Unavailable
from tulou.kernel.http import API, json_response, route
from tulou.kernel.migrate import configuration, upgrade
from tulou.kernel.objects import Objects
from tulou.kernel.packs.installing import locked
from tulou.kernel.policy import ROOT, Actor, operation
from tulou.kernel.readings.schema import DAYS, TABLES, ddl
from tulou.kernel.settings import SECRET, Settings
from tulou.kernel.sql import Database

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.backup")

FORMAT = 1
CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Takes the step's name, how much of it is done, and of how much (0: not known)."""


class _Tar:
    """A tar being written, with the digest of each member."""

    def __init__(self, path: Path) -> None:
        path.touch(0o600)
        self.tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self.members: dict[str, dict[str, Any]] = {}

    def add(self, name: str, file: IO[bytes]) -> None:
        """Add a seekable file."""
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        reader = _Digesting(file)
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(time.time())
        self.tar.addfile(info, reader)
        self.members[name] = {"size": size, "sha256": reader.digest.hexdigest()}

    def add_path(self, name: str, path: Path) -> None:
        """Add a file and remove it."""
        with path.open("rb") as file:
            self.add(name, file)
        path.unlink()

    def close(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and end the tar."""
        text = json.dumps({**manifest, "members": self.members}, ensure_ascii=False, indent=1).encode()
        with tempfile.TemporaryFile() as file:
            file.write(text)
            self.add("manifest.json", file)
        self.tar.close()


class _Digesting:
    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.digest.update(data)
        return data


class Backup:
    """Backups of a running house, made into `<home>/backups`."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.folder = house.settings.home / "backups"
        self.states: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None

    @operation("house.backup.create")
    async def create(self, actor: Actor) -> dict[str, Any]:
        """Begin a backup; returns its state, `name` among it. Raises `Conflict` while another is being made."""
        self.policy.require(actor, "house.backup.create", ROOT)
        if self._task is not None and not self._task.done():
            raise Conflict("另一备份正在进行", "another backup is being made")
        name = f"tulou-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%fZ}.tar"
        self.states = {name: {"name": name, "state": "running", "step": "", "done": 0, "total": 0, "error": None}}
        await audit.note(self.house.db, actor, "house.backup.create", ROOT, name)
        self._task = asyncio.create_task(self._make(name), name="backup")
        return self.states[name]

    @operation("house.backup.read")
    async def state(self, actor: Actor, name: str, wait: float = 0.0) -> dict[str, Any]:
        """How far a backup is; waits up to `wait` seconds for its end."""
        self.policy.require(actor, "house.backup.read", ROOT)
        if name not in self.states:
            raise NotFound(f"没有备份 {name}", f"there is no backup {name}", field="name", value=name)
        if self._task is not None and wait > 0:
            await asyncio.wait({self._task}, timeout=min(wait, 30.0))
        return self.states[name]

    async def _make(self, name: str) -> None:
        state = self.states[name]

        def progress(step: str, done: int, total: int) -> None:
            state.update(step=step, done=done, total=total)

        path = self.folder / name
        partial = path.with_suffix(".partial")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            for old in self.folder.glob("*.partial"):
                old.unlink()
            manifest = await self.write(partial, progress)
            os.replace(partial, path)
            state.update(state="done", size=path.stat().st_size, members=len(manifest["members"]))
        except TulouError as error:
            state.update(state="failed", error=error.zh, error_en=error.en)
        except Exception as error:
            log.exception("backup")
            state.update(state="failed", error=f"{type(error).__name__}: {error}")
        finally:
            partial.unlink(missing_ok=True)

    async def write(self, path: Path, progress: Progress) -> dict[str, Any]:
        """Write the whole backup to `path`; returns its manifest."""
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=path.parent))
        tar = await asyncio.to_thread(_Tar, path)
        manifest: dict[str, Any] = {
            "format": FORMAT, "tulou": __version__, "made_at": dt.datetime.now(dt.UTC).isoformat(),
            "sql": self.house.db.dialect, "revisions": await self.house.db.read(_revisions), "streams": {},
        }
        try:
            settings = work / "settings.json"
            settings.write_bytes(orjson.dumps(self.house.settings.show()))
            await asyncio.to_thread(tar.add_path, "settings.json", settings)
            async with self.house.paused("writer"):
                if hasattr(self.house, "bus"):
                    for spec in _streams(self.house):
                        progress(f"stream {spec.name}", 0, 0)
                        manifest["streams"][spec.name] = await _dump_stream(self.house.bus, spec.name, work / "stream")
                        await asyncio.to_thread(tar.add_path, f"streams/{spec.name}.msgpack", work / "stream")
                progress("sql", 0, 0)
                for name, file in await asyncio.to_thread(lambda: list(_dump_sql(self.house.db, work))):
                    await asyncio.to_thread(tar.add_path, f"sql/{name}", file)
                if hasattr(self.house, "readings"):
                    for n, table in enumerate(TABLES):
                        progress(f"readings {table.name}", n, len(TABLES))
                        file = work / "readings"
                        await self.house.readings.dump(table.name, file)
                        await asyncio.to_thread(tar.add_path, f"readings/{table.name}.parquet", file)
            await asyncio.to_thread(self._add_objects, tar, progress)
            await asyncio.to_thread(self._add_packs, tar)
            verdict = await self.house.db.read(lambda c: c.execute(audit._head).first())
            manifest["audit"] = {"seq": verdict.seq, "hash": verdict.hash} if verdict else None
            await asyncio.to_thread(tar.close, manifest)
            with path.open("rb") as file_:
                os.fsync(file_.fileno())
        finally:
            tar.tar.close()
            shutil.rmtree(work, ignore_errors=True)
        return {**manifest, "members": tar.members}

    def _add_objects(self, tar: _Tar, progress: Progress) -> None:
        store = Objects(self.house.settings)
        found = [f.key for f in store.walk()]
        for n, key in enumerate(found):
            if n % 100 == 0:
                progress("objects", n, len(found))
            with contextlib.suppress(NotFound), store.open(key) as file:
                tar.add(f"objects/{key}", file)

    def _add_packs(self, tar: _Tar) -> None:
        home = self.house.settings.home
        if (home / "packs").is_dir():
            with locked(home) as root:
                for path in sorted(root.rglob("[!.]*")):
                    name = path.relative_to(root).as_posix()
                    if path.is_file() and not name.startswith("."):
                        with path.open("rb") as file:
                            tar.add(f"packs/{name}", file)


def _streams(house: House) -> list[StreamSpec]:
    return [spec for part in house.hooks.hook.streams(house=house) for spec in part]


def _revisions(connection: sa.Connection) -> list[str]:
    return sorted(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars())


async def _dump_stream(bus: Bus, name: str, path: Path) -> dict[str, int]:
    """Write messages beyond the acknowledged floor as msgpack maps (`seq`, `subject`, `headers`, `data`)."""
    info = await bus.js.stream_info(name)
    consumers = [c for c in await bus.js.consumers_info(name) if c.config.durable_name]
    floor = min((c.ack_floor.stream_seq or 0 for c in consumers if c.ack_floor), default=0)
    first, last, count = max(info.state.first_seq, floor + 1, 1), info.state.last_seq, 0
    with path.open("wb") as file:
        if info.state.messages and first <= last:
            wanted = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, ack_policy=AckPolicy.NONE,
                inactive_threshold=60,
            )
            subscription = await bus.js.pull_subscribe("", stream=name, config=wanted)
            try:
                seq = first - 1
                while seq < last:
                    messages = await subscription.fetch(100, timeout=10)
                    for message in messages:
                        seq = message.metadata.sequence.stream
                        if seq > last:
                            break
                        packed = {
                            "seq": seq, "subject": message.subject, "headers": message.headers, "data": message.data
                        }
                        file.write(msgpack.packb(packed))
                        count += 1
                    if messages[-1].metadata.num_pending == 0:
                        break
            finally:
                await subscription.unsubscribe()
    return {"first_seq": first, "last_seq": last, "messages": count}


def _dump_sql(db: Database, work: Path) -> Iterator[tuple[str, Path]]:
    """Files of the relational store, one consistent snapshot."""
    if db.dialect == "sqlite":
        path = work / "tulou.db"
        source, target = sqlite3.connect(db.url.database or ""), sqlite3.connect(path)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE").close()
        yield "tulou.db", path
        return
    engine = sa.create_engine(db.url, isolation_level="REPEATABLE READ")
    try:
        with engine.connect() as connection:
            for number, name in enumerate(_tables_in_order(connection)):
                path = work / f"{name}.copy"
                driver: Any = connection.connection.driver_connection
                with path.open("wb") as file, driver.cursor() as cursor, cursor.copy(_copy(name, "TO STDOUT")) as copy:
                    for data in copy:
                        file.write(data)
                yield f"{number:03d}.{name}.copy", path
    finally:
        engine.dispose()


def _copy(table: str, how: str) -> Any:
    from psycopg import sql

    return sql.SQL("COPY {} " + how).format(sql.Identifier(table))


def _tables_in_order(connection: sa.Connection) -> list[str]:
    """Every table, those that are referred to first."""
    found = sa.MetaData()
    found.reflect(connection)
    return [t.name for t in found.sorted_tables if t.name != "alembic_version"]


# --- restore ----------------------------------------------------------------------------------------------------------


def verify(path: Path, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Check every digest of a backup; returns its manifest. Raises `Invalid` naming the first member that is not whole."""
    seen: dict[str, dict[str, Any]] = {}
    manifest: dict[str, Any] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is None or not _safe(member.name):
                    raise _broken(member.name, "a plain file of a backup")
                if member.name == "manifest.json":
                    manifest = orjson.loads(file.read())
                    continue
                digest = hashlib.sha256()
                while data := file.read(CHUNK):
                    digest.update(data)
                seen[member.name] = {"size": member.size, "sha256": digest.hexdigest()}
                progress("verify", tar.offset, size)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise _broken(path.name, f"readable tar ({error})") from error
    if manifest.get("format") != FORMAT:
        raise _broken("manifest.json", f"present, format {FORMAT}")
    for name in sorted(seen.keys() ^ manifest["members"].keys()):
        raise _broken(name, "listed in the manifest and present")
    for name, found in seen.items():
        if found != manifest["members"][name]:
            raise _broken(name, "digest as in the manifest")
    return manifest


def _safe(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/") and bool(
        re.match(r"^(manifest\.json|settings\.json|(streams|sql|readings|objects|packs)/.+)$", name)
    )


def _broken(name: str, rule: str) -> Invalid:
    return Invalid(f"备份损坏：{name}", f"the backup is damaged: {name}", field="backup", value=name, rule=rule)


def restore(path: Path, settings: Settings, make_house: Callable[[Settings], House], progress: Progress) -> dict[str, Any]:
    """Make the home `settings.home` from a backup. Returns the manifest, with `secrets_to_set`.

    The home must be empty or absent, and so must an external database, readings store or stream that the settings name.
    It is built beside its place and moved there at the end: a restore that breaks leaves nothing.
    """
    home = settings.home.absolute()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise Conflict(f"目录 {home} 不为空", f"{home} is not empty", field="home", value=str(home), rule="empty")
    manifest = verify(path, progress)
    dialect = "postgresql" if settings.database_url else "sqlite"
    if manifest["sql"] != dialect:
        raise Invalid(
            f"备份来自 {manifest['sql']}，设置指向 {dialect}",
            f"the backup is of {manifest['sql']}, the settings name {dialect}",
            field="database_url", value=dialect, rule=manifest["sql"],
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}.restoring-", dir=home.parent))
    moved = dataclasses.replace(settings, home=work)
    try:
        house = make_house(moved)
        with tarfile.open(path, "r:") as tar:
            secrets = _restore_members(tar, moved, manifest, house, progress)
        progress("streams", 0, 0)
        asyncio.run(_restore_streams(house, manifest, work / "streams"))
        shutil.rmtree(work / "streams", ignore_errors=True)
        if home.exists():
            home.rmdir()
        os.rename(work, home)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return {**manifest, "secrets_to_set": secrets}


def _restore_members(
    tar: tarfile.TarFile, settings: Settings, manifest: dict[str, Any], house: House, progress: Progress
) -> list[str]:
    secrets: list[str] = []
    objects = Objects(settings)
    sql, readings = _restore_sql(settings, manifest, house), _restore_readings(settings)
    next(sql)
    next(readings)
    for number, member in enumerate(tar):
        file = tar.extractfile(member)
        assert file is not None
        folder, _, name = member.name.partition("/")
        progress(folder, number, len(manifest["members"]))
        if member.name == "settings.json":
            secrets = _restore_settings(settings, orjson.loads(file.read()))
        elif folder == "objects":
            objects._put_now(objects._path(name), iter(lambda f=file: f.read(CHUNK), b""))  # type: ignore[misc]
        elif folder == "sql":
            sql.send((name, file))
        elif folder == "readings":
            readings.send((name, file))
        elif folder in ("streams", "packs"):
            _copy_out(file, settings.home / folder / name)
    sql.close()
    readings.close()
    return secrets


def _copy_out(file: IO[bytes], path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(0o600)
    with path.open("wb") as target:
        shutil.copyfileobj(file, target, CHUNK)
        target.flush()
        os.fsync(target.fileno())


def _restore_settings(settings: Settings, rows: list[dict[str, Any]]) -> list[str]:
    """Write what stood in the settings file, without secrets; returns the names of secrets that were set."""
    lines = [
        f"{row['name']} = {json.dumps(row['value'], ensure_ascii=False)}"
        for row in rows if row["source"] == "file" and row["name"] not in SECRET
    ]
    if lines:
        path = settings.home / "tulou.toml"
        path.touch(0o600)
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return [row["name"] for row in rows if row["name"] in SECRET and row["value"]]


def _restore_sql(settings: Settings, manifest: dict[str, Any], house: House) -> Any:
    """A coroutine that takes (member name, file) of the relational store."""
    if manifest["sql"] == "sqlite":
        while True:
            _, file = yield
            _copy_out(file, settings.home / "tulou.db")
    from alembic import command

    db = Database(settings.sql_url)
    try:
        with db.engine.begin() as connection:
            if sa.inspect(connection).get_table_names():
                raise Conflict(
                    "数据库不为空", "the database is not empty", field="database_url", rule="an empty database"
                )
            config = configuration(sorted(set(house.hooks.hook.migrations())))
            config.attributes["connection"] = connection
            for revision in manifest["revisions"]:
                command.upgrade(config, revision)
        with db.engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            while True:
                try:
                    name, file = yield
                except GeneratorExit:
                    break
                table = name.split(".", 1)[1].removesuffix(".copy")
                with driver.cursor() as cursor, cursor.copy(_copy(table, "FROM STDIN")) as copy:
                    while data := file.read(CHUNK):
                        copy.write(data)
            _advance_sequences(connection)
        upgrade(db, house.hooks.hook.migrations())
    finally:
        asyncio.run(db.close())


def _advance_sequences(connection: sa.Connection) -> None:
    """Let every serial column go on after its greatest value."""
    columns = connection.execute(sa.text(
        "SELECT table_name, column_name, pg_get_serial_sequence(quote_ident(table_name), column_name) "
        "FROM information_schema.columns WHERE table_schema = current_schema()"
    )).all()
    for table, column, sequence in columns:
        if sequence:
            connection.execute(sa.text(
                f"SELECT setval('{sequence}', greatest((SELECT max(\"{column}\") FROM \"{table}\"), 1), "
                f"EXISTS (SELECT 1 FROM \"{table}\"))"
            ))


def _restore_readings(settings: Settings) -> Any:
    """A coroutine that takes (member name, file) of the readings store. Tables only: the views come with the start."""
    import clickhouse_connect  # slow to import

    from tulou.kernel.readings.clickhouse import failed_writes

    client: Any = None
    try:
        while True:
            name, file = yield
            if client is None:
                if not settings.clickhouse_url:
                    (settings.home / "readings").mkdir(mode=0o700)
                dsn = settings.readings_dsn
                client = clickhouse_connect.get_client(
                    dsn=dsn if dsn.startswith("chdb:") else urlunsplit(urlsplit(dsn)._replace(query=""))
                )
                for statement in ddl():
                    if "MATERIALIZED VIEW" not in statement:
                        client.command(statement)
            table = name.removesuffix(".parquet")
            if table not in {t.name for t in TABLES}:
                raise _broken(name, "a table of the readings store")
            if int(client.command(f"SELECT count() FROM {table}")):
                raise Conflict(
                    "读数库不为空", "the readings store is not empty", field="clickhouse_url", value=table, rule="empty"
                )
            path = settings.home / "table.parquet"
            _copy_out(file, path)
            if table == DAYS.name:  # made of the hours, which came before: an older backup may cut its days otherwise
                assert DAYS.view is not None
                client.command(f"INSERT INTO {table} {DAYS.view.select}")
            elif settings.clickhouse_url:
                with path.open("rb") as data:
                    client.raw_insert(table, insert_block=data, fmt="Parquet")
            else:
                quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
                client.command(f"INSERT INTO {table} SELECT * FROM file('{quoted}', 'Parquet')")
                if failed_writes(client):
                    raise Unavailable("读数库的磁盘写入失败", "a write to the readings store's disk failed")
            path.unlink()
    finally:
        if client is not None:
            client.close()


async def _restore_streams(house: House, manifest: dict[str, Any], folder: Path) -> None:
    """Put the messages back under their old sequence numbers, in streams that must not exist or be empty."""
    if not manifest["streams"]:
        return
    specs = {spec.name: spec for spec in _streams(house)}
    server = NatsServer(house.settings) if not house.settings.nats_url else None
    if server is not None:
        await server.start()
    bus = Bus(server.url if server else house.settings.nats_url, replicas=house.settings.nats_replicas)
    try:
        await bus.connect()
        for name, about in manifest["streams"].items():
            if name not in specs:
                raise Unavailable(f"没有流 {name}", f"this program has no stream {name}", field="stream", value=name)
            with contextlib.suppress(NoStream):
                if (await bus.js.stream_info(name)).state.messages:
                    raise Conflict(f"流 {name} 不为空", f"stream {name} is not empty", field="nats_url", value=name)
                await bus.js.delete_stream(name)
            config = dataclasses.replace(specs[name].config(bus.replicas), first_seq=about["first_seq"])
            await bus.js.add_stream(config)
            expected = about["first_seq"]
            with (folder / f"{name}.msgpack").open("rb") as file:
                for message in msgpack.Unpacker(file, max_buffer_size=1 << 28):
                    ack = await bus.js.publish(message["subject"], message["data"], headers=message["headers"])
                    if ack.duplicate:
                        continue
                    if ack.seq not in (message["seq"], expected):
                        raise Conflict(f"流 {name} 序号不符", f"stream {name}: {ack.seq} for {message['seq']}")
                    expected = ack.seq + 1
    finally:
        await bus.close()
        if server is not None:
            await server.stop()


# --- doors ------------------------------------------------------------------------------------------------------------


def routes(house: House) -> list[BaseRoute]:
    """`POST /api/v1/backups` and `GET /api/v1/backups/{name}?wait=`."""
    backup = house.service(Backup)

    async def create(_request: Request, actor: Actor) -> Response:
        return json_response(await backup.create(actor), 202)

    async def state(request: Request, actor: Actor) -> Response:
        wait = request.query_params.get("wait", "0")
        if not wait.isdigit():
            raise Invalid("wait 应为整数秒", "wait must be whole seconds", field="wait", value=wait, rule="integer")
        return json_response(await backup.state(actor, request.path_params["name"], float(wait)))

    return [
        route(house, "POST", f"{API}/backups", create),
        route(house, "GET", f"{API}/backups/{{name}}", state),
    ]
