"""Things: the read side of everything registered, for the console.

Law: results only of organisations that the actor may see, by every door; a thing that he may not see is `NotFound`,
exactly as one that does not exist. Nothing here scans: lists and counts come from the directory, values from the
maintained latest values and roll-ups.
"""

from __future__ import annotations

import asyncio
import base64
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from tulou.access.directory import Directory
from tulou.access.groups.tables import members
from tulou.access.presence import STATES
from tulou.access.products.offers import offered
from tulou.access.service import Devices
from tulou.context import ContextService, forms
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.http import cursor, from_cursor
from tulou.kernel.organisations import Organisations
from tulou.kernel.packs import Model, Property
from tulou.kernel.policy import ROOT, Actor, Orgs, operation
from tulou.kernel.readings import Value

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ = "access.thing.read"
DAY = 86_400_000_000
MOST = 500_000
"""Readings of one property in one page of an export."""
MAPS = 16
"""Maps kept compressed: one for each set of organisations and types asked for."""


def instant(micros: int) -> str:
    """RFC 3339 UTC, to the millisecond (or finer where it matters), of µs since the epoch."""
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def micros(text: str | None, field: str) -> int | None:
    """µs of an RFC 3339 time or of milliseconds since the epoch; None if absent. Raises `Invalid`."""
    if not text:
        return None
    if text.lstrip("-").isdigit():
        return int(text) * 1000
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+"))
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise Invalid(
            f"{field} 应为带时区的 RFC 3339 时间或毫秒数", f"{field} must be an RFC 3339 time with zone, or milliseconds",
            field=field, value=text, rule="RFC 3339",
        )
    return int(when.timestamp() * 1e6)


def no_such_thing(no: Any) -> NotFound:
    """The one error for a thing that is not there or must not be known."""
    return NotFound(f"没有编号为 {no} 的实体", f"no thing {no}", field="no", value=no)


def value_of(prop: Property | None, value: float | str | None) -> Any:
    """A stored value of a property as JSON (`json_value`)."""
    return json_value(prop.kind if prop else "number", value)


def json_value(kind: str, value: float | str | None) -> Any:
    """A stored value as JSON: booleans are stored as 1 and 0, objects as text."""
    if kind == "boolean" and isinstance(value, float):
        return value != 0
    if kind == "json" and isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return value


def text_of(raw: bytes) -> dict[str, str]:
    """Raw bytes as `{raw, encoding}`: UTF-8 text where they are, else base64."""
    try:
        return {"raw": raw.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"raw": base64.b64encode(raw).decode(), "encoding": "base64"}


@dataclass(slots=True)
class _Map:
    """The part of a map that rarely changes: JSON columns without `state`, deflated up to a full flush."""

    version: int
    rows: Any
    deflated: bytes
    crc: int
    size: int


