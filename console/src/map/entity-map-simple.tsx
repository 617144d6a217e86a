/** The same map without WebGL: outlines and points by ECharts on a plain canvas. */
import { ScatterChart } from "echarts/charts";
import { GeoComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef } from "react";
import { useSettings } from "../settings.tsx";
import { DARK, LIGHT } from "../theme.ts";
import type { EntityMapProps } from "./entity-map.tsx";
import { cityName } from "./style.ts";

echarts.use([GeoComponent, ScatterChart, TooltipComponent, CanvasRenderer]);

type Props = Pick<EntityMapProps, "outlines" | "columns" | "types" | "onPick"> & {
  /** What the states of the columns are coloured by; without them they are ok, alarm and offline. */
  colours?: string[];
};

export default function SimpleMap({ outlines, columns, types, onPick, colours }: Props) {
  const { dark, language, text } = useSettings();
  const holder = useRef<HTMLDivElement>(null);

  useEffect(() => {
    const palette = dark ? DARK : LIGHT;
    const features = outlines.features.filter(({ properties }) => properties.kind === "city");
    echarts.registerMap("fujian", {
      type: "FeatureCollection",
      features: features.map((feature) => ({
        ...feature,
        properties: { name: cityName(feature.properties.name, language), cp: feature.properties.label },
      })),
    } as never);
    const chart = echarts.init(holder.current);
    const wanted = new Set(types.map((type) => columns.types.indexOf(type)));
    const series = (colours ?? [palette.ok, palette.alarm, palette.offline]).flatMap((colour, state) =>
      [0, 1].map((synthetic) => ({
        type: "scatter" as const,
        coordinateSystem: "geo" as const,
        large: true,
        largeThreshold: 3000,
        symbol: synthetic ? "emptyCircle" : "circle",
        symbolSize: (colours || state === 1 ? 6 : 4) * (columns.no.length > 20_000 ? 0.7 : 1),
        itemStyle: { color: colour },
        z: state === 1 ? 5 : 3,
        data: columns.no.flatMap((no, row) =>
          columns.state[row] === state &&
          Number(Boolean(columns.synthetic[row])) === synthetic &&
          (wanted.size === 0 || wanted.has(columns.type[row]!))
            ? [{ value: [columns.lon[row]!, columns.lat[row]!], name: columns.name[row], no }]
            : [],
        ),
      })),
    );
    chart.setOption({
      animation: false,
      backgroundColor: palette.sea,
      tooltip: {},
      geo: {
        map: "fujian",
        roam: true,
        itemStyle: { areaColor: palette.province, borderColor: palette.provinceLine },
        emphasis: { disabled: true },
        label: { show: true, color: palette.label },
      },
      series,
    });
    chart.on("click", (event) => {
      const no = (event.data as { no?: number } | undefined)?.no;
      if (no !== undefined) onPick(no);
    });
    const watch = new ResizeObserver(() => chart.resize());
    watch.observe(holder.current!);
    return () => {
      watch.disconnect();
      chart.dispose();
    };
  }, [outlines, columns, types, dark, language, onPick, colours]);

  return (
    <div className="entity-map" role="region" aria-label={text.cockpit.map}>
      <div ref={holder} className="entity-map-canvas" data-testid="map-simple" />
      <div className="map-note">
        {text.cockpit.noWebgl} {text.cockpit.attribution}
      </div>
    </div>
  );
}
