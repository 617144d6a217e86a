/** Things of a layer on the province's map, coloured by the step of a scale in which each value is (WebGL). */
import type { GeoJSONSource, Map as MapLibre } from "maplibre-gl";
import { useEffect, useRef, useState } from "react";
import type { Outlines } from "../../scripts/outlines.ts";
import { levelOf, type LayerThings } from "../api/indicators.ts";
import { SyntheticTag } from "../components/tags.tsx";
import { useFormat } from "../format.ts";
import { useSettings } from "../settings.tsx";
import { DARK, LIGHT, levelColours } from "../theme.ts";
import { provinceMap } from "./province-map.ts";

interface Props {
  outlines: Outlines;
  things: LayerThings;
  label: string;
  onPick(no: number): void;
}

export default function LayerMap({ outlines, things, label, onPick }: Props) {
  const { dark, language, text } = useSettings();
  const format = useFormat();
  const holder = useRef<HTMLDivElement>(null);
  const map = useRef<MapLibre | null>(null);
  const [loaded, setLoaded] = useState<MapLibre | null>(null);
  const [hover, setHover] = useState<{ row: number; x: number; y: number } | null>(null);
  const now = useRef({ things, onPick });
  useEffect(() => {
    now.current = { things, onPick };
  });

  useEffect(() => {
    const palette = dark ? DARK : LIGHT;
    const created = provinceMap(holder.current!, outlines, { dark, language, text }, { scrollZoom: false });
    created.on("load", () => {
      created.addSource("things", { type: "geojson", data: { type: "FeatureCollection", features: [] } });
      const radius = ["interpolate", ["linear"], ["zoom"], 6, 4.5, 10, 9] as never;
      created.addLayer({
        id: "things",
        type: "circle",
        source: "things",
        layout: { "circle-sort-key": ["get", "order"] },
        paint: {
          "circle-radius": radius,
          "circle-color": ["case", ["get", "made_up"], palette.province, ["get", "colour"]],
          "circle-stroke-color": ["case", ["get", "made_up"], ["get", "colour"], palette.panel],
          "circle-stroke-width": ["case", ["get", "made_up"], 2.6, 1],
          "circle-opacity": 0.95,
        },
      });
      setLoaded(created);
    });
    created.on("mousemove", "things", (event) => {
      created.getCanvas().style.cursor = "pointer";
      const row = event.features?.[0]?.properties["row"] as number | undefined;
      if (row !== undefined) setHover({ row, x: event.point.x, y: event.point.y });
    });
    created.on("mouseleave", "things", () => {
      created.getCanvas().style.cursor = "";
      setHover(null);
    });
    created.on("click", "things", (event) => {
      const row = event.features?.[0]?.properties["row"] as number | undefined;
      const no = row === undefined ? undefined : now.current.things.no[row];
      if (no !== undefined) now.current.onPick(no);
    });
    map.current = created;
    return () => {
      map.current = null;
      setLoaded(null);
      created.remove();
    };
  }, [outlines, dark, language, text]);

  useEffect(() => {
    if (!loaded || loaded !== map.current) return;
    const { levels, better } = things.layer;
    const colours = levelColours(levels, better);
    const palette = dark ? DARK : LIGHT;
    loaded.getSource<GeoJSONSource>("things")?.setData({
      type: "FeatureCollection",
      features: things.no.map((_, row) => {
        const value = things.value[row] ?? null;
        const level = levelOf(levels, value);
        return {
          type: "Feature",
          geometry: { type: "Point", coordinates: [things.lon[row]!, things.lat[row]!] },
          properties: {
            row,
            order: value === null ? -1 : (level ?? 0),
            made_up: Boolean(things.made_up[row]),
            colour: value === null ? palette.offline : level === null ? palette.primary : colours[level],
          },
        };
      }),
    });
  }, [things, loaded, dark]);

  const value = hover === null ? null : (things.value[hover.row] ?? null);
  const level = levelOf(things.layer.levels, value);
  return (
    <div className="entity-map" role="region" aria-label={label}>
      <div ref={holder} className="entity-map-canvas" data-testid="layer-map" data-ready={loaded !== null} />
      {hover && things.no[hover.row] !== undefined && (
        <div className="map-tip" style={{ left: hover.x, top: hover.y }}>
          <div className="map-tip-name">{things.name[hover.row]}</div>
          <div className="map-tip-line">
            <span>
              {value === null ? text.packs.noValue : `${format.figure(value)} ${things.layer.unit}`}
              {level !== null && ` · ${things.layer.levels[level]!.label[language]}`}
            </span>
            {things.made_up[hover.row] ? <SyntheticTag /> : null}
          </div>
        </div>
      )}
    </div>
  );
}
