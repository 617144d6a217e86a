/** Indicators, dashboards and layers, as docs/indicators.md states them. */
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { get, path } from "./client.ts";
import type { Words } from "./types.ts";

export interface Level {
  label: Words;
  below: number | null;
  colour: string | null;
}

export type Better = "higher" | "lower" | null;
export type Grain = "hour" | "day" | "month" | "year";
export type Area = "province" | "city" | "county";

export interface Indicator {
  pack: string;
  id: string;
  label: Words;
  definition: Words;
  unit: string;
  owner: string;
  owner_name: string;
  owner_name_en: string;
  version: number;
  types: string[];
  property: string;
  statistic: string;
  bound: number | null;
  origins: string[];
  grain: Grain;
  days: number;
  areas: Area[];
  ranking: boolean;
  goal: number | null;
  better: Better;
  levels: Level[];
  used_in: { pack: string; id: string; title: Words }[];
}

export type Point = [number, number | null];

export interface Group {
  id: string;
  label_zh: string;
  label_en: string;
  value: number | null;
  known: number;
  series: Point[];
}

export interface Ranked {
  no: number;
  id: string;
  name: string;
  org: string;
  value: number;
  synthetic: boolean;
}

export interface Answer {
  from: string;
  to: string;
  grain: Grain;
  value: number | null;
  before?: number | null;
  series: Point[];
  groups: Group[];
  ranking: Ranked[];
  count?: number;
  provenance: {
    newest: string | null;
    known: number;
    reporting: number;
    capture: number | null;
    synthetic: boolean;
  };
}

export interface Layer {
  label: Words;
  types: string[];
  property: string | null;
  property_label: Words;
  indicator: string | null;
  unit: string;
  better: Better;
  levels: Level[];
}

export interface LayerThings {
  layer: Layer;
  synthetic: boolean;
  elsewhere: number;
  no: number[];
  name: string[];
  org: string[];
  lon: number[];
  lat: number[];
  made_up: number[];
  value: (number | null)[];
}

interface Titled {
  title: Words | null;
  wide: boolean;
}

export type Widget =
  | { kind: "tile"; indicator: string }
  | ({ kind: "line" | "bar"; indicator: string; by: "time" | "area"; area: Area | null } & Titled)
  | ({ kind: "ranking"; indicator: string; most: number } & Titled)
  | ({ kind: "map"; layer: string } & Titled)
  | ({ kind: "things"; type: string; most: number } & Titled)
  | ({ kind: "alarms"; types: string[] } & Titled)
  | ({ kind: "items"; workflow: string } & Titled);

export interface Dashboard {
  pack: string;
  id: string;
  pack_label: Words;
  title: Words;
  note: Words | null;
  sections: { title: Words | null; widgets: Widget[] }[];
  indicators: Record<string, Indicator>;
  layers: Record<string, Layer>;
}

export interface DashboardEntry {
  pack: string;
  id: string;
  title: Words;
  pack_label: Words;
}

/** What a page asks every figure about: natural days of Asia/Shanghai, `to` is the day after the last. */
export interface Period {
  from: string;
  to: string;
  org: string | null;
  synthetic: boolean;
}

export interface Asking {
  grain?: Grain;
  group?: Area | "thing" | null;
  before?: boolean;
  limit?: number;
}

const query = ({ synthetic, ...period }: Period, { before, ...asking }: Asking) => ({
  ...period,
  ...asking,
  synthetic: synthetic ? 1 : null,
  before: before ? 1 : null,
});

export function useDashboards(enabled = true) {
  return useQuery({
    queryKey: ["dashboards"],
    queryFn: async ({ signal }) => (await get<{ items: DashboardEntry[] }>("/dashboards", undefined, signal)).items,
    staleTime: 600_000,
    enabled,
  });
}

export function useDashboard(pack: string, id: string | undefined) {
  return useQuery({
    queryKey: ["dashboard", pack, id],
    queryFn: ({ signal }) => get<Dashboard>(`/dashboards/${pack}/${id}`, undefined, signal),
    staleTime: 600_000,
    enabled: id !== undefined,
  });
}

export function useIndicators() {
  return useQuery({
    queryKey: ["indicators"],
    queryFn: async ({ signal }) => (await get<{ items: Indicator[] }>("/indicators", undefined, signal)).items,
    staleTime: 60_000,
  });
}

export function useAnswer(indicator: string, period: Period, asking: Asking) {
  return useQuery({
    queryKey: ["indicator", indicator, period, asking],
    queryFn: ({ signal }) => get<Answer>(`/indicators/${indicator}`, query(period, asking), signal),
    placeholderData: keepPreviousData,
    refetchInterval: 60_000,
  });
}

/** Where the same figures are as CSV. */
export const csvOf = (indicator: string, period: Period, asking: Asking): string =>
  path(`/indicators/${indicator}`, { ...query(period, { ...asking, before: undefined }), format: "csv" });

export function useLayer(layer: string, period: Period) {
  return useQuery({
    queryKey: ["layer", layer, period],
    queryFn: ({ signal }) => get<LayerThings>(`/layers/${layer}`, query(period, {}), signal),
    placeholderData: keepPreviousData,
    refetchInterval: 60_000,
    structuralSharing: false,
  });
}

const DAY = 86_400_000;

/** The grain in which a period is drawn. */
export function grainOf({ statistic, grain }: Indicator, { from, to }: Period): Grain {
  const days = (Date.parse(to) - Date.parse(from)) / DAY;
  const overReadings = ["mean", "min", "max", "sum", "count"].includes(statistic);
  if (grain === "month" || grain === "year") return grain;
  return days <= 7 && overReadings ? "hour" : days <= 400 ? "day" : "month";
}

/** The step of a scale in which a value is; null without a value or a scale. */
export function levelOf(levels: Level[], value: number | null | undefined): number | null {
  if (value === null || value === undefined || levels.length === 0) return null;
  return levels.findIndex(({ below }) => below === null || value < below);
}