class Things:
    """The operations on things."""

    def __init__(self, house: House, directory: Directory, devices: Devices) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self.devices = devices
        self._maps: OrderedDict[Any, _Map] = OrderedDict()
        self._mapping: dict[Any, asyncio.Lock] = {}

    # -- lists

    @operation(READ)
    async def find(
        self, actor: Actor, *, q: str = "", kind: str | None = None, org: str | None = None,
        state: str | None = None, synthetic: bool | None = None, group: int | None = None, limit: int = 50,
        after: str | None = None, count: bool = False,
    ) -> dict[str, Any]:
        """Things whose name or id contains `q`, with their latest values. Keyset-paged by number."""
        orgs = self.policy.require_any(actor, READ).narrow(org)
        last = from_cursor(after, 1)
        if state is not None and state not in STATES:
            raise Invalid(
                f"state 应为 {'、'.join(STATES)}", f"state must be one of {', '.join(STATES)}",
                field="state", value=state, rule="ok | alarm | offline",
            )
        grouped: list[int] | None = None
        if group is not None:
            grouped = await self.house.db.read(lambda c: [row[0] for row in c.execute(members(group, orgs))])
        found = self.directory.search(
            orgs, nos=grouped, q=q, kind=kind, state=None if state is None else STATES.index(state), synthetic=synthetic,
            after=int(last[0]) if last else 0, limit=limit, count=count,
        )
        directory = self.directory
        nos = [int(directory.no[row]) for row in found.rows]
        latest = await self.house.readings.latest(nos, orgs=orgs) if nos else {}
        answer: dict[str, Any] = {
            "items": self._items(nos, latest),
            "next": cursor([nos[-1]]) if found.more else None,
        }
        if count:
            answer["count"] = found.count
        return answer

    def _items(self, nos: list[int], latest: dict[int, dict[str, Value]]) -> list[dict[str, Any]]:
        """Things as lists show them, of those that are still there."""
        rows, _ = self.directory.rows(np.array(nos, np.int64))
        states = self.directory.states(rows)
        return [self._item(row, state, latest) for row, state in zip(rows.tolist(), states.tolist(), strict=True)]

    def _item(self, row: int, state: int, latest: dict[int, dict[str, Value]]) -> dict[str, Any]:
        directory = self.directory
        no = int(directory.no[row])
        kind, org = directory.types[directory.type[row]], directory.orgs[directory.org[row]]
        properties = self._properties(kind)
        known = self.house.service(Organisations).rows.get(org, {})
        seen, lon = int(directory.seen[row]), float(directory.lon[row])
        return {
            "no": no, "id": directory.ids[row], "name": directory.names[row], "type": kind, "org": org,
            "org_name": known.get("name_zh", org), "org_name_en": known.get("name_en", org),
            "state": STATES[state], "synthetic": bool(directory.synthetic[row]),
            "last_seen": instant(seen) if seen else None,
            "lon": None if np.isnan(lon) else lon, "lat": None if np.isnan(lon) else float(directory.lat[row]),
            "latest": {
                name: {
                    "value": value_of(properties.get(name), reading.value), "ts": instant(reading.ts),
                    "unit": unit_of(properties.get(name)), "quality": reading.quality,
                }
                for name, reading in sorted(latest.get(no, {}).items())
            },
        }

    def _properties(self, kind: str) -> dict[str, Property]:
        model = self.house.packs.models.get(kind)
        return model.properties if model else {}

    @operation(READ)
    async def models(self, actor: Actor) -> list[dict[str, Any]]:
        """The entity types that packs declare, and the products that the actor's organisations have."""
        orgs = self.policy.require_any(actor, READ)
        return [self._model(name, model) for name, model in sorted(offered(self.house, orgs).items())]

    def _model(self, name: str, model: Model) -> dict[str, Any]:
        return {
            "type": name, "label_zh": model.label.zh, "label_en": model.label.en, "icon": model.icon or None,
            "pack": self.house.packs.pack_of[name], "org": self.house.packs.org_of.get(name), "open": model.open, "offline_after_s": model.offline_after_s,
            "properties": [
                {
                    "name": key, "kind": prop.kind, "unit": unit_of(prop), "unit_code": prop.unit or None,
                    "label_zh": prop.label.zh, "label_en": prop.label.en, "min": prop.min, "max": prop.max,
                }
                for key, prop in model.properties.items()
            ],
        }

    # -- one thing

    async def _row(self, actor: Actor, no: int) -> int:
        visible = self.policy.require_any(actor, READ)
        row = self.directory.row(no)
        if row is None:  # perhaps made a moment ago, by another process or engine
            await self.directory.refresh([no])
            row = self.directory.row(no)
        if row is None or self.directory.orgs[self.directory.org[row]] not in visible:
            raise no_such_thing(no)
        return row

    @operation(READ)
    async def key(self, actor: Actor, no: int) -> tuple[str, str]:
        """A thing's identifier and organisation. Raises `NotFound`."""
        row = await self._row(actor, no)
        return self.directory.ids[row], self.directory.orgs[self.directory.org[row]]

    @operation(READ)
    async def get(self, actor: Actor, no: int) -> dict[str, Any]:
        """One thing with its NGSI-LD document, its device and its model. Raises `NotFound`."""
        row = await self._row(actor, no)
        directory = self.directory
        kind, org = directory.types[directory.type[row]], directory.orgs[directory.org[row]]
        latest = await self.house.readings.latest([no], orgs=[org])
        items = self._items([no], latest)
        if not items:
            raise no_such_thing(no)
        item = items[0]
        context = self.house.service(ContextService)
        entity = await context.retrieve(actor, item["id"], tenant=org)
        doc = forms.write(entity.document, context.names, forms.Form())
        model = self.house.packs.models.get(kind)
        device = await self.devices.of_entity(actor, no)
        known = device is not None or kind in offered(self.house, self.policy.visible(actor, READ))
        return {**item, "doc": doc, "device": device, "model": self._model(kind, model) if model and known else None}

    @operation(READ)
    async def series(
        self, actor: Actor, no: int, prop: str, start: int | None, end: int | None, points: int
    ) -> dict[str, Any]:
        """At most about `points` points `[ms, avg, min, max]` of a property in [start, end) (µs); the last day if
        not given."""
        row = await self._row(actor, no)
        end = time.time_ns() // 1000 + 1 if end is None else end
        start = end - DAY if start is None else start
        if not 1 <= points <= 10_000:
            raise Invalid("points 应为 1 至 10000", "points must be 1..10000", field="points", value=points, rule="1..10000")
        org = self.directory.orgs[self.directory.org[row]]
        series = await self.house.readings.series(no, prop, start, end, points, orgs=[org])
        known = self._properties(self.directory.types[self.directory.type[row]]).get(prop)
        return {
            "property": prop, "unit": unit_of(known), "resolution": series.resolution,
            "points": [[t // 1000, average, low, high] for t, average, low, high in series.points],
            "count": series.count,
        }

    @operation(READ)
    async def frames(self, actor: Actor, no: int, *, limit: int = 50, after: str | None = None) -> dict[str, Any]:
        """Raw device messages, newest first."""
        row = await self._row(actor, no)
        last = from_cursor(after, 3)
        org = self.directory.orgs[self.directory.org[row]]
        found = await self.house.readings.frames(
            no, orgs=[org], after=(int(last[0]), int(last[1]), int(last[2])) if last else None, limit=limit + 1
        )
        page = found[:limit]
        return {
            "items": [
                {
                    "ts": instant(f.ts), "protocol": f.protocol, **text_of(self.devices.shown(f.protocol, f.raw)),
                    "dup": f.dup, "seq": f.seq,
                    "frame": f.frame,
                }
                for f in page
            ],
            "next": cursor([page[-1].ts, page[-1].seq, page[-1].frame]) if len(found) > limit else None,
        }

    @operation(READ)
    async def history(
        self, actor: Actor, kind: str, start: int, end: int, *, org: str | None = None, limit: int = 20,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Every reading in [start, end) (µs) of the next `limit` things of a type, thing by thing.

        Items are `[org, id, no, property, ts (µs), value, text, quality, origin]`, of text values with a null value.
        Raises `Invalid` when one property has more readings than fit: ask for less time.
        """
        orgs = self.policy.require_any(actor, READ).narrow(org)
        last = from_cursor(after, 1)
        found = self.directory.search(orgs, kind=kind, after=int(last[0]) if last else 0, limit=limit)
        directory = self.directory
        facts = {
            int(directory.no[row]): (directory.orgs[directory.org[row]], directory.ids[row]) for row in found.rows
        }
        nos = list(facts)
        known = await self.house.readings.history(nos, None, start, end, orgs=orgs, limit=MOST) if nos else {}
        items: list[list[Any]] = []
        for no in nos:
            for prop, values in sorted(known.get(no, {}).items()):
                if len(values) >= MOST:
                    raise Invalid(
                        f"{facts[no][1]} 的 {prop} 在这段时间内超过 {MOST} 个读数，请缩短时间",
                        f"{prop} of {facts[no][1]} has {MOST} readings or more in this time; ask for less time",
                        field="to", rule=f"< {MOST} readings",
                    )
                for v in values:
                    value, text = (None, v.value) if isinstance(v.value, str) else (v.value, "")
                    items.append([*facts[no], no, prop, v.ts, value, text, v.quality, v.origin])
        return {"items": items, "next": cursor([nos[-1]]) if found.more else None}

    # -- the map

    @operation(READ)
    async def map(self, actor: Actor, types: tuple[str, ...], seen: str | None) -> tuple[str, bytes | None]:
        """Every visible thing that has a place, as columns: (ETag, gzip), or (ETag, None) if it equals `seen`.

        All but the states is compressed once and kept; the states are compressed for each answer and joined on, which
        DEFLATE allows after a full flush (RFC 1951, 3.2.4; RFC 1952, 2.2).
        """
        orgs = self.policy.require_any(actor, READ)
        part = await self._static(orgs, types)
        states = self.directory.states(part.rows)
        body = b'"state":' + orjson.dumps(states.tolist()) + b"}"
        crc = zlib.crc32(body, part.crc)
        etag = f'"{part.size + len(body):x}-{crc:08x}"'
        if seen is not None and etag in seen:
            return etag, None
        tail = zlib.compressobj(1, zlib.DEFLATED, -15)
        return etag, b"".join((
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff", part.deflated, tail.compress(body), tail.flush(),
            crc.to_bytes(4, "little"), (part.size + len(body) & 0xFFFFFFFF).to_bytes(4, "little"),
        ))

    async def _static(self, orgs: Orgs, types: tuple[str, ...]) -> _Map:
        key = (orgs, types)
        lock = self._mapping.setdefault(key, asyncio.Lock())
        async with lock:
            directory = self.directory
            part = self._maps.get(key)
            if part is None or part.version != directory.version:
                version = directory.version
                mask = directory.within(orgs) & ~np.isnan(directory.lon) & ~np.isnan(directory.lat)
                if types:
                    mask &= directory.of_types(types)
                rows = np.flatnonzero(mask)
                kinds, kind = np.unique(directory.type[rows], return_inverse=True)
                columns = {
                    "types": [directory.types[code] for code in kinds.tolist()],
                    "no": directory.no[rows],
                    "id": [directory.ids[row] for row in rows.tolist()],
                    "name": [directory.names[row] for row in rows.tolist()],
                    "org": [directory.orgs[code] for code in directory.org[rows].tolist()],
                    "type": kind,
                    "lon": directory.lon[rows],
                    "lat": directory.lat[rows],
                    "synthetic": directory.synthetic[rows],
                }
                part = await asyncio.to_thread(_deflated, version, rows, columns)
                self._maps[key] = part
            self._maps.move_to_end(key)
            while len(self._maps) > MAPS:
                old, _ = self._maps.popitem(last=False)
                self._mapping.pop(old, None)
            return part

    # -- figures

    @operation(READ)
    async def overview(self, actor: Actor, counters: dict[str, Any], rate: list[list[float]]) -> dict[str, Any]:
        """Counts of what the actor may see; `counters` and `rate` are those of `live.Hub` for the same actor."""
        orgs = self.policy.require_any(actor, READ)
        directory = self.directory
        mask = directory.within(orgs)
        synthetic = mask & (directory.synthetic > 0)
        by_type = np.bincount(directory.type[mask], minlength=len(directory.types)).tolist()
        rows = []
        for name, count in zip(directory.types, by_type, strict=True):
            model = self.house.packs.models.get(name)
            if count:
                rows.append({
                    "type": name, "label_zh": model.label.zh if model else name,
                    "label_en": model.label.en if model else name, "count": count,
                })
        figures = self.house.figures()
        return {
            "counters": counters,
            "synthetic": {
                "entities": int(synthetic.sum()), "devices": int((synthetic & (directory.device > 0)).sum()),
            },
            "by_type": sorted(rows, key=lambda r: (-r["count"], r["type"])),
            "targets": figures.get(
                "plan.targets", {"measured": 0, "reported": 0, "no_data": 0, "met": 0, "total": 0}
            ),
            "rate": rate,
            "systems": figures.get("plan.systems", {"works": 0, "partial": 0, "none": 0}),
        }

    @operation("readings.sql.read")
    async def sql(self, actor: Actor, query: str, seconds: float, max_rows: int) -> dict[str, Any]:
        """A free, read-only query of the readings store: `{columns, rows}`.

        It sees every organisation's rows, so it is for those who may read the whole house.
        """
        self.policy.require(actor, "readings.sql.read", ROOT)
        table = await self.house.readings.sql(query, seconds=seconds, max_rows=max_rows)
        return {"columns": table.columns, "rows": [list(row) for row in table.rows]}


def unit_of(prop: Property | None) -> str | None:
    """What people read beside a value."""
    return (prop.symbol or prop.unit or None) if prop else None


def _deflated(version: int, rows: Any, columns: dict[str, Any]) -> _Map:
    text = orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY)[:-1] + b","
    pressed = zlib.compressobj(1, zlib.DEFLATED, -15)
    return _Map(
        version, rows, pressed.compress(text) + pressed.flush(zlib.Z_FULL_FLUSH), zlib.crc32(text), len(text)
    )
