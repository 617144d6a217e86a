/** Numbers and times as people here read them: the chosen language, and Asia/Shanghai. */
import { useMemo } from "react";
import type { Scalar } from "./api/types.ts";
import { useSettings, type Language } from "./settings.tsx";

const ZONE = "Asia/Shanghai";

/** A person as he signs in, of the actor's id. */
export const person = (actor: string): string => actor.replace(/^user:/, "");

function formats(language: Language) {
  const locale = language === "zh" ? "zh-CN" : "en-GB";
  const integer = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
  const decimal = new Intl.NumberFormat(locale, { maximumFractionDigits: 3 });
  const hundredths = new Intl.NumberFormat(locale, { maximumFractionDigits: 2 });
  const compact = new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 2 });
  const parts = { timeZone: ZONE, year: "numeric", month: "2-digit", day: "2-digit" } as const;
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false } as const;
  const moment = new Intl.DateTimeFormat("sv-SE", { ...parts, ...clock });
  const day = new Intl.DateTimeFormat("sv-SE", parts);
  const time = new Intl.DateTimeFormat("sv-SE", { timeZone: ZONE, ...clock });
  const valid = (at: string | number | null | undefined): Date | null => {
    if (at === null || at === undefined || at === "") return null;
    const date = new Date(at);
    return Number.isNaN(date.getTime()) ? null : date;
  };
  return {
    integer: (n: number) => integer.format(n),
    decimal: (n: number) => decimal.format(n),
    compact: (n: number) => (Math.abs(n) < 10_000_000 ? integer.format(n) : compact.format(n)),
    /** A computed figure: three significant digits, or all before the point. */
    figure: (n: number) => decimal.format(Math.abs(n) >= 100 ? Math.round(n * 10) / 10 : Number(n.toPrecision(3))),
    scalar: (value: Scalar | undefined) =>
      value === null || value === undefined
        ? "—"
        : typeof value === "number"
          ? decimal.format(value)
          : String(value),
    moment: (at: string | number | null | undefined) => {
      const date = valid(at);
      return date ? moment.format(date) : "—";
    },
    day: (at: string | number | null | undefined) => {
      const date = valid(at);
      return date ? day.format(date) : "—";
    },
    time: (at: string | number | null | undefined) => {
      const date = valid(at);
      return date ? time.format(date) : "—";
    },
    /** Fen as people say them: 万元 and 亿元, or millions and billions of yuan. */
    money: (fen: number) => {
      const yuan = fen / 100;
      const size = Math.abs(yuan);
      if (language === "zh")
        return size >= 1e8 ? `${hundredths.format(yuan / 1e8)} 亿元` : size >= 1e4 ? `${hundredths.format(yuan / 1e4)} 万元` : `${hundredths.format(yuan)} 元`;
      return size >= 1e9 ? `¥${hundredths.format(yuan / 1e9)} bn` : size >= 1e6 ? `¥${hundredths.format(yuan / 1e6)} m` : `¥${hundredths.format(yuan)}`;
    },
    /** Smallest parts of a quota's unit: land in m² or hectares, energy in tonnes of coal equivalent. */
    parts: (n: number, unit: string) =>
      unit === "tce"
        ? `${decimal.format(n / 1000)} ${language === "zh" ? "吨标煤" : "tce"}`
        : n >= 1_000_000
          ? `${decimal.format(n / 1_000_000)} ${language === "zh" ? "公顷" : "ha"}`
          : `${decimal.format(n / 100)} m²`,
    bytes: (n: number) =>
      n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(1)} GiB` : n >= 2 ** 20 ? `${(n / 2 ** 20).toFixed(1)} MiB` : `${(n / 1024).toFixed(0)} KiB`,
  };
}

export type Format = ReturnType<typeof formats> & { ago(at: string | number | null | undefined): string };

export function useFormat(): Format {
  const { language, text } = useSettings();
  return useMemo(() => {
    const base = formats(language);
    const ago = (at: string | number | null | undefined): string => {
      if (at === null || at === undefined || at === "") return "—";
      const seconds = Math.round((Date.now() - new Date(at).getTime()) / 1000);
      if (Number.isNaN(seconds)) return "—";
      if (seconds < 3) return text.time.justNow;
      if (seconds < 60) return text.time.seconds(seconds);
      if (seconds < 3600) return text.time.minutes(Math.floor(seconds / 60));
      if (seconds < 86_400) return text.time.hours(Math.floor(seconds / 3600));
      return text.time.days(Math.floor(seconds / 86_400));
    };
    return { ...base, ago };
  }, [language, text]);
}

/** The label of something that has one in each language. */
export function useLabel(): (item: { [key: string]: unknown }, stem?: string) => string {
  const { language } = useSettings();
  return (item, stem = "label") => {
    const other = language === "zh" ? "en" : "zh";
    return String(item[`${stem}_${language}`] || item[`${stem}_${other}`] || "");
  };
}
