"""GeoJSON geometries and the NGSI-LD geoquery language.

Law: pure functions. Topology is exact and planar in longitude and latitude, by shapely (GEOS); distance is in metres
on a sphere of the Earth's mean radius (at most 0.6 % from the ellipsoid). The bounding box of a query is a prefilter
that never loses a match.

Sources: ETSI GS CIM 009 v1.9.1 clauses 4.7 and 4.10; RFC 7946 sections 3 and 5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import shapely
from shapely.geometry import shape

from tulou.context.errors import bad

TYPES = frozenset({"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon"})
_DEPTH = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2, "Polygon": 2, "MultiPolygon": 3}
EARTH = 6_371_008.8
MAX_POSITIONS = 100_000

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""

_NEAR = re.compile(r"near;(maxDistance|minDistance)==((?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)")
RELATIONS = ("near", "within", "contains", "intersects", "equals", "disjoint", "overlaps")


def _position(item: Any) -> bool:
    if not isinstance(item, list) or not 2 <= len(item) <= 4:
        return False
    for number in item:
        if type(number) is not float and type(number) is not int:
            return False
    return bool(-180.0 <= item[0] <= 180.0 and -90.0 <= item[1] <= 90.0)


def check(geometry: Any, field: str) -> None:
    """Raise `BadRequestData` unless `geometry` is a GeoJSON geometry of clause 4.7.1 (no GeometryCollection)."""
    if isinstance(geometry, dict):
        kind = geometry.get("type")
        coordinates = geometry.get("coordinates")
        if kind == "Point":
            if _position(coordinates):
                return
        elif isinstance(kind, str) and kind in TYPES and _coordinates(kind, coordinates):
            return
    raise bad(
        f"{field} 应为 GeoJSON 几何（经度 -180..180，纬度 -90..90）",
        f"{field} must be a GeoJSON geometry with longitude -180..180 and latitude -90..90",
        field=field, value=geometry, rule="RFC 7946, 3.1",
    )


def _coordinates(kind: str, coordinates: Any) -> bool:
    level: list[Any] = [coordinates]
    for _ in range(_DEPTH[kind]):
        below: list[Any] = []
        for item in level:
            if not isinstance(item, list) or not item:
                return False
            below.extend(item)
            if len(below) > MAX_POSITIONS:
                return False
        level = below
    if not all(_position(item) for item in level):
        return False
    if kind == "LineString":
        return len(coordinates) >= 2
    if kind == "MultiLineString":
        return all(len(line) >= 2 for line in coordinates)
    rings = coordinates if kind == "Polygon" else [r for p in coordinates for r in p] if kind == "MultiPolygon" else []
    return all(len(ring) >= 4 and ring[0] == ring[-1] for ring in rings)


def extent(geometry: dict[str, Any]) -> tuple[float, float, Box]:
    """Longitude and latitude of a point on the geometry, and its bounding box."""
    geom = shape(geometry)
    point = geom.representative_point()
    west, south, east, north = geom.bounds
    return float(point.x), float(point.y), (float(west), float(south), float(east), float(north))


def haversine(lon: Any, lat: Any, lon0: float, lat0: float) -> Any:
    """Great-circle distance in metres from (lon0, lat0) to points in degrees; numbers or arrays."""
    phi, phi0 = np.radians(lat), math.radians(lat0)
    half = np.sin((phi - phi0) / 2) ** 2 + np.cos(phi) * math.cos(phi0) * np.sin(np.radians(lon - lon0) / 2) ** 2
    return 2 * EARTH * np.arcsin(np.sqrt(np.minimum(1.0, half)))


def distance(a: Any, b: Any) -> float:
    """Metres between the closest points of two geometries."""
    if a.geom_type == "Point" and b.geom_type == "Point":
        return float(haversine(a.x, a.y, b.x, b.y))
    if b.geom_type == "Point":
        a, b = b, a
    centre = a if a.geom_type == "Point" else a.centroid
    if a.geom_type != "Point" and a.intersects(b):
        return 0.0
    flat_a, flat_b = (_azimuthal(g, centre.x, centre.y) for g in (a, b))
    return float(flat_a.distance(flat_b))


def _azimuthal(geom: Any, lon0: float, lat0: float) -> Any:
    """The geometry in metres on an azimuthal equidistant map about (lon0, lat0); long edges are cut up first."""
    if geom.geom_type != "Point":
        west, south, east, north = geom.bounds
        geom = shapely.segmentize(geom, max(0.02, (east - west + north - south) / 2000))
    phi0 = math.radians(lat0)

    def project(xy: Any) -> Any:
        lam, phi = np.radians(xy[:, 0] - lon0), np.radians(xy[:, 1])
        cos_c = np.clip(math.sin(phi0) * np.sin(phi) + math.cos(phi0) * np.cos(phi) * np.cos(lam), -1, 1)
        c = np.arccos(cos_c)
        k = np.where(c < 1e-12, 1.0, c / np.maximum(np.sin(c), 1e-15))
        x = EARTH * k * np.cos(phi) * np.sin(lam)
        y = EARTH * k * (math.cos(phi0) * np.sin(phi) - math.sin(phi0) * np.cos(phi) * np.cos(lam))
        return np.column_stack([x, y])

    return shapely.transform(shapely.force_2d(geom), project)


class GeoQuery:
    """A parsed geoquery. `geoproperty` is a stored name; `box` is None when every place may match."""

    def __init__(self, relation: str, reference: Any, metres: float | None, least: bool, geoproperty: str) -> None:
        self.relation = relation
        self.reference = reference
        self.metres = metres
        self.least = least
        self.geoproperty = geoproperty
        self.box = self._box()
        shapely.prepare(reference)

    def _box(self) -> Box | None:
        if self.relation == "disjoint" or self.least:
            return None
        west, south, east, north = self.reference.bounds
        if self.metres is not None:
            degrees = math.degrees(self.metres / EARTH) * 1.01 + 1e-9
            south, north = south - degrees, north + degrees
            edge = max(abs(south), abs(north))
            if edge >= 89.9:
                west, east = -180.0, 180.0
            else:
                wide = degrees / math.cos(math.radians(edge))
                west, east = west - wide, east + wide
                if west < -180 or east > 180:
                    west, east = -180.0, 180.0
        return west, south, east, north

    def match(self, geometry: dict[str, Any]) -> bool:
        """Whether a target GeoJSON geometry matches."""
        target = shape(geometry)
        if not target.is_valid:
            target = shapely.make_valid(target)
        ref = self.reference
        if self.metres is not None:
            near = distance(ref, target) <= self.metres
            return near != self.least
        if self.relation == "within":
            return bool(ref.covers(target)) if target.geom_type == "Point" else bool(target.within(ref))
        if self.relation == "contains":
            return bool(target.covers(ref)) if ref.geom_type == "Point" else bool(target.contains(ref))
        result: bool = getattr(target, self.relation)(ref)
        return bool(result)

    def match_points(self, lon: Sequence[float], lat: Sequence[float]) -> list[bool]:
        """As `match` for many points at once."""
        x, y = np.asarray(lon, float), np.asarray(lat, float)
        ref = self.reference
        if self.metres is not None:
            if ref.geom_type == "Point":
                near = haversine(x, y, ref.x, ref.y) <= self.metres
            else:
                near = np.array([distance(ref, shapely.Point(a, b)) <= self.metres for a, b in zip(x, y, strict=True)])
            return list(map(bool, near != self.least))
        if self.relation in ("within", "intersects"):
            return list(map(bool, shapely.intersects_xy(ref, x, y)))
        if self.relation == "disjoint":
            return [not hit for hit in shapely.intersects_xy(ref, x, y)]
        return [self.match({"type": "Point", "coordinates": [a, b]}) for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def parse(georel: Any, geometry: Any, coordinates: Any, geoproperty: str = "location") -> GeoQuery:
    """Parse the four parameters (clause 4.10); `coordinates` is a JSON text or an array.

    Raises `BadRequestData` naming the parameter.
    """
    if not isinstance(georel, str):
        raise bad("缺少 georel", "georel is missing", field="georel", rule="CIM 009, 4.10")
    if not isinstance(geometry, str) or geometry not in TYPES:
        raise bad(f"geometry 应为 {sorted(TYPES)} 之一", f"geometry must be one of {sorted(TYPES)}",
                  field="geometry", value=geometry, rule="RFC 7946, 1.4")
    if isinstance(coordinates, str):
        try:
            coordinates = orjson.loads(coordinates)
        except orjson.JSONDecodeError:
            raise bad("coordinates 不是 JSON", "coordinates is not JSON",
                      field="coordinates", value=coordinates, rule="RFC 7946, 3.1.1") from None
    target = {"type": geometry, "coordinates": coordinates}
    check(target, "coordinates")
    metres: float | None = None
    least = False
    relation = georel.partition(";")[0]
    if relation == "near":
        match = _NEAR.fullmatch(georel)
        metres = float(match.group(2)) if match else 0.0
        if match is None or not 0 < metres < math.inf:
            raise bad("georel 应为 near;maxDistance==米数 或 near;minDistance==米数",
                      "georel must be near;maxDistance==metres or near;minDistance==metres",
                      field="georel", value=georel, rule="CIM 009, 4.10 nearRel")
        least = match.group(1) == "minDistance"
    elif georel not in RELATIONS:
        raise bad(f"georel 应为 {', '.join(RELATIONS)} 之一", f"georel must be one of {', '.join(RELATIONS)}",
                  field="georel", value=georel, rule="CIM 009, 4.10")
    reference = shape(target)
    if not reference.is_valid:
        reference = shapely.make_valid(reference)
    return GeoQuery(relation, reference, metres, least, geoproperty)
