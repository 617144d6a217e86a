/** One property over time: the average as a line, minimum to maximum as a band. ECharts, only what is used of it. */
import { LineChart } from "echarts/charts";
import { DataZoomComponent, GridComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef } from "react";
import type { Series } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useSettings, useText } from "../settings.tsx";
import { DARK, FONT, LIGHT } from "../theme.ts";

echarts.use([LineChart, GridComponent, TooltipComponent, DataZoomComponent, CanvasRenderer]);

interface Props {
  series: Series;
  /** The time shown, ms. */
  from: number;
  to: number;
  label: string;
  /** A value holds until the next one. */
  step?: boolean;
  /** The reader has zoomed or moved to this time. */
  onRange(from: number, to: number): void;
}

const DAY = 86_400_000;

export default function Chart({ series, from, to, label, step = false, onRange }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const chart = useRef<echarts.ECharts | null>(null);
  const { dark } = useSettings();
  const text = useText();
  const format = useFormat();
  const range = useRef(onRange);
  const shown = useRef({ from, to });
  useEffect(() => {
    range.current = onRange;
    shown.current = { from, to };
  });

  useEffect(() => {
    const created = echarts.init(holder.current);
    chart.current = created;
    const watch = new ResizeObserver(() => created.resize());
    watch.observe(holder.current!);
    let timer: ReturnType<typeof setTimeout> | undefined;
    created.on("datazoom", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        const zoom = (created.getOption()["dataZoom"] as { startValue: number; endValue: number }[])[0];
        if (!zoom) return;
        const moved = Math.abs(zoom.startValue - shown.current.from) + Math.abs(zoom.endValue - shown.current.to);
        if (moved > 2000) range.current(Math.round(zoom.startValue), Math.round(zoom.endValue));
      }, 250);
    });
    return () => {
      clearTimeout(timer);
      watch.disconnect();
      created.dispose();
      chart.current = null;
    };
  }, []);

  useEffect(() => {
    const palette = dark ? DARK : LIGHT;
    const unit = series.unit ?? "";
    const banded = series.points.some(([, average, low, high]) => low !== average || high !== average);
    const span = to - from;
    const tick = (ms: number): string => {
      const moment = format.moment(ms);
      if (span <= 600_000) return moment.slice(11);
      return span <= 2 * DAY ? moment.slice(11, 16) : moment.slice(5, span <= 8 * DAY ? 16 : 10);
    };
    // Outside of what was fetched the axis goes on, so that one can zoom out and move on.
    const margin = span;
    chart.current?.setOption(
      {
        animation: false,
        textStyle: { fontFamily: FONT, color: palette.muted },
        grid: { left: 12, right: 18, top: 34, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
        tooltip: {
          trigger: "axis",
          backgroundColor: palette.panel,
          borderColor: palette.line,
          textStyle: { color: palette.text },
          formatter: (items: { data: [number, number] }[]) => {
            const at = items[0]?.data[0];
            const point = series.points.find(([ms]) => ms === at);
            if (!point) return "";
            const [ms, average, low, high] = point;
            const value = `${format.scalar(average)} ${unit}`;
            return banded
              ? `${format.moment(ms)}<br>${text.things.average} <b>${value}</b><br>${text.things.band} ${format.scalar(low)} – ${format.scalar(high)} ${unit}`
              : `${format.moment(ms)}<br><b>${value}</b>`;
          },
        },
        dataZoom: [
          { type: "inside", startValue: from, endValue: to, minValueSpan: 10_000, filterMode: "none", zoomOnMouseWheel: true },
        ],
        xAxis: {
          type: "time",
          min: from - margin,
          max: Math.max(to, Math.min(to + margin, Date.now())),
          axisLine: { lineStyle: { color: palette.line } },
          axisLabel: { color: palette.muted, formatter: tick, hideOverlap: true },
          splitLine: { show: false },
        },
        yAxis: {
          type: "value",
          scale: true,
          name: unit,
          nameTextStyle: { color: palette.muted, align: "left" },
          axisLabel: { color: palette.muted },
          splitLine: { lineStyle: { color: palette.line } },
        },
        series: [
          {
            type: "line",
            data: banded ? series.points.map(([ms, , low]) => [ms, low]) : [],
            stack: "band",
            symbol: "none",
            lineStyle: { opacity: 0 },
            silent: true,
            tooltip: { show: false },
          },
          {
            type: "line",
            data: banded ? series.points.map(([ms, , low, high]) => [ms, low === null || high === null ? null : high - low]) : [],
            stack: "band",
            stackStrategy: "all",
            symbol: "none",
            lineStyle: { opacity: 0 },
            areaStyle: { color: palette.primary, opacity: 0.16 },
            silent: true,
            tooltip: { show: false },
          },
          {
            type: "line",
            data: [
              ...series.points.map(([ms, average]) => [ms, average]),
              ...(step ? [[Math.min(to, Date.now()), series.points.at(-1)?.[1] ?? null]] : []),
            ],
            step: step ? "end" : false,
            symbol: series.points.length < 60 ? "circle" : "none",
            symbolSize: 4,
            lineStyle: { width: 1.6, color: palette.primary },
            itemStyle: { color: palette.primary },
          },
        ],
      },
      { replaceMerge: ["series"] },
    );
  }, [series, from, to, step, dark, text, format]);

  return <div ref={holder} className="chart" role="img" aria-label={label} data-testid="chart" />;
}
