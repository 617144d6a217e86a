/** A small map of one place: outlines and the place as SVG, near by or in the whole province. */
import { Segmented } from "antd";
import type { Geometry, Position } from "geojson";
import { useMemo, useState } from "react";
import { positions } from "../api/entities.ts";
import { useOutlines } from "../map/outlines.ts";
import { DARK, LIGHT } from "../theme.ts";
import { FUJIAN, cityName } from "../map/style.ts";
import { useSettings } from "../settings.tsx";

const WIDTH = 440;
const HEIGHT = 300;
/** Degrees of latitude shown at least. */
const NEAR = 0.9;
/** Pixels of the picture within which a name would lie upon the place. */
const APART = 26;
/** Pixels below which a shape gets a ring around it, to be seen at all. */
const TINY = 10;

type Box = [number, number, number, number];
type Project = (at: Position) => [number, number];

const around = (points: Position[]): Box => [
  Math.min(...points.map(([lon]) => lon!)),
  Math.min(...points.map(([, lat]) => lat!)),
  Math.max(...points.map(([lon]) => lon!)),
  Math.max(...points.map(([, lat]) => lat!)),
];

/** Plate carrée, true to scale at the middle of the box, which fits into the picture. */
function projection([west, south, east, north]: Box): { project: Project; shown: Box } {
  const lon = (west + east) / 2;
  const lat = (south + north) / 2;
  const narrow = Math.cos((lat * Math.PI) / 180);
  const scale = Math.min(WIDTH / Math.max((east - west) * narrow, 1e-9), HEIGHT / Math.max(north - south, 1e-9));
  const half: [number, number] = [WIDTH / 2 / scale / narrow, HEIGHT / 2 / scale];
  return {
    project: ([x, y]) => [WIDTH / 2 + (x! - lon) * narrow * scale, HEIGHT / 2 - (y! - lat) * scale],
    shown: [lon - half[0], lat - half[1], lon + half[0], lat + half[1]],
  };
}

const line = (project: Project, ring: Position[], end = ""): string =>
  `M${ring.map((at) => project(at).map((n) => n.toFixed(1)).join(" ")).join("L")}${end}`;

function Shape({ geometry, project, hollow }: { geometry: Geometry; project: Project; hollow: boolean }) {
  const marks = (points: Position[]) =>
    points.map((at, i) => {
      const [x, y] = project(at);
      return <circle key={i} cx={x} cy={y} r={7} className={hollow ? "place-mark hollow" : "place-mark"} />;
    });
  switch (geometry.type) {
    case "Point":
      return marks([geometry.coordinates]);
    case "MultiPoint":
      return marks(geometry.coordinates);
    case "LineString":
      return <path className="place-line" d={line(project, geometry.coordinates)} />;
    case "MultiLineString":
      return <path className="place-line" d={geometry.coordinates.map((part) => line(project, part)).join("")} />;
    case "Polygon":
      return <path className="place-area" d={geometry.coordinates.map((ring) => line(project, ring, "Z")).join("")} />;
    case "MultiPolygon":
      return <path className="place-area" d={geometry.coordinates.flat().map((ring) => line(project, ring, "Z")).join("")} />;
    case "GeometryCollection":
      return geometry.geometries.map((part, i) => <Shape key={i} geometry={part} project={project} hollow={hollow} />);
  }
}

export function PlaceMap({ geometry, synthetic }: { geometry: Geometry; synthetic: boolean }) {
  const { dark, language, text } = useSettings();
  const palette = dark ? DARK : LIGHT;
  const outlines = useOutlines();
  const [view, setView] = useState<"near" | "province">("near");
  const { project, shown } = useMemo(() => {
    if (view === "province") return projection(FUJIAN);
    const [west, south, east, north] = around(positions(geometry));
    const margin = Math.max((NEAR - (north - south)) / 2, (north - south) * 0.15);
    const beside = (east - west) * 0.15;
    return projection([west - beside, south - margin, east + beside, north + margin]);
  }, [geometry, view]);
  const drawn = useMemo(() => {
    const [west, south, east, north] = shown;
    return (outlines.data?.features ?? []).map((feature) => ({
      feature,
      path: feature.geometry.coordinates
        .flat()
        .filter((ring) => {
          const [w, s, e, n] = around(ring);
          return w < east && e > west && s < north && n > south;
        })
        .map((ring) => line(project, ring, "Z"))
        .join(""),
    }));
  }, [outlines.data, project, shown]);
  const cities = drawn.filter(({ feature }) => feature.properties.kind === "city");
  const points = positions(geometry);
  if (points.length === 0) return null;
  const [lon, lat] = points[0]!;
  const words = points.length === 1 ? `${lon!.toFixed(5)}, ${lat!.toFixed(5)}` : `${geometry.type}, ${text.entity.vertices(points.length)}`;

  const [left, top] = project([Math.min(...points.map(([x]) => x!)), Math.max(...points.map(([, y]) => y!))]);
  const [right, bottom] = project([Math.max(...points.map(([x]) => x!)), Math.min(...points.map(([, y]) => y!))]);
  const tiny = points.length > 1 && Math.max(right - left, bottom - top) < TINY;

  return (
    <figure className="place-map">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${text.entity.place} ${words}`} data-testid="place">
        <rect width={WIDTH} height={HEIGHT} fill={palette.sea} />
        {drawn
          .filter(({ feature, path }) => path && feature.properties.kind === "land")
          .map(({ feature, path }) => (
            <path key={feature.properties.name} d={path} fill={palette.land} stroke={palette.cityLine} />
          ))}
        {cities.map(({ feature, path }) => (
          <path key={feature.properties.name} d={path} fill={palette.province} stroke={palette.provinceLine} />
        ))}
        {cities.map(({ feature }) => {
          const [x, y] = project(feature.properties.label);
          const close = points.some((at) => {
            const [px, py] = project(at);
            return Math.abs(px - x) < APART && Math.abs(py - y) < APART;
          });
          return (
            <text
              key={feature.properties.name}
              x={x}
              y={close ? y - APART : y}
              className="place-name"
              fill={palette.label}
              stroke={palette.province}
            >
              {cityName(feature.properties.name, language)}
            </text>
          );
        })}
        {tiny && <circle cx={(left + right) / 2} cy={(top + bottom) / 2} r={TINY + 3} className="place-ring" />}
        <Shape geometry={geometry} project={project} hollow={synthetic} />
      </svg>
      <figcaption>
        <Segmented
          size="small"
          value={view}
          onChange={setView}
          options={[
            { value: "near", label: text.entity.near },
            { value: "province", label: text.entity.province },
          ]}
        />
        <span className="mono">{words}</span>
        <span className="muted place-note">
          {text.entity.datum} · {text.cockpit.attribution}
        </span>
      </figcaption>
    </figure>
  );
}
