"""Topics of SensorThings over MQTT (OGC 18-088, clause 14): what a subscription asks for, and an Observation as its payload.

Law: pure. A topic is a resource path below `v1.1/`, as it was subscribed, with `$select` where it was asked for; there are no wildcards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgpack
import orjson

from tulou.access.batch import column
from tulou.access.sensorthings import odata
from tulou.access.sensorthings.model import (
    DATASTREAM,
    FEATURE,
    FIELDS,
    LOCATION,
    NAVIGATION,
    OBSERVATION,
    ORIGINS,
    QUALITIES,
    SETS,
    THING,
    moment,
    stream_key,
)
from tulou.access.things import json_value
from tulou.kernel.errors import Invalid

ROOT = "v1.1/"
CHANGING = frozenset({THING, LOCATION, FEATURE, DATASTREAM})
"""Kinds, beside Observations, whose entities appear and change."""
RULE = "v1.1/Observations | Datastreams(id)/Observations | Things, Locations, FeaturesOfInterest, Datastreams, with or without (id) and a property"


class Resource(NamedTuple):
    """What a topic names. `entity` is the Thing that it depends on (None: any), `stream` the Datastream whose Observations it is
    (None: all of them, where the kind is Observation)."""

    kind: str
    path: str
    select: tuple[str, ...]
    entity: int | None = None
    stream: tuple[int, str] | None = None


def concerns(topic: str) -> bool:
    """Whether a topic, or filter, is of SensorThings and not of the topic space."""
    name = topic.removeprefix(ROOT) if topic.startswith(ROOT) else ""
    return name[: next((at for at, sign in enumerate(name) if sign in "(/?"), len(name))] in SETS


def resource(topic: str) -> Resource:
    """What a topic asks for. Raises `Invalid` for what is not offered, or no path."""
    path, _, query = topic.removeprefix(ROOT).partition("?")
    if "+" in path or "#" in path:
        raise _not_offered(topic)
    options = odata.options([(name, unquote(text)) for name, _, text in (part.partition("=") for part in query.split("&") if part)])
    if any(name != "$select" for name, _ in options.raw):
        raise Invalid("主题只能带 $select", "a topic may have $select only", field="topic", value=topic, rule="$select")
    parts = odata.resource(path)
    kind, names = SETS[parts[0].name], [part.name for part in parts]
    key = parts[0].key
    if names in (["Observations"], ["Datastreams", "Observations"]) and parts[-1].key is None and (key is None) == (len(parts) == 1):
        stream = None if key is None else stream_key(key)
        if key is not None and stream is None:
            raise _not_offered(topic)
        return Resource(OBSERVATION, path, _selected(OBSERVATION, options.select), None if stream is None else stream[0], stream)
    if kind not in CHANGING or any(part.key is not None for part in parts[1:]):
        raise _not_offered(topic)
    stream = stream_key(key) if kind == DATASTREAM and key is not None else None
    entity = key if isinstance(key, int) and kind != DATASTREAM else stream[0] if stream is not None else None
    if (key is not None and entity is None) or (key is None and len(parts) > 1) or (len(parts) > 1 and names[1] not in FIELDS[kind]):
        raise _not_offered(topic)
    return Resource(kind, path, _selected(kind, options.select), entity)


def created_at(topic: str) -> bool:
    """Whether an Observation is made by publishing to this topic (14.3)."""
    try:
        asked = resource(topic)
    except Invalid:
        return False
    return asked.kind == OBSERVATION and not asked.select


def _selected(kind: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in ("id", "@iot.id", "@iot.selfLink", *FIELDS[kind], *NAVIGATION[kind]):
            raise Invalid(f"{kind} 没有属性 {name}", f"{kind} has no property {name}", field="$select", value=name, rule=" | ".join(FIELDS[kind]))
    return names


def _not_offered(topic: str) -> Invalid:
    return Invalid(f"不能订阅 {topic}", f"{topic} cannot be subscribed", field="topic", value=topic, rule=RULE)


class Observed(NamedTuple):
    """A reading that was accepted."""

    entity: int
    org: str
    property: str
    type: str
    ts: int
    value: float | str
    quality: int
    origin: int


def observed(data: bytes, wanted: Mapping[tuple[int, str] | None, Any]) -> Iterator[Observed]:
    """The readings of a batch of the stream READINGS that somebody wants, by Datastream or (None) all of them."""
    body: dict[str, Any] = msgpack.unpackb(data, strict_map_key=False)
    entities, of = column("Q", body["r_entity"]), column("H", body["f_class"])
    frames, names = column("I", body["r_frame"]), column("H", body["r_prop"])
    stamps, values = column("q", body["r_ts"]), column("d", body["r_val"])
    texts, props, classes, quality = body["r_text"], body["props"], body["classes"], body.get("r_quality")
    everything = None in wanted
    for row, frame in enumerate(frames):
        name = props[names[row]]
        if everything or (entities[row], name) in wanted:
            org, kind, origin = classes[of[frame]]
            yield Observed(entities[row], org, name, kind, stamps[row], texts.get(row, values[row]), quality[row] if quality else 0, origin)


def payload(one: Observed, kind: str, select: tuple[str, ...], base: str) -> bytes:
    """An Observation as HTTP gives it; `kind` is that of its property, `base` the address of the service."""
    key = f"{one.entity}:{one.property}:{one.ts}"
    text = key.replace("'", "''")
    link = f"{base}/Observations({quote(chr(39) + text + chr(39), safe=chr(39) + ':@')})"
    value = json_value(kind, one.value)
    full = {
        "@iot.id": key, "@iot.selfLink": link, "phenomenonTime": moment(one.ts), "resultTime": moment(one.ts),
        "result": None if isinstance(value, float) and value != value else value, "resultQuality": QUALITIES[min(one.quality, 2)],
        "parameters": {"origin": ORIGINS[min(one.origin, 3)]},
        **{f"{name}@iot.navigationLink": f"{link}/{name}" for name in NAVIGATION[OBSERVATION]},
    }
    if select:
        shown = {name for chosen in select for name in _SHOWN.get(chosen, (chosen, f"{chosen}@iot.navigationLink"))}
        full = {name: said for name, said in full.items() if name in shown}
    return orjson.dumps(full, option=orjson.OPT_UTC_Z)


_SHOWN = {"id": ("@iot.id", "@iot.selfLink"), "@iot.id": ("@iot.id", "@iot.selfLink")}
