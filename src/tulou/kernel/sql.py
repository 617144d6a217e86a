"""The relational store: SQLAlchemy Core on SQLite (WAL, foreign keys on) or PostgreSQL.

Law: a write returns only after its transaction is committed and synced. All writes of a process go through one
thread, which puts whatever is waiting into one transaction: many callers, one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from tulou.kernel.errors import Unavailable

if TYPE_CHECKING:
    from tulou.kernel.policy import Orgs

T = TypeVar("T")

DEADLOCKS = 5
"""How often what a deadlock refused is done again: the other may win more than once, for PostgreSQL gives a row to who comes first."""
ALONE = 0x7475_6C6F_77
"""Key of the PostgreSQL advisory lock of `Database.alone`."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

STEP = 512
"""Most rows that `insert_many` puts into one statement: a power of two, so that few statements are prepared."""

Json = sa.JSON().with_variant(JSONB(), "postgresql")
BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A 64-bit key that SQLite can auto-increment (only INTEGER PRIMARY KEY can)."""


def within(column: sa.ColumnElement[Any], orgs: Orgs) -> list[sa.ColumnElement[bool]]:
    """The condition that `column` is one of these organisations; none where no filter is needed."""
    return [] if orgs.all else [column.in_(sorted(orgs.ids))]


def driver_of(connection: sa.Connection) -> Any:
    """The driver's connection under an SQLAlchemy connection."""
    return connection.connection.driver_connection


