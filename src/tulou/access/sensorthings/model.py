"""The entities of SensorThings (OGC 18-088, clause 8) as views of what the house has: what they are called, what fields
they have, and how one leads to another.

Law: pure; nothing is stored twice. A Thing is an entity, its Location and FeatureOfInterest are that entity's place, a HistoricalLocation is since when, a
Sensor is an entity type, an ObservedProperty is a property's name, a Datastream is (entity, property), an Observation
is a reading. Ids say so and can be read back: `17`, `'17:1795788000000000'` (a place
since µs), `'AirQualityStation'`, `'pm25'`, `'17:pm25'`,
`'17:pm25:1795788000000000'` (µs since the epoch).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tulou.access.things import value_of
from tulou.kernel.packs import Model, Property
from tulou.kernel.readings import Value

THING, LOCATION, HISTORICAL, DATASTREAM = "Thing", "Location", "HistoricalLocation", "Datastream"
SENSOR, PROPERTY, OBSERVATION, FEATURE = "Sensor", "ObservedProperty", "Observation", "FeatureOfInterest"

SETS: Mapping[str, str] = {
    "Things": THING, "Locations": LOCATION, "HistoricalLocations": HISTORICAL, "Datastreams": DATASTREAM,
    "Sensors": SENSOR, "ObservedProperties": PROPERTY, "Observations": OBSERVATION, "FeaturesOfInterest": FEATURE,
}
"""Entity sets: name -> what is in it."""
SET_OF: Mapping[str, str] = {kind: name for name, kind in SETS.items()}

NAVIGATION: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    THING: {"Locations": (LOCATION, True), "HistoricalLocations": (HISTORICAL, True), "Datastreams": (DATASTREAM, True)},
    LOCATION: {"Things": (THING, True), "HistoricalLocations": (HISTORICAL, True)},
    HISTORICAL: {"Thing": (THING, False), "Locations": (LOCATION, True)},
    DATASTREAM: {
        "Thing": (THING, False), "Sensor": (SENSOR, False), "ObservedProperty": (PROPERTY, False),
        "Observations": (OBSERVATION, True),
    },
    SENSOR: {"Datastreams": (DATASTREAM, True)},
    PROPERTY: {"Datastreams": (DATASTREAM, True)},
    OBSERVATION: {"Datastream": (DATASTREAM, False), "FeatureOfInterest": (FEATURE, False)},
    FEATURE: {"Observations": (OBSERVATION, True)},
}
"""Navigation properties (18-088, clause 8): kind -> name -> (kind, whether many)."""

FIELDS: Mapping[str, tuple[str, ...]] = {
    THING: ("name", "description", "properties"),
    LOCATION: ("name", "description", "encodingType", "location", "properties"),
    HISTORICAL: ("time",),
    DATASTREAM: ("name", "description", "observationType", "unitOfMeasurement", "properties"),
    SENSOR: ("name", "description", "encodingType", "metadata", "properties"),
    PROPERTY: ("name", "description", "definition", "properties"),
    OBSERVATION: ("phenomenonTime", "resultTime", "result", "resultQuality", "parameters"),
    FEATURE: ("name", "description", "encodingType", "feature", "properties"),
}

PLACED = frozenset({THING, LOCATION, HISTORICAL, FEATURE})
"""Kinds whose items are entities."""

OM = "http://www.opengis.net/def/observationType/OGC-OM/2.0/"
OBSERVATION_TYPE = {
    "number": f"{OM}OM_Measurement", "boolean": f"{OM}OM_TruthObservation", "string": f"{OM}OM_CategoryObservation",
    "json": f"{OM}OM_Observation",
}
GEOJSON = "application/geo+json"
ORIGINS = ("measured", "reported", "estimated", "synthetic")
QUALITIES = ("good", "uncertain", "bad")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Place(NamedTuple):
    """An entity as the store has it; `geometry` is GeoJSON where it is not a point, `since` the µs of its place, which
    is where it was, not where it is, when not `current`."""

    no: int
    id: str
    org: str
    type: str
    name: str
    synthetic: bool
    lon: float | None
    lat: float | None
    geometry: Any
    since: int
    current: bool = True


class Stream(NamedTuple):
    """A Datastream: a property of an entity."""

    place: Place
    property: str


class Reading(NamedTuple):
    """An Observation."""

    stream: Stream
    value: Value


Item = Place | Stream | Reading | str
"""An entity of SensorThings; Sensors and ObservedProperties are their names."""


def moment(ts: int) -> datetime:
    """The UTC time of µs since the epoch."""
    return EPOCH + timedelta(microseconds=ts)


def micros_of(when: datetime) -> int:
    """µs since the epoch of a time with a zone."""
    return (when - EPOCH) // timedelta(microseconds=1)


def stream_key(text: Any) -> tuple[int, str] | None:
    """(entity, property) of a Datastream's id, or None."""
    no, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    return (int(no), name) if colon and no.isascii() and no.isdigit() and len(no) < 19 and name else None


