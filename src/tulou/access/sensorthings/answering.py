"""Answers of SensorThings: where a resource path leads, and entities as JSON with what is expanded of them.

Law: what a path says must hold: `Things(1)/Datastreams('2:pm25')` is not found. An answer is bounded: of what is
expanded when it is full there is the link only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import orjson

from tulou.access.sensorthings.collections import (
    EXPANDED,
    MOST_ASKED,
    MOST_EXPANDED,
    Collections,
    Page,
    Scope,
    no_such,
    size_of,
)
from tulou.access.sensorthings.evaluate import no_property, resolve
from tulou.access.sensorthings.model import (
    DATASTREAM,
    FIELDS,
    NAVIGATION,
    OBSERVATION,
    SET_OF,
    SETS,
    Item,
    Reading,
    Stream,
    Vocabulary,
)
from tulou.access.sensorthings.odata import Options, Segment, bad
from tulou.kernel.errors import NotFound
from tulou.kernel.readings import Value


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path leads to: JSON, or the text of a `$value` (None: there is no value, 204)."""

    body: Any = None
    text: str | None = None
    empty: bool = False


class Asking:
    """One request: its collections, and how far its answer may still grow."""

    def __init__(self, words: Vocabulary, collections: Collections, base: str) -> None:
        self.words = words
        self.collections = collections
        self.base = base
        self.budget = MOST_EXPANDED
        self.asked = 0

    # -- addresses

    def link(self, kind: str, item: Item) -> str:
        """`@iot.selfLink`."""
        key = self.words.id(kind, item)
        text = str(key) if isinstance(key, int) else quote("'" + key.replace("'", "''") + "'", safe="':@")
        return f"{self.base}/{SET_OF[kind]}({text})"

    # -- paths

    async def answer(self, segments: Sequence[Segment], options: Options) -> Answer:
        """See `SensorThings.read`."""
        last = segments[-1].name
        raw, reference = last == "$value", last == "$ref"
        parts = segments[:-1] if raw or reference else segments
        if not parts:
            raise NotFound(f"没有实体集 {last}", f"no entity set {last}", field="path", value=last)
        at = next((n for n, part in enumerate(parts) if n and not self._leads(parts[:n], part)), len(parts))
        if reference and at == len(parts):
            return await self._references(parts, options)
        if at < len(parts):
            kind, item = await self.walk(parts[:at])
            return self._property(kind, item, segments[at:] if reference else parts[at:], raw)
        if raw:
            raise NotFound(f"{parts[-1].name} 没有 $value", f"{parts[-1].name} has no $value", field="path", value="$value")
        if parts[-1].key is None and self._many(parts):
            return Answer(await self.collection(await self._scope(parts), options, self._address(parts)))
        kind, item = await self.walk(parts)
        return Answer((await self.render(kind, [item], options))[0])

    def _kind(self, parts: Sequence[Segment]) -> str:
        """The kind that segments of entity sets and navigation properties lead to. Raises `NotFound`."""
        kind = SETS.get(parts[0].name)
        if kind is None:
            raise NotFound(f"没有实体集 {parts[0].name}", f"no entity set {parts[0].name}", field="path", value=parts[0].name)
        for part in parts[1:]:
            kind = NAVIGATION[kind][part.name][0]
        return kind

    def _leads(self, before: Sequence[Segment], part: Segment) -> bool:
        return part.name in NAVIGATION[self._kind(before)]

    def _many(self, parts: Sequence[Segment]) -> bool:
        if len(parts) == 1:
            self._kind(parts)
            return True
        return NAVIGATION[self._kind(parts[:-1])][parts[-1].name][1]

    def _address(self, parts: Sequence[Segment]) -> str:
        shown = []
        for part in parts:
            key = part.key
            text = "" if key is None else f"({key})" if isinstance(key, int) else "('" + key.replace("'", "''") + "')"
            shown.append(quote(part.name + text, safe="()':@"))
        return f"{self.base}/{'/'.join(shown)}"

    async def _scope(self, parts: Sequence[Segment]) -> Scope:
        kind = self._kind(parts)
        return Scope(kind) if len(parts) == 1 else Scope(kind, await self.walk(parts[:-1]))

    async def walk(self, parts: Sequence[Segment]) -> tuple[str, Item]:
        """The one entity that a path leads to. Raises `NotFound`."""
        first = parts[0]
        kind = self._kind(parts[:1])
        if first.key is None:
            raise bad("集合之后须有键", "a key must follow the entity set", field="path", value=first.name,
                      rule="18-088, 9.2")
        item = await self.collections.fetch(kind, first.key)
        for part in parts[1:]:
            target = NAVIGATION[kind].get(part.name)
            if target is None:
                raise no_property((part.name,), kind)
            to, several = target
            if not several:
                step = self.words.follow(kind, item, part.name)
                if step is None or step[1] is None or part.key is not None:
                    raise no_such(part.name, part.key)
                kind, item = step[0], step[1]
                continue
            if part.key is None:
                raise bad("集合之后须有键", "a key must follow the collection", field="path", value=part.name,
                          rule="18-088, 9.2")
            found = await self.collections.fetch(to, part.key)
            if not self.words.belongs(kind, item, to, found):
                raise no_such(part.name, part.key)
            kind, item = to, found
        return kind, item

    def _property(self, kind: str, item: Item, parts: Sequence[Segment], raw: bool) -> Answer:
        names = tuple(part.name for part in parts)
        if any(part.key is not None for part in parts) or not (
            names[0] in FIELDS[kind] or names in (("id",), ("@iot.id",))
        ):
            raise NotFound(f"{kind} 没有 {names[0]}", f"{kind} has no {names[0]}", field="path", value=names[0])
        value = resolve(self.words, kind, item, names[:1])
        for name in names[1:]:
            if not isinstance(value, dict) or name not in value:
                raise NotFound(f"{kind} 没有 {'/'.join(names)}", f"{kind} has no {'/'.join(names)}", field="path", value=name)
            value = value[name]
        if value is None:
            return Answer(empty=True)
        if not raw:
            return Answer({names[-1]: value})
        if isinstance(value, str):
            return Answer(text=value)
        return Answer(text=orjson.dumps(value, option=orjson.OPT_UTC_Z).decode().strip('"'))

    async def _references(self, parts: Sequence[Segment], options: Options) -> Answer:
        """`$ref` (18-088, 9.2): addresses only."""
        bare = replace(options, select=("@iot.selfLink",), expand={}, data_array=False)
        if parts[-1].key is None and self._many(parts):
            return Answer(await self.collection(await self._scope(parts), bare, self._address([*parts, Segment("$ref")])))
        kind, item = await self.walk(parts)
        return Answer({"@iot.selfLink": self.link(kind, item)})

    # -- collections

    async def collection(self, scope: Scope, options: Options, address: str) -> dict[str, Any]:
        """A page as JSON."""
        page = await self.collections.page(scope, options)
        body: dict[str, Any] = {}
        if page.count is not None:
            body["@iot.count"] = page.count
        if page.following is not None:
            body["@iot.nextLink"] = next_link(address, options, page.following)
        if options.data_array:
            body["value"] = self._arrays(page, options)
        else:
            body["value"] = await self.render(scope.kind, page.items, options)
        return body

    def _arrays(self, page: Page, options: Options) -> list[dict[str, Any]]:
        """Observations by Datastream (18-088, clause 13)."""
        names = list(options.select) or ["id", "phenomenonTime", "resultTime", "result"]
        for name in names:
            if name not in ("id", "@iot.id", *FIELDS[OBSERVATION]):
                raise no_property((name,), OBSERVATION)
        groups: dict[tuple[int, str], dict[str, Any]] = {}
        for item in page.items:
            assert isinstance(item, Reading)
            key = (item.stream.place.no, item.stream.property)
            group = groups.get(key)
            if group is None:
                group = groups[key] = {
                    "Datastream@iot.navigationLink": self.link(DATASTREAM, item.stream), "components": names,
                    "dataArray@iot.count": 0, "dataArray": [],
                }
            group["dataArray"].append([
                self.words.id(OBSERVATION, item) if name in ("id", "@iot.id") else self.words.field(OBSERVATION, item, name)
                for name in names
            ])
            group["dataArray@iot.count"] += 1
        return list(groups.values())

    # -- JSON

    async def render(self, kind: str, items: Sequence[Item], options: Options) -> list[dict[str, Any]]:
        """Entities as JSON, with what is expanded of them. Raises `Invalid` for names that there are not."""
        self.budget -= len(items)
        navigation = NAVIGATION[kind]
        for name in options.expand:
            if name not in navigation:
                raise bad(f"{kind} 没有导航属性 {name}", f"{kind} has no navigation property {name}", field="$expand",
                          value=name, rule=" | ".join(navigation))
        chosen = set(options.select)
        for name in chosen:
            if name not in ("id", "@iot.id", "@iot.selfLink", *FIELDS[kind], *navigation):
                raise bad(f"{kind} 没有属性 {name}", f"{kind} has no property {name}", field="$select", value=name,
                          rule=" | ".join(FIELDS[kind]))
        latest = await self.collections.all_latest(kind, items, options)
        return [await self._one(kind, item, options, chosen, latest) for item in items]

    async def _one(
        self, kind: str, item: Item, options: Options, chosen: set[str], latest: dict[int, dict[str, Value]] | None
    ) -> dict[str, Any]:
        link = self.link(kind, item)
        body: dict[str, Any] = {}
        if not chosen or chosen & {"id", "@iot.id"}:
            body["@iot.id"] = self.words.id(kind, item)
        if not chosen or chosen & {"id", "@iot.id", "@iot.selfLink"}:
            body["@iot.selfLink"] = link
        for name in FIELDS[kind]:
            if not chosen or name in chosen:
                body[name] = self.words.field(kind, item, name)
        for name, (to, several) in NAVIGATION[kind].items():
            if name not in options.expand:
                if not chosen or name in chosen:
                    body[f"{name}@iot.navigationLink"] = f"{link}/{name}"
                continue
            inner = options.expand[name]
            if not several:
                step = self.words.follow(kind, item, name)
                assert step is not None
                body[name] = None if step[1] is None else (await self.render(step[0], [step[1]], inner))[0]
                continue
            if latest is not None and isinstance(item, Stream):
                page = self.collections.newest(item, latest.get(item.place.no, {}).get(item.property))
            elif self.budget <= 0 or self.asked >= MOST_ASKED:
                page = Page([], ("$skip", "0"))  # the answer is full: the link has it
            else:
                self.asked += to == OBSERVATION
                size = min(EXPANDED if inner.top is None else size_of(inner), self.budget)
                page = await self.collections.page(Scope(to, (kind, item)), replace(inner, top=size))
            if page.count is not None:
                body[f"{name}@iot.count"] = page.count
            body[name] = await self.render(to, page.items, inner)
            if page.following is not None:
                body[f"{name}@iot.nextLink"] = next_link(f"{link}/{name}", inner, page.following)
        return body


def next_link(address: str, options: Options, following: tuple[str, str]) -> str:
    """`@iot.nextLink`: the same question, further on."""
    pairs = [(name, value) for name, value in options.raw if name not in ("$skip", "$skiptoken")]
    text = "&".join(f"{name}={quote(value, safe=chr(36) + '(),/;=:')}" for name, value in [*pairs, following])
    return f"{address}?{text}"