def insert_many(cursor: Any, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run an INSERT that ends with `VALUES (?,...)` for every row, by a driver's cursor.

    On SQLite with hundreds of rows a step: its driver gives up the interpreter lock at every step, and has to win it back.
    """
    if not isinstance(cursor, sqlite3.Cursor):
        cursor.executemany(sql.replace("?", "%s"), rows)
        return
    head, values, marks = sql.rpartition("VALUES ")
    at, step = 0, STEP
    while at < len(rows):
        while step > len(rows) - at:
            step //= 2
        cursor.execute(head + values + ",".join([marks] * step), tuple(itertools.chain(*rows[at : at + step])))
        at += step


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """`connection.execute(table.insert(), rows)`, of rows with the same names, by `insert_many`; nothing where there are none."""
    dialect = connection.dialect
    if not rows:
        return
    if dialect.name != "sqlite":
        connection.execute(table.insert(), rows)
        return
    names = list(rows[0])
    columns: list[list[Any]] = []
    for name in names:
        process = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        column = [row[name] for row in rows]
        if process is not None:  # of few different objects: what is noted of a bulk is the same for all
            bound = {id(value): process(value) for value in {id(value): value for value in column}.values()}
            column = [bound[id(value)] for value in column]
        columns.append(column)
    sql = f"INSERT INTO {table.name} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"
    insert_many(driver_of(connection).cursor(), sql, list(zip(*columns, strict=True)))


class UtcDateTime(sa.TypeDecorator[dt.datetime]):
    """An aware UTC datetime on both stores. Refuses naive values."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime")
        value = value.astimezone(dt.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


def utcnow() -> dt.datetime:
    """Now, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


class _Waiting:
    """Who awaits a write: told with everyone else of the same commit in one call to its loop."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any]) -> None:
        self.loop = loop
        self.future = future

    def set_running_or_notify_cancel(self) -> bool:
        return not self.future.cancelled()


_Waiter = Future[Any] | _Waiting
Finish = Callable[[sa.Connection, list[Any]], None]
"""What `Database.at_end` calls."""


def _finish(results: list[tuple[_Waiter, Any, BaseException | None]]) -> None:
    """Hand out the results of a commit: one wake-up of each loop, not one of each caller."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
    for waiter, value, error in results:
        if isinstance(waiter, _Waiting):
            by_loop.setdefault(waiter.loop, []).append((waiter.future, value, error))
        elif error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(value)
    for loop, items in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, items)


def _resolve(items: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in items:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)


class TooLong(Exception):
    """A read took more than it was allowed."""


class Database:
    """One relational store. Open it in the process that uses it; close it when done.

    `url` is an SQLAlchemy address: `sqlite:////path/file.db` or `postgresql+psycopg://...`.
    """

    GROUP = 2000

    def __init__(self, url: str, *, readers: int = 4) -> None:
        self.url = sa.make_url(url)
        self.dialect = self.url.get_backend_name()
        if self.dialect == "sqlite" and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self.engine = self._engine("BEGIN IMMEDIATE", size=1)
        self._read_engine = self._engine("BEGIN", size=readers)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="sql-read")
        self._local = threading.local()
        self._queue: queue.SimpleQueue[tuple[Callable[[sa.Connection], Any], _Waiter] | None] = queue.SimpleQueue()
        self._ended = False
        self._last: dict[Finish, list[Any]] = {}
        self._writer = threading.Thread(target=self._write_loop, name="sql-write", daemon=True)
        self._writer.start()

    def _engine(self, begin: str, size: int) -> sa.Engine:
        if self.dialect != "sqlite":
            return sa.create_engine(self.url, pool_size=size, max_overflow=2, pool_pre_ping=True)
        engine = sa.create_engine(
            self.url, poolclass=sa.QueuePool, pool_size=size, max_overflow=0,
            connect_args={"check_same_thread": False, "isolation_level": None, "cached_statements": 512},
        )

        @sa.event.listens_for(engine, "connect")
        def _pragmas(connection: sqlite3.Connection, _record: object) -> None:
            _prepare(connection)

        @sa.event.listens_for(engine, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    async def write(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run `fn(connection)` in the writer thread; returns its result after the commit.

        `fn` may run twice (a neighbour in the same transaction failed), so it must have no effect but on the store.
        What `fn` raises is raised here, and only its own changes are rolled back. Raises `Unavailable` once closed.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop, loop.create_future())
        self._queue.put((fn, waiting))
        if self._ended:
            self._refuse()
        result: T = await waiting.future
        return result

    def write_soon(self, fn: Callable[[sa.Connection], T]) -> Future[T]:
        """As `write`, for threads: a `concurrent.futures.Future` of the committed result."""
        future: Future[T] = Future()
        self._queue.put((fn, future))
        if self._ended:
            self._refuse()
        return future

    def at_end(self, finish: Finish, item: Any) -> None:
        """From inside a write: `finish(connection, items)` runs once before the commit of the transaction under way,
        with the items of every write that succeeded in it, in order. What it raises fails the whole transaction."""
        self._last.setdefault(finish, []).append(item)

    def _finish_all(self, connection: sa.Connection) -> None:
        for finish, items in self._last.items():
            finish(connection, items)

    async def read(self, fn: Callable[[sa.Connection], T]) -> T:
        """Run `fn(connection)` in a reader thread, in one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, fn)

    def read_now(self, fn: Callable[[sa.Connection], T]) -> T:
        """As `read`, in the calling thread."""
        with self._read_engine.connect() as connection:
            return fn(connection)

    def point(self, statement: str) -> Callable[..., Awaitable[Sequence[Any] | None]]:
        """A look-up of one row by key, for hot paths: SQL with `?` marks -> async function of its parameters.

        On SQLite it runs in the calling thread (microseconds); on PostgreSQL in a reader thread.
        """
        if self.dialect == "sqlite":
            async def lookup(*parameters: Any) -> Sequence[Any] | None:
                row: Sequence[Any] | None = self._inline().execute(statement, parameters).fetchone()
                return row

            return lookup
        translated = statement.replace("?", "%s")

        async def remote(*parameters: Any) -> Sequence[Any] | None:
            return await self.read(lambda c: c.exec_driver_sql(translated, parameters).fetchone())

        return remote

    @contextlib.contextmanager
    def brief(self, instructions: int) -> Iterator[sqlite3.Connection]:
        """`inline` on SQLite, for reads that are stopped with `TooLong` after about so many of its instructions."""
        connection = self._inline()
        # SQLite counts a prepared statement's instructions over all its runs, so the first call may come at once.
        left = 9

        def tick() -> int:
            nonlocal left
            left -= 1
            return left < 0

        connection.set_progress_handler(tick, max(1, instructions // 8))
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if left >= 0:
                raise
            # Python 3.11 takes a statement that was stopped while rows were fetched for running ever after.
            self._local.connection = None
            connection.close()
            raise TooLong from error
        finally:
            if self._local.connection is connection:
                connection.set_progress_handler(None, 0)

    def inline(self) -> sqlite3.Connection | None:
        """The calling thread's own SQLite connection, for reads of microseconds; None on PostgreSQL."""
        return self._inline() if self.dialect == "sqlite" else None

    def _inline(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.url.database or "", isolation_level=None, cached_statements=512, check_same_thread=False
            )
            _prepare(connection)
            self._local.connection = connection
        return connection

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While no other process of the house is within: for what is made once. An SQLite file has one process."""
        if self.dialect != "postgresql":
            yield
            return
        connection = await asyncio.to_thread(self._read_engine.connect)
        try:
            await asyncio.to_thread(connection.execute, sa.text("SELECT pg_advisory_lock(:key)"), {"key": ALONE})
            yield
        finally:
            await asyncio.to_thread(connection.invalidate)  # the lock ends with its session
            connection.close()

    def _write_loop(self) -> None:
        self._work()
        self._ended = True
        self._refuse()

    def _refuse(self) -> None:
        """Nobody waits for ever: what comes after the end is told so."""
        error = Unavailable("关系库已关闭", "the relational store is closed", rule="open")
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get_nowait()
                if item is not None:
                    _finish([(item[1], None, error)])

    def _work(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            while len(group) < self.GROUP:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    stopping = True
                    break
                group.append(item)
            self._commit(group)

    def _commit(self, group: list[tuple[Callable[[sa.Connection], Any], _Waiter]]) -> None:
        group = [item for item in group if item[1].set_running_or_notify_cancel()]
        results: list[tuple[_Waiter, Any, BaseException | None]] = []
        self._last = {}
        try:
            with self.engine.begin() as connection:
                for fn, future in group:
                    results.append((future, fn(connection), None))
                self._finish_all(connection)
        except BaseException as failure:
            alone = len(group) == 1 and not _gave_way(failure)
            results = [(group[0][1], None, failure)] if alone else self._commit_apart(group)
        _finish(results)

    def _commit_apart(
        self, group: list[tuple[Callable[[sa.Connection], Any], _Waiter]], left: int = DEADLOCKS
    ) -> list[tuple[_Waiter, Any, BaseException | None]]:
        results: list[tuple[_Waiter, Any, BaseException | None]] = []
        kept: list[tuple[Finish, Any]] = []
        try:
            with self.engine.begin() as connection:
                for fn, future in group:
                    self._last = {}
                    try:
                        with connection.begin_nested():
                            results.append((future, fn(connection), None))
                    except Exception as error:
                        if _gave_way(error):
                            raise
                        results.append((future, None, error))
                    else:
                        kept += [(finish, item) for finish, items in self._last.items() for item in items]
                self._last = {}
                for finish, item in kept:
                    self.at_end(finish, item)
                self._finish_all(connection)
        except BaseException as failure:
            if left and _gave_way(failure):
                return self._commit_apart(group, left - 1)
            return [(future, None, failure) for _, future in group]
        return results

    async def close(self) -> None:
        """Commit what is waiting, then close every connection."""
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local = threading.local()
        self.engine.dispose()
        self._read_engine.dispose()


def _gave_way(failure: BaseException) -> bool:
    """Whether PostgreSQL chose this transaction to end a deadlock with another process: it is worth another attempt."""
    return getattr(getattr(failure, "orig", failure), "sqlstate", None) == "40P01"


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000", "cache_size=-65536",
        "mmap_size=1073741824", "temp_store=MEMORY", "wal_autocheckpoint=4000",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
