"""The operations of SensorThings: answering a resource path, and taking Observations.

Law: every operation asks the policy, and an entity of an organisation that the actor may not see is `NotFound` and is
never counted. A 201 is sent when the Observation is durable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from tulou.access.batch import BatchBuilder
from tulou.access.directory import Directory
from tulou.access.http import HttpDoor
from tulou.access.products.offers import offered
from tulou.access.sensorthings import odata
from tulou.access.sensorthings.answering import Answer, Asking
from tulou.access.sensorthings.collections import Collections
from tulou.access.sensorthings.model import DATASTREAM, OBSERVATION, SETS, Reading, Stream, Vocabulary, micros_of
from tulou.access.sensorthings.odata import Options, Segment
from tulou.access.telemetry import TELEMETRY, Chunk, decode
from tulou.access.things import READ
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, TooLarge, TulouError, Unavailable
from tulou.kernel.policy import EVERYWHERE, Actor, Orgs, operation
from tulou.kernel.readings import Value

if TYPE_CHECKING:
    from tulou.kernel.house import House

CREATE = "access.observation.create"
PROTOCOL = "sensorthings"
MOST_LINES = 10_000
"""Observations of one `CreateObservations`."""
REPORTED, SYNTHETIC = 1, 3

REQUIREMENTS = "http://www.opengis.net/spec/iot_sensing/1.1/req/"
CONFORMANCE = [
    REQUIREMENTS + name for name in (
        "datamodel", "resource-path/resource-path-to-entities", "request-data", "data-array/data-array",
    )
]
OVER_MQTT = [REQUIREMENTS + name for name in ("create-observations-via-mqtt/observations-creation", "receive-updates-via-mqtt/receive-updates")]
LIMITS_ZH = "只能新建 Observations（含 CreateObservations）；其余实体由 /api/v1 与 NGSI-LD 建立；没有批量请求与 MultiDatastream"
LIMITS_EN = (
    "only Observations can be created (also by CreateObservations); the rest is made by /api/v1 and NGSI-LD; no batch "
    "requests, no MultiDatastream"
)


class NotOffered(TulouError):
    """Something that the standard has and this door does not: 501."""

    status, code = 501, "not-offered"
    title_zh, title_en = "未提供", "Not offered"


class SensorThings:
    """The operations."""

    def __init__(self, house: House, directory: Directory, door: HttpDoor) -> None:
        self.house = house
        self.policy = house.policy
        self.directory = directory
        self.door = door
        self._words: dict[frozenset[str], Vocabulary] = {}
        house.packs.followers.append(self._words.clear)

    @operation(READ)
    async def index(self, actor: Actor, base: str) -> dict[str, Any]:
        """The service root (18-088, 9.2): entity sets, what of the standard holds, and where MQTT is (14.2, 14.3)."""
        self.policy.require_any(actor, READ)
        settings, host = self.house.settings, urlsplit(base).hostname or ""
        at = f"[{host}]" if ":" in host else host
        ends = [f"{scheme}://{at}:{port}" for scheme, port in (("mqtt", settings.mqtt_port), ("mqtts", settings.mqtts_port)) if port > 0]
        over_mqtt = OVER_MQTT if ends else []
        return {
            "value": [{"name": name, "url": f"{base}/{name}"} for name in SETS],
            "serverSettings": {
                "conformance": [*CONFORMANCE, *over_mqtt], **{name: {"endpoints": ends} for name in over_mqtt},
                "limits_zh": LIMITS_ZH, "limits_en": LIMITS_EN,
            },
        }

    @operation(READ)
    async def read(self, actor: Actor, segments: Sequence[Segment], options: Options, base: str) -> Answer:
        """What a resource path leads to (18-088, 9.2), with its query options (9.3). Raises `NotFound`, `Invalid`."""
        return await self._asking(actor, base).answer(segments, options)

    def _asking(self, actor: Actor, base: str) -> Asking:
        orgs = self.policy.require_any(actor, READ)
        words = self.words(orgs)
        return Asking(words, Collections(self.house, self.directory, words, actor, orgs), base)

    def words(self, orgs: Orgs) -> Vocabulary:
        """The types and properties of those who may see these organisations."""
        models = offered(self.house, orgs)
        key = frozenset(self.house.packs.org_of.keys() & models.keys())
        if len(self._words) > 100:
            self._words.clear()
        words = self._words.get(key)
        if words is None:
            words = self._words[key] = Vocabulary(dict(models))
        return words

    @operation(CREATE)
    async def create(self, actor: Actor, segments: Sequence[Segment], body: Any, base: str) -> str:
        """Take one Observation (18-088, 10.2); returns its address once it is durable.

        Kept are `phenomenonTime` (an instant, to the millisecond; now if absent) and `result`; the origin is *reported*,
        or synthetic where the Thing is. Raises `NotOffered` for other entities, `Invalid` for what cannot be kept.
        """
        asking = self._asking(actor, base)
        kind = SETS.get(segments[-1].name) if segments else None
        if kind != OBSERVATION or segments[-1].key is not None:
            raise NotOffered(LIMITS_ZH, LIMITS_EN, field="path", rule="POST Observations")
        if not isinstance(body, dict):
            raise Invalid("请求体应为一个 Observation", "the body must be an Observation", field="body", rule="object")
        if len(segments) > 1:
            target, item = await asking.walk(segments[:-1])
            if target != DATASTREAM or not isinstance(item, Stream):
                raise NotOffered(LIMITS_ZH, LIMITS_EN, field="path", rule="POST Datastreams(id)/Observations")
            stream = item
        else:
            stream = await self._named(asking, body.get("Datastream"), "Datastream")
        self.policy.require(actor, CREATE, stream.place.org)
        line = self._line(stream, body)
        await self._differs(stream, line[1], body["result"])
        ts = (await self._store(actor, stream, [line]))[0]
        return asking.link(OBSERVATION, Reading(stream, Value(ts, 0.0, 0, 0)))

    @operation(CREATE)
    async def create_array(self, actor: Actor, body: Any, base: str) -> list[str]:
        """Take `CreateObservations` (18-088, clause 13): for each Observation, in order, its address once it is durable, or
        `error: ` and why it was refused; its neighbours are not lost."""
        asking = self._asking(actor, base)
        if not isinstance(body, list):
            raise Invalid("请求体应为数组", "the body must be an array", field="body", rule="18-088, clause 13")
        for group in body:
            if not isinstance(group, dict) or not all(
                isinstance(group.get(name), list) for name in ("components", "dataArray")
            ):
                raise Invalid("应有 Datastream、components 与 dataArray", "Datastream, components and dataArray are needed",
                              field="dataArray", rule="18-088, clause 13")
        if sum(len(group["dataArray"]) for group in body) > MOST_LINES:
            raise TooLarge(f"超过 {MOST_LINES} 个 Observation", f"more than {MOST_LINES} Observations", field="dataArray",
                           rule=f"<= {MOST_LINES}")
        answers: list[str] = []
        for group in body:
            rows, names = group["dataArray"], group["components"]
            try:
                stream = await self._named(asking, group.get("Datastream"), "Datastream")
                self.policy.require(actor, CREATE, stream.place.org)
            except TulouError as error:
                answers += [f"error: {error.zh} ({error.en})"] * len(rows)
                continue
            good: list[tuple[int, bytes, int | None]] = []
            for row in rows:
                try:
                    if not isinstance(row, list) or len(row) != len(names):
                        raise Invalid("行与 components 不等长", "the row is not as long as components", field="dataArray",
                                      rule="same length")
                    told = dict(zip(names, row, strict=True))
                    payload, ts = self._line(stream, {
                        name: value for name, value in told.items() if name not in ("id", "FeatureOfInterest/id")
                    })
                except TulouError as error:
                    answers.append(f"error: {error.zh} ({error.en})")
                    continue
                good.append((len(answers), payload, ts))
                answers.append("")
            lines = [(payload, ts) for _, payload, ts in good]
            stamps = await self._store(actor, stream, lines) if good else []
            for (at, _, _), ts in zip(good, stamps, strict=True):
                answers[at] = asking.link(OBSERVATION, Reading(stream, Value(ts, 0.0, 0, 0)))
        return answers

    async def _named(self, asking: Asking, reference: Any, field: str) -> Stream:
        key = reference.get("@iot.id") if isinstance(reference, dict) else None
        if key is None:
            raise Invalid(f"缺少 {field}", f"{field} is missing", field=field, rule='{"@iot.id": ...}')
        item = await asking.collections.fetch(DATASTREAM, key)
        assert isinstance(item, Stream)
        return item

    async def _differs(self, stream: Stream, ts: int | None, result: Any) -> None:
        """Raises `Conflict` where the instant has another result already: the first stays (as the writer has it)."""
        if ts is None:
            return
        place = stream.place
        known = await self.house.readings.observations(
            place.no, stream.property, ts, ts + 1, orgs=[place.org], limit=1
        )
        if known and self.words(EVERYWHERE).result(Reading(stream, known[0])) != result:
            raise Conflict("此时刻已有另一结果", "there is another result for this instant", field="result",
                           value=result, rule="one result for an instant")

    def _line(self, stream: Stream, body: dict[str, Any]) -> tuple[bytes, int | None]:
        """The reading as telemetry has it, and its time (µs) if it says one. Raises `Invalid` naming the field."""
        for name in body:
            if name not in ("phenomenonTime", "resultTime", "result", "Datastream"):
                raise Invalid(f"Observation 的 {name} 不能保存", f"{name} of an Observation cannot be kept", field=name,
                              rule="phenomenonTime | resultTime | result | Datastream")
        if "result" not in body:
            raise Invalid("缺少 result", "result is missing", field="result", rule="required")
        values = {stream.property: body["result"]}
        when = body.get("phenomenonTime") or body.get("resultTime")
        ts = None
        if when is not None:
            try:
                ts = micros_of(odata.instant(when)) // 1000
            except (ValueError, TypeError, AttributeError, OverflowError):
                raise Invalid("phenomenonTime 应为带时区的 ISO 8601 时刻", "phenomenonTime must be an ISO 8601 instant "
                              "with a zone", field="phenomenonTime", value=when, rule="ISO 8601 instant") from None
        payload = orjson.dumps(values if ts is None else {"ts": ts, "values": values})
        now = time.time_ns() // 1000
        decoded = decode([self._chunk(stream, [payload], now)], BatchBuilder(PROTOCOL), now // 1000)
        if decoded.dead:
            refusal = decoded.dead[0].refusal
            raise Invalid(refusal.zh, refusal.en, field="phenomenonTime" if refusal.rule.startswith("ts") else "result",
                          value=refusal.value, rule=refusal.rule)
        return payload, None if ts is None else ts * 1000

    def _chunk(self, stream: Stream, payloads: list[bytes], ts: int) -> Chunk:
        place = stream.place
        origin = SYNTHETIC if place.synthetic else REPORTED
        return Chunk(TELEMETRY, place.no, (place.org, place.type, origin), self.door.rules.get(place.type), payloads, ts)

    async def _store(self, actor: Actor, stream: Stream, lines: Sequence[tuple[bytes, int | None]]) -> list[int]:
        """Store readings and return their times (µs) when they are durable: their own, or when they were received.

        The audit knows who reported them before they are stored: nothing is reported by nobody.
        """
        ingestor = self.door.ingestor
        if ingestor is None:
            raise Unavailable("入口尚未打开", "the door is not open", rule="bus")
        self.door.quotas.spend(stream.place.org, len(lines))
        place, told = stream.place, {"datastream": stream.property, "observations": len(lines)}
        await self.house.db.write(lambda connection: audit.record(connection, actor, CREATE, place.org, place.id, told))
        first = ingestor.stamp(len(lines))
        await ingestor.submit(self._chunk(stream, [payload for payload, _ in lines], first))
        return [first + n if ts is None else ts for n, (_, ts) in enumerate(lines)]
