/** Amounts side by side: a bar of every series in each category. ECharts, only what is used of it. */
import { BarChart as Bars } from "echarts/charts";
import { GridComponent, LegendComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef } from "react";
import { useSettings } from "../settings.tsx";
import { DARK, FONT, LIGHT, type Palette } from "../theme.ts";

echarts.use([Bars, GridComponent, LegendComponent, TooltipComponent, CanvasRenderer]);

interface Props {
  categories: string[];
  series: { name: string; tone: keyof Palette; values: number[] }[];
  /** How a value is said. */
  say(value: number): string;
  label: string;
}

export default function BarChart({ categories, series, say, label }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const chart = useRef<echarts.ECharts | null>(null);
  const { dark } = useSettings();

  useEffect(() => {
    const created = echarts.init(holder.current);
    chart.current = created;
    const watch = new ResizeObserver(() => created.resize());
    watch.observe(holder.current!);
    return () => {
      watch.disconnect();
      created.dispose();
      chart.current = null;
    };
  }, []);

  useEffect(() => {
    const palette = dark ? DARK : LIGHT;
    chart.current?.setOption(
      {
        animation: false,
        textStyle: { fontFamily: FONT, color: palette.muted },
        grid: { left: 8, right: 8, top: 34, bottom: 8, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
        legend: { top: 0, left: 0, itemWidth: 12, itemHeight: 8, textStyle: { color: palette.text } },
        tooltip: {
          trigger: "axis",
          axisPointer: { type: "shadow" },
          backgroundColor: palette.panel,
          borderColor: palette.line,
          textStyle: { color: palette.text },
          valueFormatter: (value: unknown) => say(Number(value)),
        },
        xAxis: { type: "category", data: categories, axisTick: { show: false }, axisLine: { lineStyle: { color: palette.line } }, axisLabel: { color: palette.muted } },
        yAxis: {
          type: "value",
          splitNumber: 4,
          splitLine: { lineStyle: { color: palette.line } },
          axisLabel: { color: palette.muted, formatter: (value: number) => say(value) },
        },
        series: series.map(({ name, tone, values }) => ({
          type: "bar" as const,
          name,
          data: values,
          barMaxWidth: 34,
          barGap: "10%",
          itemStyle: { color: palette[tone], borderRadius: [2, 2, 0, 0] },
        })),
      },
      { notMerge: true },
    );
  }, [categories, series, say, dark]);

  return <div ref={holder} className="chart bar-chart" role="img" aria-label={label} />;
}
