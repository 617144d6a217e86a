"""Telemetry of devices as MQTT messages: `$tulou/<organisation>/<type>/<entity number>/telemetry`.

Law: pure; one batch of the stream READINGS in, for each frame with readings one message out. The payload is what a
device could have sent: `{"ts": milliseconds, "values": {...}}`, with the words of the house whatever protocol it came
by. The first level begins with `$`, so that no filter that begins with a wildcard meets it (MQTT 5.0, 4.7.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import orjson

from tulou.access.batch import column


def messages(data: bytes, wanted: Callable[[bytes], bool]) -> Iterator[tuple[str, bytes, Callable[[], bytes]]]:
    """(organisation, topic, payload) of the frames of a batch (`batch.py`) whose topic is wanted."""
    body: dict[str, Any] = msgpack.unpackb(data, strict_map_key=False)
    entities, classes = column("Q", body["f_entity"]), column("H", body["f_class"])
    frames, names = column("I", body["r_frame"]), column("H", body["r_prop"])
    stamps, values = column("q", body["r_ts"]), column("d", body["r_val"])
    texts, props, kinds = body["r_text"], body["props"], body["classes"]
    topics: dict[tuple[int, int], bytes | None] = {}
    rows: dict[int, dict[int, dict[str, Any]]] = {}
    for row, frame in enumerate(frames):
        number, kind = entities[frame], classes[frame]
        known = (number, kind)
        if known not in topics:
            topic = f"$tulou/{kinds[kind][0]}/{kinds[kind][1]}/{number}/telemetry".encode()
            topics[known] = topic if wanted(topic) else None
        if topics[known] is not None:
            value = texts.get(row, values[row])
            rows.setdefault(frame, {}).setdefault(stamps[row], {})[props[names[row]]] = value
    for frame, by_time in rows.items():
        kind = classes[frame]
        found = topics[entities[frame], kind]
        assert found is not None
        for stamp, properties in sorted(by_time.items()):
            yield kinds[kind][0], found, _payload(stamp, properties)


def _payload(stamp: int, properties: dict[str, Any]) -> Callable[[], bytes]:
    return lambda: orjson.dumps({"ts": stamp // 1000, "values": properties})
