/**
 * The cockpit for a wall: everything at once, dark, without scrolling or anybody's hand. It asks again by itself; where the house is away
 * it says since when, and shows what it last knew.
 */
import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import { get } from "../api/client.ts";
import { useLive } from "../api/live.ts";
import { useOverview } from "../api/overview.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Wall } from "../api/plan.ts";
import type { Alarm, MapColumns, Page } from "../api/types.ts";
import { AlarmItem } from "../components/alarm-item.tsx";
import { useOrgName } from "../components/org-select.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useOutlines } from "../map/outlines.ts";
import { hasWebgl } from "../map/webgl.ts";
import { useCan } from "../session.tsx";
import { DarkSettings, useSettings } from "../settings.tsx";

const WebglMap = lazy(() => import("../map/entity-map.tsx"));
const SimpleMap = lazy(() => import("../map/entity-map-simple.tsx"));
const EVERY = 15_000;

/** The time now, every second. */
function useClock(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

export default function Screen() {
  return (
    <DarkSettings>
      <WallScreen />
    </DarkSettings>
  );
}

function WallScreen() {
  const { text } = useSettings();
  const format = useFormat();
  const can = useCan();
  const now = useClock();
  const overview = useOverview();
  const wall = useQuery({
    queryKey: ["plan", "screen"],
    queryFn: ({ signal }) => get<Wall>("/plan/screen", undefined, signal),
    refetchInterval: EVERY,
    refetchIntervalInBackground: true,
    networkMode: "always",
    retry: false,
  });
  const since = wall.dataUpdatedAt || now;
  const away = wall.isError || now - since > 3 * EVERY;
  useEffect(() => {
    document.title = `${text.screen.title} · ${text.product}`;
  }, [text]);
  const counters = overview.data?.counters;
  const data = wall.data;
  return (
    <main className="wall" data-testid="wall">
      <header className="wall-head">
        <h1>{text.screen.title}</h1>
        {away ? (
          <span className="wall-away" role="alert" data-testid="away">
            {text.screen.away(format.moment(since), Math.max(0, Math.round((now - since) / 1000)))}
          </span>
        ) : (
          <span className="muted">{data ? text.screen.asOf(format.time(data.at)) : text.loading}</span>
        )}
        <time className="wall-clock">{format.moment(now)}</time>
      </header>
      <section className="wall-counters" aria-label={text.cockpit.title}>
        <Counter name={text.cockpit.entities} value={counters && format.compact(counters.entities)} />
        <Counter name={text.cockpit.online} value={counters && format.compact(counters.online)} tone="ok" />
        <Counter name={text.cockpit.rate} value={counters && format.compact(counters.readings_per_second)} unit={text.cockpit.perSecond} />
        <Counter name={text.cockpit.alarms} value={counters && format.integer(counters.alarms_open)} tone={counters?.alarms_open ? "alarm" : undefined} />
        {data?.projects && (
          <>
            <Counter name={text.projects.count} value={format.integer(data.projects.projects)} />
            <Counter name={text.projects.lateMilestones} value={format.integer(data.projects.late)} tone={data.projects.late ? "alarm" : undefined} />
            <Counter name={text.screen.received} value={format.money(data.projects.funds.total.received)} />
            <Counter name={text.screen.spent} value={format.money(data.projects.funds.total.spent)} />
          </>
        )}
      </section>
      <div className="wall-body">
        <section className="wall-panel wall-targets">
          <h2>{text.plan.targets}</h2>
          {data && <Targets data={data} />}
        </section>
        <section className="wall-panel wall-map">
          {can("access.thing.read") && <Map />}
          {overview.data !== undefined && overview.data.synthetic.entities > 0 && (
            <p className="map-synthetic" role="note">
              {text.synthetic.banner(format.integer(overview.data.synthetic.entities))}
            </p>
          )}
        </section>
        <section className="wall-panel wall-tasks">
          <h2>{text.screen.tasks}</h2>
          {data && <Tasks data={data} />}
        </section>
        <section className="wall-panel wall-late">
          <h2>{text.screen.late}</h2>
          {data && <Late data={data} />}
        </section>
        <section className="wall-panel wall-alarms">
          <h2>{text.cockpit.recentAlarms}</h2>
          {can("access.alarm.read") && <Alarms />}
        </section>
      </div>
    </main>
  );
}

function Counter({ name, value, unit, tone }: { name: string; value: string | undefined; unit?: string; tone?: string }) {
  return (
    <div>
      <span>{name}</span>
      <strong className={tone ? `tone-${tone}` : undefined}>
        {value ?? "—"}
        {value && unit && <small>{unit}</small>}
      </strong>
    </div>
  );
}

/** Three arcs of a ring: measured, reported, no data. */
function Ring({ parts, middle, under }: { parts: [number, string][]; middle: string; under: string }) {
  const total = parts.reduce((sum, [count]) => sum + count, 0) || 1;
  const round = 2 * Math.PI * 42;
  let before = 0;
  return (
    <svg viewBox="0 0 100 100" className="wall-ring" role="img" aria-label={`${middle} ${under}`}>
      <circle cx="50" cy="50" r="42" fill="none" stroke="var(--none)" strokeWidth="9" />
      {parts.map(([count, colour]) => {
        const arc = (count / total) * round;
        const drawn = (
          <circle
            key={colour}
            cx="50"
            cy="50"
            r="42"
            fill="none"
            stroke={colour}
            strokeWidth="9"
            strokeDasharray={`${arc} ${round - arc}`}
            strokeDashoffset={-before}
            transform="rotate(-90 50 50)"
          />
        );
        before += arc;
        return drawn;
      })}
      <text x="50" y="52" textAnchor="middle" className="wall-ring-value">
        {middle}
      </text>
      <text x="50" y="66" textAnchor="middle" className="wall-ring-word">
        {under}
      </text>
    </svg>
  );
}

const TONE = { measured: "var(--ok)", reported: "var(--primary)", no_data: "var(--none)" };

function Targets({ data }: { data: Wall }) {
  const { text } = useSettings();
  const label = useLabel();
  const words = { measured: text.cockpit.measured, reported: text.cockpit.reported, no_data: text.cockpit.noData };
  const kinds = ["measured", "reported", "no_data"] as const;
  return (
    <>
      <div className="wall-rings">
        <Ring parts={kinds.map((kind) => [data.counts[kind], TONE[kind]])} middle={`${data.met}/${data.targets.length}`} under={text.plan.met} />
        <ul>
          {kinds.map((kind) => (
            <li key={kind}>
              <i style={{ background: TONE[kind] }} />
              {words[kind]} <strong>{data.counts[kind]}</strong>
            </li>
          ))}
          <li>
            {text.plan.score} <strong>{data.score === null ? "—" : data.score.toFixed(1)}</strong>
          </li>
        </ul>
      </div>
      <ul className="wall-bars">
        {data.targets.map((one) => (
          <li key={one.id}>
            <span className="wall-name">{label(one as never, "title")}</span>
            <span className="wall-bar">
              <i style={{ width: `${100 * one.achievement}%`, background: TONE[one.state] }} />
            </span>
            <span className={`wall-value${one.state === "no_data" ? " muted" : ""}`}>{one.state === "no_data" ? words.no_data : `${(100 * one.achievement).toFixed(0)}%`}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function Tasks({ data }: { data: Wall }) {
  const { text } = useSettings();
  const label = useLabel();
  return (
    <ul className="wall-bars wall-task-bars">
      {data.tasks.map((one) => (
        <li key={one.id}>
          <span className="wall-name">
            {one.id} {label(one as never, "title")}
          </span>
          <span className="wall-bar">
            <i style={{ width: `${one.score ?? 0}%` }} />
          </span>
          <span className="wall-value">
            {one.late > 0 && <span className="tone-alarm">{text.projects.late(one.late)} </span>}
            {one.score === null ? "—" : one.score.toFixed(0)}
          </span>
        </li>
      ))}
    </ul>
  );
}

function Late({ data }: { data: Wall }) {
  const { text } = useSettings();
  const org = useOrgName();
  const items = data.late_items ?? [];
  const marks = data.late_milestones ?? [];
  if (items.length + marks.length === 0) return <p className="muted wall-none">{text.screen.nothingLate}</p>;
  return (
    <ul className="wall-list">
      {items.map((one) => (
        <li key={`i${one.no}`}>
          <strong>{one.title}</strong>
          <span>
            {text.items.escalated(one.level)} · {org(one.org)}
          </span>
        </li>
      ))}
      {marks.map((one) => (
        <li key={`m${one.no}`}>
          <strong>
            {one.project_title} · {one.title}
          </strong>
          <span>
            {text.projects.due} {one.due} · {org(one.org)}
          </span>
        </li>
      ))}
    </ul>
  );
}

function Alarms() {
  const { text } = useSettings();
  const alarms = useQuery({
    queryKey: ["alarms", "wall"],
    queryFn: ({ signal }) => get<Page<Alarm>>("/alarms", { state: "open", limit: 8 }, signal),
    refetchInterval: EVERY,
    refetchIntervalInBackground: true,
  });
  useLive("alarm", () => void alarms.refetch());
  if (!alarms.data) return null;
  if (alarms.data.items.length === 0) return <p className="muted wall-none">{text.empty.alarms}</p>;
  return (
    <ul className="wall-list">
      {alarms.data.items.map((alarm) => (
        <li key={alarm.id}>
          <AlarmItem alarm={alarm} />
        </li>
      ))}
    </ul>
  );
}

function Map() {
  const outlines = useOutlines();
  const typeLabel = useTypeLabel();
  useModels();
  const webgl = useMemo(hasWebgl, []);
  const map = useQuery({
    queryKey: ["map"],
    queryFn: ({ signal }) => get<MapColumns>("/map", undefined, signal),
    refetchInterval: 60_000,
    refetchIntervalInBackground: true,
    structuralSharing: false,
  });
  const View = webgl ? WebglMap : SimpleMap;
  if (!outlines.data || !map.data) return null;
  return (
    <Suspense fallback={null}>
      <View outlines={outlines.data} columns={map.data} types={[]} typeLabel={typeLabel} onPick={() => undefined} />
    </Suspense>
  );
}
