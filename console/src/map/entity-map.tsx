/** The map of Fujian with its entities (WebGL). `entity-map-simple.tsx` stands in where there is no WebGL. */
import type { Map as MapLibre } from "maplibre-gl";
import { useEffect, useRef, useState } from "react";
import type { Outlines } from "../../scripts/outlines.ts";
import { useLive } from "../api/live.ts";
import type { MapColumns } from "../api/types.ts";
import { StateMark, SyntheticTag } from "../components/tags.tsx";
import { useSettings } from "../settings.tsx";
import { DARK, LIGHT } from "../theme.ts";
import { PointLayer, type Rgb } from "./points.ts";
import { provinceMap } from "./province-map.ts";
import { FUJIAN } from "./style.ts";

export interface EntityMapProps {
  outlines: Outlines;
  columns: MapColumns;
  /** Types to show; empty: all. */
  types: string[];
  typeLabel(type: string): string;
  onPick(no: number): void;
}

const rgb = (hex: string): Rgb => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255) as Rgb;

// Where the reader last looked, so that a change of language or appearance does not throw them back.
let view: { center: [number, number]; zoom: number } | null = null;

export default function EntityMap({ outlines, columns, types, typeLabel, onPick }: EntityMapProps) {
  const { dark, language, text } = useSettings();
  const holder = useRef<HTMLDivElement>(null);
  const layer = useRef<PointLayer | null>(null);
  const map = useRef<MapLibre | null>(null);
  const [loaded, setLoaded] = useState<MapLibre | null>(null);
  const [hover, setHover] = useState<{ row: number; x: number; y: number } | null>(null);
  const pick = useRef(onPick);
  useEffect(() => {
    pick.current = onPick;
  });

  useEffect(() => {
    const created = provinceMap(holder.current!, outlines, { dark, language, text }, view ? { ...view, bounds: undefined } : {});
    created.on("load", () => setLoaded(created));
    created.on("moveend", () => {
      const { lng, lat } = created.getCenter();
      view = { center: [lng, lat], zoom: created.getZoom() };
    });
    created.on("mousemove", (event) => {
      const row = layer.current?.find(event.lngLat.lng, event.lngLat.lat, created.getZoom(), 9) ?? null;
      created.getCanvas().style.cursor = row === null ? "" : "pointer";
      setHover(row === null ? null : { row, x: event.point.x, y: event.point.y });
    });
    created.on("mouseout", () => setHover(null));
    created.on("click", (event) => {
      const found = layer.current;
      const row = found?.find(event.lngLat.lng, event.lngLat.lat, created.getZoom(), 12) ?? null;
      if (found && row !== null) pick.current(found.columns.no[row]!);
    });
    map.current = created;
    return () => {
      map.current = null;
      layer.current = null;
      setLoaded(null);
      created.remove();
    };
  }, [outlines, dark, language, text]);

  useEffect(() => {
    // A map that was replaced (language, appearance) is still in `loaded` for a moment.
    if (!loaded || loaded !== map.current) return;
    const palette = dark ? DARK : LIGHT;
    const states: [Rgb, Rgb, Rgb] = [rgb(palette.ok), rgb(palette.alarm), rgb(palette.offline)];
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const points = new PointLayer(columns, { states, edge: rgb(palette.province) }, still);
    loaded.addLayer(points, "city-name");
    layer.current = points;
    return () => {
      layer.current = null;
      if (map.current === loaded && loaded.getLayer(points.id)) loaded.removeLayer(points.id);
    };
  }, [columns, loaded, dark]);

  useEffect(() => {
    const points = layer.current;
    if (!points) return;
    const wanted = new Set(types.map((type) => points.columns.types.indexOf(type)));
    points.filter((row) => wanted.size === 0 || wanted.has(points.columns.type[row]!));
  }, [types, columns, loaded, dark]);

  useLive("latest", (readings) => layer.current?.touch([...new Set(readings.map(({ no }) => no))]));
  useLive("alarm", (alarm) => layer.current?.setState(alarm.no, alarm.cleared_at ? 0 : alarm.rule === "offline" ? 2 : 1));

  return (
    <div className="entity-map" role="region" aria-label={text.cockpit.map}>
      <div ref={holder} className="entity-map-canvas" data-testid="map" data-ready={loaded !== null} />
      {hover && (
        <div className="map-tip" style={{ left: hover.x, top: hover.y }}>
          <div className="map-tip-name">{columns.name[hover.row] || columns.id[hover.row]}</div>
          <div className="map-tip-line">
            <StateMark state={columns.state[hover.row]!} synthetic={columns.synthetic[hover.row]} />
            <span>{typeLabel(columns.types[columns.type[hover.row]!] ?? "")}</span>
            {columns.synthetic[hover.row] ? <SyntheticTag /> : null}
          </div>
        </div>
      )}
      <button type="button" className="map-home" onClick={() => map.current?.fitBounds(FUJIAN, { padding: 12 })}>
        {text.cockpit.resetView}
      </button>
    </div>
  );
}
