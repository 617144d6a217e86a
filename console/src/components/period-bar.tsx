/** The time and the organisation that a page is about, kept in its address; and whether what is synthetic counts. */
import { DatePicker, Segmented, Switch } from "antd";
import dayjs from "dayjs";
import { useMemo } from "react";
import { useSearchParams } from "react-router";
import type { Period } from "../api/indicators.ts";
import { changed } from "../api/search.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { OrgSelect } from "./org-select.tsx";

const DAY = 86_400_000;
const SPANS = ["7", "30", "90", "365"];
const DATE = /^\d{4}-\d{2}-\d{2}$/;

const later = (day: string, days: number): string => new Date(Date.parse(day) + days * DAY).toISOString().slice(0, 10);

/** The period of the address: `from` and `to` (the last day), or the last `days`. */
export function usePeriod(days = 30): Period {
  const [params] = useSearchParams();
  const format = useFormat();
  const today = format.day(Date.now());
  return useMemo(() => {
    const from = params.get("from");
    const to = params.get("to");
    const span = Number(SPANS.find((one) => one === params.get("days")) ?? days);
    const chosen = from && to && DATE.test(from) && DATE.test(to) && from <= to;
    return {
      from: chosen ? from : later(today, 1 - span),
      to: later(chosen ? to : today, 1),
      org: params.get("org"),
      synthetic: params.get("synthetic") === "1",
    };
  }, [params, today, days]);
}

export function PeriodBar({ period, days = 30 }: { period: Period; days?: number }) {
  const text = useText();
  const [params, setParams] = useSearchParams();
  const set = (changes: Record<string, string | null>): void => setParams((now) => changed(now, changes), { replace: true });
  const dated = params.has("from") && params.has("to");
  return (
    <div className="filters period-bar">
      <Segmented
        value={dated ? "" : (params.get("days") ?? String(days))}
        options={SPANS.map((value) => ({ value, label: text.packs.spans[value] ?? value }))}
        onChange={(value) => set({ days: String(value), from: null, to: null })}
      />
      <DatePicker.RangePicker
        allowClear={false}
        className="period-range"
        value={[dayjs(period.from), dayjs(later(period.to, -1))]}
        aria-label={text.packs.period}
        disabledDate={(day) => day.valueOf() > Date.now()}
        onChange={(range) => {
          if (range?.[0] && range[1]) set({ from: range[0].format("YYYY-MM-DD"), to: range[1].format("YYYY-MM-DD"), days: null });
        }}
      />
      <OrgSelect
        className="period-org"
        allowClear
        label={text.packs.org}
        placeholder={text.packs.everywhere}
        value={period.org ?? undefined}
        onChange={(org) => set({ org: org ?? null })}
      />
      <label className="period-synthetic">
        <Switch size="small" checked={period.synthetic} onChange={(on) => set({ synthetic: on ? "1" : null })} data-testid="synthetic-switch" />
        {text.packs.countSynthetic}
      </label>
    </div>
  );
}
