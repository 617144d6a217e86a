"""The directory: every entity's place, name, state and last sign of life, as columns in memory.

Law: SQL is the truth, this is a mirror that can be rebuilt at any time: rows are sorted by entity number, new ones are
read as they appear, changed ones when the bus names them, and everything when the count disagrees. It answers what must
be quick at 100,000 entities whatever is typed: search by any part of a name, counts, the map. Nothing here decides who
may see what: callers pass the organisations that are visible.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tulou.access.models import alarms, devices
from tulou.access.presence import states
from tulou.context import entities
from tulou.kernel.policy import Orgs

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.access.directory")

CHUNK = 500
"""Keys in one IN list."""
CHECK_EVERY = 30
"""Seconds between comparisons of the number of rows with SQL."""
KEEP_EVERY = 30
"""Seconds between writes of what was seen, `KEEP_AT_ONCE` rows a transaction."""
KEEP_AT_ONCE = 5000
BLOCK = 65_536
"""Rows of which a search makes its masks at a time."""
OFFLINE_AFTER = 600
"""Seconds, for a type that no pack declares."""

Some = slice | NDArray[np.intp]
"""Rows, by a slice or their numbers."""
ALL = slice(None)

COLUMNS: tuple[tuple[str, Any, Any], ...] = (
    ("no", np.int64, 0), ("org", np.int32, 0), ("type", np.int32, 0), ("lon", np.float64, np.nan),
    ("lat", np.float64, np.nan), ("synthetic", np.uint8, 0), ("device", np.uint8, 0), ("seen", np.int64, 0), ("gone", np.int64, 0),
    ("stored", np.int64, 0), ("alarms", np.int32, 0),
)
"""`stored` is what SQL has of `seen`."""


@dataclass(slots=True)
class Found:
    """A page of a search: rows in the order of entity numbers, whether there are more, and how many in all."""

    rows: list[int]
    more: bool
    count: int | None


class Thing(NamedTuple):
    """An entity that was just made, in one transaction with the device that speaks for it if one does (`device`)."""

    no: int
    id: str
    org: str
    type: str
    name: str
    synthetic: bool
    lon: float | None
    lat: float | None
    device: bool


def runs(nos: Iterable[int]) -> str:
    """Numbers as a message of the bus: `first-last`, with spaces between."""
    found: list[list[int]] = []
    for no in sorted(nos):
        if found and found[-1][1] == no - 1:
            found[-1][1] = no
        else:
            found.append([no, no])
    return " ".join(f"{first}-{last}" for first, last in found)


class Directory:
    """The mirror. `await reload()` once, then keep `follow()` running."""

    no: NDArray[np.int64]
    org: NDArray[np.int32]
    type: NDArray[np.int32]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    synthetic: NDArray[np.uint8]
    device: NDArray[np.uint8]
    seen: NDArray[np.int64]
    gone: NDArray[np.int64]
    stored: NDArray[np.int64]
    alarms: NDArray[np.int32]

    def __init__(self, house: House) -> None:
        self.house = house
        self.kept = False
        """Whether this process keeps it; the others never load it."""
        self.version = 0
        """Changes whenever anything but `seen` and `alarms` does."""
        self.size = 0
        self.ids: list[str] = []
        self.names: list[str] = []
        self.keys: list[str] = []
        self.orgs: list[str] = []
        self.types: list[str] = []
        self._org_codes: dict[str, int] = {}
        self._type_codes: dict[str, int] = {}
        self._offline_after = np.zeros(0, np.int64)
        self._dirty: set[int] = set()
        self._stale = True
        self._lock = asyncio.Lock()
        self._allocate(0)
        house.packs.followers.append(self._declared)

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        for name, kind, empty in COLUMNS:
            column = np.full(capacity, empty, kind)
            if hasattr(self, f"_{name}"):
                old = getattr(self, f"_{name}")[: self.size]
                column[: len(old)] = old
            setattr(self, f"_{name}", column)
        self._cut()

    def _cut(self) -> None:
        for name, _, _ in COLUMNS:
            setattr(self, name, getattr(self, f"_{name}")[: self.size])

    # -- keeping up

    async def reload(self) -> None:
        """Read everything again; what was seen is kept."""
        self.kept = True
        async with self._lock:
            await self._reload()

    async def _reload(self) -> None:
        self._stale = False
        seen = dict(zip(self.no.tolist(), zip(self.seen.tolist(), self.gone.tolist(), strict=True), strict=True))
        rows = await self.house.db.read(lambda c: _entities(c, None))
        marks = await self.house.db.read(_marks)
        self.size = 0
        self.ids, self.names, self.keys = [], [], []
        self._allocate(0)
        self._append(rows)
        self._mark(self.no.tolist(), *marks)
        if seen:
            at, known = self.rows(np.fromiter(seen, np.int64, len(seen)))
            times = np.array(list(seen.values()), np.int64)[known]
            self.seen[at] = np.maximum(self.seen[at], times[:, 0])
            self.gone[at] = times[:, 1]
        self.version += 1

    async def refresh(self, nos: Collection[int]) -> None:
        """Read these entities, their devices and alarms again, at once."""
        async with self._lock:
            await self._refresh(nos)

    async def add(self, things: Sequence[Thing]) -> None:
        """Take in entities that this process has just made, and that nobody has changed since. They are not read again, if none is
        missing between the newest known and them."""
        async with self._lock:
            newest = int(self.no[-1]) if self.size else 0
            new = sorted({thing for thing in things if thing.no > newest})
            if new and new[-1].no != newest + len(new):
                await self._refresh([thing.no for thing in things])
            elif new:
                start = self.size
                self._append(new)
                self.device[start:] = [thing.device for thing in new]
                self.version += 1

    async def _refresh(self, nos: Collection[int]) -> None:
        wanted = sorted(set(nos))
        fresh: list[Any] = []
        marks: tuple[dict[int, int | None], dict[int, int]] = ({}, {})
        for at in range(0, len(wanted), CHUNK):
            part = wanted[at : at + CHUNK]
            rows, (has, open_alarms) = await self.house.db.read(
                lambda c, part=part: (_entities(c, part), _marks(c, part))  # type: ignore[misc]
            )
            fresh += rows
            marks[0].update(has)
            marks[1].update(open_alarms)
        index, known = self.rows(np.array(wanted, np.int64))
        here = dict(zip(np.array(wanted, np.int64)[known].tolist(), index.tolist(), strict=True))
        if self.size and any(row.no < self.no[-1] and row.no not in here for row in fresh):
            await self._reload()  # committed out of order by another process: rare
            return
        gone = here.keys() - {row.no for row in fresh}
        if gone:
            self._drop([here[no] for no in gone])
            index, known = self.rows(np.array(wanted, np.int64))
            here = dict(zip(np.array(wanted, np.int64)[known].tolist(), index.tolist(), strict=True))
        moved = [self._put(here[row.no], row) for row in fresh if row.no in here]
        new = [row for row in fresh if row.no not in here]
        self._append(new)
        self._mark(wanted, *marks)
        if gone or new or any(moved):
            self.version += 1

    def _append(self, rows: Sequence[Any]) -> None:
        if not rows:
            return
        start = self.size
        if start + len(rows) > self._capacity:
            self._allocate(max(1024, (start + len(rows)) * 5 // 4))
        self.size = start + len(rows)
        self._cut()
        for row in rows:
            self.ids.append(row.id)
            self.names.append(row.name)
            self.keys.append(f"{row.name}\n{row.id}".lower())
        self.no[start:] = [row.no for row in rows]
        self.org[start:] = [self._org_code(row.org) for row in rows]
        self.type[start:] = [self._type_code(row.type) for row in rows]
        self.lon[start:] = [np.nan if row.lon is None else row.lon for row in rows]
        self.lat[start:] = [np.nan if row.lat is None else row.lat for row in rows]
        self.synthetic[start:] = [row.synthetic for row in rows]
        for column in (self.device, self.seen, self.gone, self.stored, self.alarms):
            column[start:] = 0

    def _drop(self, rows: Sequence[int]) -> None:
        keep = np.ones(self.size, bool)
        keep[list(rows)] = False
        for name, _, _ in COLUMNS:
            setattr(self, f"_{name}", getattr(self, name)[keep])  # the columns' whole room; `_cut` shows what is used
        left = np.flatnonzero(keep).tolist()
        self.ids = [self.ids[row] for row in left]
        self.names = [self.names[row] for row in left]
        self.keys = [self.keys[row] for row in left]
        self.size = self._capacity = len(left)
        self._cut()

    def _put(self, at: int, row: Any) -> bool:
        """Write a row over another; whether anything is different."""
        org, kind = self._org_code(row.org), self._type_code(row.type)
        lon, lat = self.lon.item(at), self.lat.item(at)
        if (row.id, row.name, org, kind, row.synthetic, row.lon, row.lat) == (
            self.ids[at], self.names[at], self.org.item(at), self.type.item(at), self.synthetic.item(at),
            None if math.isnan(lon) else lon, None if math.isnan(lat) else lat,
        ):
            return False
        self.ids[at], self.names[at], self.keys[at] = row.id, row.name, f"{row.name}\n{row.id}".lower()
        self.org[at], self.type[at], self.synthetic[at] = org, kind, row.synthetic
        self.lon[at] = np.nan if row.lon is None else row.lon
        self.lat[at] = np.nan if row.lat is None else row.lat
        return True

    def _mark(self, nos: Sequence[int], has: dict[int, int | None], open_alarms: dict[int, int]) -> None:
        at, _ = self.rows(np.array(nos, np.int64))
        self.device[at] = 0
        self.alarms[at] = 0
        at, known = self.rows(np.fromiter(has, np.int64, len(has)))
        self.device[at] = 1
        times = np.array([t or 0 for t in has.values()], np.int64)[known]
        self.seen[at] = np.maximum(self.seen[at], times)
        self.stored[at] = times
        at, known = self.rows(np.fromiter(open_alarms, np.int64, len(open_alarms)))
        self.alarms[at] = np.fromiter(open_alarms.values(), np.int64, len(open_alarms))[known]

    def _org_code(self, org: str) -> int:
        code = self._org_codes.get(org)
        if code is None:
            code = self._org_codes[org] = len(self.orgs)
            self.orgs.append(org)
        return code

    def _type_code(self, name: str) -> int:
        code = self._type_codes.get(name)
        if code is None:
            code = self._type_codes[name] = len(self.types)
            self.types.append(name)
            self._offline_after = np.append(self._offline_after, self._after(name))
        return code

    def _after(self, name: str) -> np.int64:
        model = self.house.packs.models.get(name)
        return np.int64(model.offline_after_s if model else OFFLINE_AFTER)

    def _declared(self) -> None:
        """Models changed, and with them when things are offline."""
        self._offline_after = np.array([self._after(name) for name in self.types], np.int64)

    def changed(self, key: str) -> None:
        """Note entities to read again: their numbers, with spaces between them; everything if empty."""
        numbers = [part for part in key.split() if part.isdigit()]
        if not numbers:
            self._stale = True
        self._dirty.update(map(int, numbers))

    def made(self, key: str) -> None:
        """Note entities that were made somewhere (`runs`): `follow` reads them, but for one that was committed later than
        a newer one."""
        for part in key.split():
            first, last = map(int, part.split("-"))
            nos = np.arange(first, min(last, int(self.no[-1]) if self.size else 0) + 1)
            at = np.searchsorted(self.no, nos)
            self._dirty.update(nos[self.no[at] != nos].tolist())

    async def follow(self) -> None:
        """Keep up with SQL, for ever: what the bus named and what is new each half second."""
        last_check = last_reload = time.monotonic()
        cost = 0.0
        while True:
            await asyncio.sleep(0.5)
            async with self._lock:
                began = time.monotonic()
                if self._stale and began - last_reload > 10 * cost:
                    await self._reload()
                    last_reload = time.monotonic()
                    cost = last_reload - began
                dirty, self._dirty = self._dirty, set()
                newest = int(self.no[-1]) if self.size else 0
                dirty.update(await self.house.db.read(lambda c, n=newest: _newer(c, n)))  # type: ignore[misc]
                if dirty:
                    await self._refresh(dirty)
            if time.monotonic() - last_check > CHECK_EVERY:
                last_check = time.monotonic()
                size, newest = self.size, int(self.no[-1]) if self.size else 0
                if await self.house.db.read(lambda c, n=newest: _count(c, n)) != size:  # type: ignore[misc]
                    self._stale = True

    async def watermarks(self) -> None:
        """Take the newest reading as the last sign of life of devices that have none; after a start."""
        nos, times = await self.house.readings.watermarks()
        rows, known = self.rows(nos.astype(np.int64))
        newest = np.minimum(times[known], time.time_ns() // 1000)
        unseen = self.seen[rows] == 0
        self.seen[rows[unseen]] = newest[unseen]

    async def keep_seen(self) -> None:
        """Write the last signs of life to SQL each half minute, for ever: what a restart begins with."""
        try:
            while True:
                await asyncio.sleep(KEEP_EVERY)
                await self._keep()
        finally:
            await self._keep()

    async def _keep(self) -> None:
        moved = np.flatnonzero((self.device > 0) & (self.seen > self.stored))
        nos, times = self.no[moved], self.seen[moved]
        seen = devices.c.seen_at
        statement = (
            devices.update()
            .where(devices.c.entity_no == sa.bindparam("no"), sa.or_(seen.is_(None), seen < sa.bindparam("seen")))
            .values(seen_at=sa.bindparam("seen"))
        )
        for start in range(0, len(moved), KEEP_AT_ONCE):
            part = slice(start, start + KEEP_AT_ONCE)
            rows = [{"no": no, "seen": at} for no, at in zip(nos[part].tolist(), times[part].tolist(), strict=True)]
            await self.house.db.write(lambda c, rows=rows: c.execute(statement, rows) and None)  # type: ignore[misc]
            at, known = self.rows(nos[part])
            self.stored[at] = times[part][known]

    # -- signs of life

    def heard(self, nos: NDArray[np.int64], at: NDArray[np.int64] | int) -> None:
        """Entities that were heard at `at` (µs)."""
        rows, known = self.rows(nos)
        times = at if isinstance(at, int) else at[known]
        np.maximum.at(self.seen, rows, times)

    def leaves(self, nos: NDArray[np.int64], at: NDArray[np.int64]) -> None:
        """Entities that are offline from `at` (µs) on by their protocol, if they are not heard again."""
        rows, known = self.rows(nos)
        self.gone[rows] = at[known]

    async def recount(self, nos: Collection[int]) -> None:
        """Read how many alarms of these entities are open: after some were raised or cleared."""
        wanted = sorted(set(nos))
        async with self._lock:
            for at in range(0, len(wanted), CHUNK):
                part = wanted[at : at + CHUNK]
                counts = await self.house.db.read(lambda c, part=part: _open_alarms(c, part))  # type: ignore[misc]
                rows, known = self.rows(np.array(part, np.int64))
                self.alarms[rows] = np.array([counts.get(no, 0) for no in part], np.int32)[known]

    # -- asking

    def rows(self, nos: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Row numbers of the entities that are known, and which of `nos` those are."""
        at = np.searchsorted(self.no, nos)
        known = at < self.size
        known[known] = self.no[at[known]] == nos[known]
        return at[known], known

    def row(self, no: int) -> int | None:
        """The row of an entity, or None."""
        at, _ = self.rows(np.array([no], np.int64))
        return int(at[0]) if len(at) else None

    def states(self, rows: Some = ALL) -> NDArray[np.uint8]:
        """The state of rows now (`presence.STATES`)."""
        return states(
            self.seen[rows], time.time_ns() // 1000, self._offline_after[self.type[rows]], self.device[rows], self.alarms[rows],
            self.gone[rows],
        )

    def offline_after(self) -> NDArray[np.int64]:
        """The timeout of every row, in seconds."""
        return self._offline_after[self.type]

    def within(self, orgs: Orgs, rows: Some = ALL) -> NDArray[np.bool_]:
        """Which rows belong to these organisations."""
        own = self.org[rows]
        if orgs.all:
            return np.ones(len(own), bool)
        table = np.array([name in orgs.ids for name in self.orgs] or [False], bool)
        return table[own]

    def of_types(self, names: Iterable[str], rows: Some = ALL) -> NDArray[np.bool_]:
        """Which rows are of these types."""
        wanted = set(names)
        table = np.array([name in wanted for name in self.types] or [False], bool)
        return table[self.type[rows]]

    def search(
        self, orgs: Orgs, *, q: str = "", kind: str | None = None, state: int | None = None,
        synthetic: bool | None = None, nos: Sequence[int] | None = None, after: int = 0, limit: int = 50,
        count: bool = False,
    ) -> Found:
        """Entities whose name or id contains `q` (any case), of `nos` if given, in the order of their numbers. Without a count
        it looks no further than the page."""
        grouped = None
        if nos is not None:
            grouped = np.zeros(self.size, bool)
            grouped[self.rows(np.array(nos, np.int64))[0]] = True

        def chosen(rows: slice) -> NDArray[np.bool_]:
            mask = self.within(orgs, rows)
            if grouped is not None:
                mask &= grouped[rows]
            if kind is not None:
                mask &= self.of_types([kind], rows)
            if synthetic is not None:
                mask &= self.synthetic[rows] == int(synthetic)
            if state is not None:
                mask &= self.states(rows) == state
            return mask

        wanted, keys = q.lower(), self.keys
        begin, total = int(np.searchsorted(self.no, after, side="right")), 0
        page: list[int] = []
        for start in range(0 if count else begin, self.size, BLOCK):
            mask = chosen(slice(start, start + BLOCK))
            if count and not q:
                total += int(np.count_nonzero(mask))
                if len(page) > limit or start + BLOCK <= begin:
                    continue
            hits = (np.flatnonzero(mask) + start).tolist()
            if q:
                hits = [row for row in hits if wanted in keys[row]]
                total += len(hits)
            page += [row for row in hits if row >= begin][: limit + 1 - len(page)]
            if len(page) > limit and not count:
                break
        return Found(page[:limit], len(page) > limit, total if count else None)