def moment_key(text: Any) -> tuple[int, int] | None:
    """(entity, µs) of a HistoricalLocation's id, or of a Location's that is history; None if it is neither."""
    pair = stream_key(text)
    return (pair[0], int(pair[1])) if pair and pair[1].isascii() and pair[1].isdigit() and len(pair[1]) < 18 else None


def observation_key(text: Any) -> tuple[int, str, int] | None:
    """(entity, property, µs) of an Observation's id, or None."""
    head, colon, ts = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    stream = stream_key(head)
    digits = ts.removeprefix("-")
    if not colon or stream is None or not (digits.isascii() and digits.isdigit()) or len(digits) > 17:
        return None
    return (*stream, int(ts))


class Vocabulary:
    """Fields and relations of items, with the words that the packs' models have for them."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self.models = models
        self.declared: dict[str, list[tuple[str, Property]]] = {}
        for kind, model in sorted(models.items()):
            for name, prop in model.properties.items():
                self.declared.setdefault(name, []).append((kind, prop))

    def properties(self, kind: str) -> Mapping[str, Property]:
        """The declared properties of an entity type."""
        model = self.models.get(kind)
        return model.properties if model else {}

    def closed(self, kind: str) -> bool:
        """Whether things of this type have declared properties only."""
        model = self.models.get(kind)
        return model is not None and not model.open

    def label(self, kind: str) -> str:
        """What people call a type."""
        model = self.models.get(kind)
        return f"{model.label.zh} · {model.label.en}" if model else kind

    def id(self, kind: str, item: Item) -> int | str:
        """`@iot.id`."""
        match item:
            case str():
                return item
            case Place():
                if kind == HISTORICAL or (kind == LOCATION and not item.current):
                    return f"{item.no}:{item.since}"
                return item.no
            case Stream():
                return f"{item.place.no}:{item.property}"
            case Reading():
                return f"{item.stream.place.no}:{item.stream.property}:{item.value.ts}"

    def field(self, kind: str, item: Item, name: str) -> Any:
        """The value of one field (`FIELDS`), as JSON has it; times are datetimes, a geometry may be None."""
        match item:
            case Place():
                return self._of_place(kind, item, name)
            case Stream():
                return self._of_stream(item, name)
            case Reading():
                return self._of_reading(item, name)
            case _:
                return self._of_type(item, name) if kind == SENSOR else self._of_property(item, name)

    def _of_place(self, kind: str, place: Place, name: str) -> Any:
        match name:
            case "name":
                return place.name or place.id
            case "description":
                return self.label(place.type)
            case "time":
                return moment(place.since)
            case "encodingType":
                return GEOJSON
            case "location" | "feature":
                if place.geometry is not None:
                    return place.geometry
                if place.lon is None:  # 8.2.8 wants a feature; GeoJSON's for what has no place (RFC 7946, 3.2)
                    return {"type": "Feature", "geometry": None, "properties": None}
                return {"type": "Point", "coordinates": [place.lon, place.lat]}
        return {"id": place.id, "type": place.type, "organisation": place.org, "synthetic": place.synthetic}

    def _of_stream(self, stream: Stream, name: str) -> Any:
        place = stream.place
        prop = self.properties(place.type).get(stream.property)
        match name:
            case "name":
                return f"{place.name or place.id} · {prop.label.zh if prop else stream.property}"
            case "description":
                label = f"{prop.label.zh} · {prop.label.en}" if prop else stream.property
                return f"{self.label(place.type)}: {label}"
            case "observationType":
                return OBSERVATION_TYPE[prop.kind] if prop else f"{OM}OM_Observation"
            case "unitOfMeasurement":
                return unit_of_measurement(prop)
        return {
            "property": stream.property, "organisation": place.org, "synthetic": place.synthetic,
            **({"minimum": prop.min} if prop and prop.min is not None else {}),
            **({"maximum": prop.max} if prop and prop.max is not None else {}),
        }

    def _of_reading(self, reading: Reading, name: str) -> Any:
        value = reading.value
        match name:
            case "phenomenonTime" | "resultTime":
                return moment(value.ts)
            case "result":
                return self.result(reading)
            case "resultQuality":
                return QUALITIES[min(value.quality, 2)]
        return {"origin": ORIGINS[min(value.origin, 3)]}

    def result(self, reading: Reading) -> Any:
        """The result as JSON: numbers, booleans, texts and objects as the model has them; None for what is no number."""
        prop = self.properties(reading.stream.place.type).get(reading.stream.property)
        found = value_of(prop, reading.value.value)
        return None if isinstance(found, float) and found != found else found

    def _of_type(self, kind: str, name: str) -> Any:
        model = self.models.get(kind)
        match name:
            case "name":
                return kind
            case "description":
                return self.label(kind)
            case "encodingType":
                return "application/json"
            case "metadata":
                return {
                    "type": kind, "iri": model.iri if model else "",
                    "properties": {
                        key: {"zh": prop.label.zh, "en": prop.label.en, "unit": prop.unit, "kind": prop.kind}
                        for key, prop in self.properties(kind).items()
                    },
                }
        return {"offline_after_s": model.offline_after_s, "open": model.open} if model else {}

    def _of_property(self, name: str, field: str) -> Any:
        known = self.declared.get(name, [])
        match field:
            case "name":
                return name
            case "description":
                return "; ".join(dict.fromkeys(f"{prop.label.zh} · {prop.label.en}" for _, prop in known)) or name
            case "definition":
                return next((prop.iri for _, prop in known if prop.iri), f"urn:tulou:property:{name}")
        return {"types": [kind for kind, _ in known], "units": sorted({prop.unit for _, prop in known if prop.unit})}

    def follow(self, kind: str, item: Item, name: str) -> tuple[str, Item | None] | None:
        """Kind and item that a navigation property of at most one entity leads to (None in it: there is none); None
        where it leads to many, or nowhere."""
        target = NAVIGATION[kind].get(name)
        if target is None:
            return None
        to = target[0]
        match item:
            case Reading():
                return (to, item.stream if to == DATASTREAM else item.stream.place)
            case Stream() if to != OBSERVATION:
                if to == THING:
                    return (to, item.place)
                return (to, item.place.type if to == SENSOR else item.property)
            case Place() if to in PLACED:
                return (to, None if to == LOCATION and item.lon is None else item)
        return None

    def belongs(self, kind: str, item: Item, to: str, other: Item) -> bool:
        """Whether `other`, of kind `to`, is among the many that a navigation property of `item` leads to."""
        match item, other:
            case Place(), Place():
                if (kind, to) in ((LOCATION, HISTORICAL), (HISTORICAL, LOCATION)):
                    return (item.no, item.since) == (other.no, other.since)
                return item.no == other.no and (to != LOCATION or other.current)
            case Place(), Stream():
                return item.no == other.place.no
            case Place(), Reading():
                return item.no == other.stream.place.no
            case Stream(), Reading():
                return (item.place.no, item.property) == (other.stream.place.no, other.stream.property)
            case str(), Stream():
                return item == (other.place.type if kind == SENSOR else other.property)
        return False


def unit_of_measurement(prop: Property | None) -> dict[str, str | None]:
    """`unitOfMeasurement` (18-088, 8.2.4): UN/CEFACT Recommendation 20 codes by the IRI of its common code list."""
    code = prop.unit if prop else ""
    symbol = (prop.symbol or code) if prop else ""
    return {
        "name": code or symbol or None, "symbol": symbol or None,
        "definition": f"https://service.unece.org/trade/uncefact/vocabulary/rec20/#{code}" if code else None,
    }
