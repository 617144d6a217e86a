/** An indicator as lines or bars, over time or side by side. ECharts, only what is used of it. */
import { BarChart, LineChart } from "echarts/charts";
import { GridComponent, LegendComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";
import { useEffect, useRef } from "react";
import { levelOf, type Answer, type Grain, type Group, type Indicator, type Point } from "../api/indicators.ts";
import { useFormat, useLabel } from "../format.ts";
import { useSettings } from "../settings.tsx";
import { DARK, FONT, LIGHT, levelColours, SERIES } from "../theme.ts";

echarts.use([BarChart, LineChart, GridComponent, LegendComponent, MarkLineComponent, TooltipComponent, CanvasRenderer]);

interface Props {
  indicator: Indicator;
  answer: Answer;
  kind: "line" | "bar";
  by: "time" | "area";
  areas: boolean;
  label: string;
}

/** A time as an axis of this grain writes it. */
const moment = (format: ReturnType<typeof useFormat>, ms: number, grain: Grain): string =>
  format.moment(ms).slice(...({ hour: [5, 16], day: [0, 10], month: [0, 7], year: [0, 4] } as const)[grain]);

export default function IndicatorChart({ indicator, answer, kind, by, areas, label }: Props) {
  const holder = useRef<HTMLDivElement>(null);
  const { dark, language } = useSettings();
  const format = useFormat();
  const name = useLabel();

  useEffect(() => {
    const chart = echarts.init(holder.current);
    const watch = new ResizeObserver(() => chart.resize());
    watch.observe(holder.current!);
    const palette = dark ? DARK : LIGHT;
    const colours = levelColours(indicator.levels, indicator.better);
    const colourOf = (value: number | null): string => {
      const level = levelOf(indicator.levels, value);
      return level === null ? palette.primary : colours[level]!;
    };
    const value = (v: number | null): string => `<b>${v === null ? "—" : format.figure(v)}</b> ${indicator.unit}`;
    const goal = indicator.goal !== null && !areas
      ? {
          silent: true,
          symbol: "none",
          lineStyle: { color: palette.earth, type: "dashed" as const, width: 1.2 },
          label: { color: palette.earth, position: "insideEndTop" as const, formatter: `${{ zh: "目标", en: "goal" }[language]} ${format.decimal(indicator.goal)}` },
        }
      : undefined;
    const common = {
      animation: false,
      textStyle: { fontFamily: FONT, color: palette.muted },
      tooltip: { backgroundColor: palette.panel, borderColor: palette.line, textStyle: { color: palette.text }, confine: true },
      grid: { left: 6, right: 14, top: areas ? 58 : 26, bottom: 4, outerBoundsMode: "same" as const, outerBoundsContain: "axisLabel" as const },
    };
    const amounts = {
      type: "value" as const,
      scale: kind === "line",
      max: indicator.unit === "%" ? 100 : undefined,
      axisLabel: { color: palette.muted },
      splitLine: { lineStyle: { color: palette.line } },
    };
    if (by === "area") {
      const groups = answer.groups.filter((group) => group.value !== null).reverse(); // the axis begins below
      chart.setOption({
        ...common,
        tooltip: {
          ...common.tooltip,
          trigger: "item",
          formatter: ({ dataIndex }: { dataIndex: number }) => `${name(groups[dataIndex] as never)}<br>${value(groups[dataIndex]!.value)}`,
        },
        grid: { ...common.grid, top: goal ? 20 : 8, right: 42 },
        xAxis: amounts,
        yAxis: {
          type: "category",
          data: groups.map((group) => name(group as never)),
          axisLine: { lineStyle: { color: palette.line } },
          axisTick: { show: false },
          axisLabel: { color: palette.text },
        },
        series: [
          {
            type: "bar",
            barMaxWidth: 16,
            data: groups.map((group) => ({ value: group.value, itemStyle: { color: colourOf(group.value), borderRadius: [0, 3, 3, 0] } })),
            label: { show: true, position: "right", color: palette.muted, formatter: (p: { value: number }) => format.figure(p.value) },
            markLine: goal && { ...goal, label: { ...goal.label, position: "end", rotate: 0, distance: 4 }, data: [{ xAxis: indicator.goal! }] },
          },
        ],
      });
    } else {
      const lines: [string, Point[]][] = areas
        ? answer.groups.map((group: Group) => [name(group as never), group.series])
        : [[indicator.label[language], answer.series]];
      const sparse = answer.series.length < 50;
      chart.setOption({
        ...common,
        color: SERIES,
        legend: areas
          ? { type: "scroll", top: 0, left: 0, itemWidth: 14, itemHeight: 8, textStyle: { color: palette.muted }, inactiveColor: palette.line }
          : { show: false },
        tooltip: {
          ...common.tooltip,
          trigger: "axis",
          formatter: (items: { seriesName: string; marker: string; data: Point }[]) =>
            `${moment(format, items[0]!.data[0], answer.grain)}<br>${items
              .map((item) => (areas ? `${item.marker}${item.seriesName} ${value(item.data[1])}` : value(item.data[1])))
              .join("<br>")}`,
        },
        xAxis: {
          type: "time",
          axisLine: { lineStyle: { color: palette.line } },
          axisLabel: { color: palette.muted, hideOverlap: true, formatter: (ms: number) => moment(format, ms, answer.grain).slice(answer.grain === "day" ? 5 : 0) },
          splitLine: { show: false },
        },
        yAxis: { ...amounts, name: indicator.unit, nameTextStyle: { color: palette.muted, align: "left" } },
        series: lines.map(([title, points], i) => ({
          type: kind,
          name: title,
          data: points,
          symbol: sparse ? "circle" : "none",
          symbolSize: 5,
          barMaxWidth: 18,
          lineStyle: { width: 2, color: areas ? undefined : palette.primary },
          itemStyle: { color: areas ? undefined : kind === "bar" ? ({ data }: { data: Point }) => colourOf(data[1]) : palette.primary },
          areaStyle: kind === "line" && !areas ? { color: palette.primary, opacity: 0.1 } : undefined,
          markLine: i === 0 && goal ? { ...goal, data: [{ yAxis: indicator.goal! }] } : undefined,
        })),
      } as never);
    }
    return () => {
      watch.disconnect();
      chart.dispose();
    };
  }, [indicator, answer, kind, by, areas, dark, language, format, name]);

  return <div ref={holder} className="widget-chart" role="img" aria-label={label} data-testid="indicator-chart" />;
}