def _entities(connection: sa.Connection, nos: Sequence[int] | None) -> Sequence[Any]:
    query = sa.select(
        entities.c.no, entities.c.id, entities.c.org, entities.c.type, sa.func.coalesce(entities.c.name, "").label("name"), entities.c.synthetic,
        entities.c.lon, entities.c.lat,
    ).order_by(entities.c.no)
    if nos is not None:
        query = query.where(entities.c.no.in_(nos))
    return connection.execute(query).all()


def _count(connection: sa.Connection, no: int) -> int:
    """How many entities there are up to a number."""
    count = sa.select(sa.func.count()).select_from(entities)
    everything: int = connection.execute(count).scalar_one()  # by the smallest index
    later: int = connection.execute(count.where(entities.c.no > no)).scalar_one()
    return everything - later


def _newer(connection: sa.Connection, no: int) -> list[int]:
    query = sa.select(entities.c.no).where(entities.c.no > no).order_by(entities.c.no).limit(20_000)
    return list(connection.execute(query).scalars())


def _marks(connection: sa.Connection, nos: Sequence[int] | None = None) -> tuple[dict[int, int | None], dict[int, int]]:
    has = sa.select(devices.c.entity_no, devices.c.seen_at)
    if nos is not None:
        has = has.where(devices.c.entity_no.in_(nos))
    return {row[0]: row[1] for row in connection.execute(has)}, _open_alarms(connection, nos)


def _open_alarms(connection: sa.Connection, nos: Sequence[int] | None) -> dict[int, int]:
    query = (
        sa.select(alarms.c.entity_no, sa.func.count()).where(alarms.c.cleared_at.is_(None)).group_by(alarms.c.entity_no)
    )
    if nos is not None:
        query = query.where(alarms.c.entity_no.in_(nos))
    return {row[0]: row[1] for row in connection.execute(query)}
