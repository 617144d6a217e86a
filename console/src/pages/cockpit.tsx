/** The cockpit: the province at a glance, live. */
import { DesktopOutlined } from "@ant-design/icons";
import { Empty, Select, Skeleton } from "antd";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useMemo, useState } from "react";
import { Link } from "react-router";
import { get } from "../api/client.ts";
import { useLive } from "../api/live.ts";
import { lastMinute, useOverview } from "../api/overview.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Alarm, Counters, MapColumns, Overview, Page } from "../api/types.ts";
import { AlarmItem } from "../components/alarm-item.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { Shares } from "../components/shares.tsx";
import { Sparkline } from "../components/sparkline.tsx";
import { ThingDrawer } from "../components/thing-drawer.tsx";
import { useFormat } from "../format.ts";
import { useOutlines } from "../map/outlines.ts";
import { hasWebgl } from "../map/webgl.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

const WebglMap = lazy(() => import("../map/entity-map.tsx"));
const SimpleMap = lazy(() => import("../map/entity-map-simple.tsx"));

export default function Cockpit() {
  const text = useText();
  const can = useCan();
  const [picked, setPicked] = useState<number | null>(null);
  const overview = useOverview();
  const seesPlan = can("plan.target.read");
  const seesAlarms = can("access.alarm.read");
  return (
    <div className="cockpit">
      <h1 className="visually-hidden">{text.cockpit.title}</h1>
      {overview.error && <ProblemAlert error={overview.error} retry={() => void overview.refetch()} />}
      <CounterStrip counters={overview.data?.counters} />
      <div className="cockpit-body">
        <MapPanel synthetic={overview.data?.synthetic.entities ?? 0} onPick={setPicked} />
        <aside className="cockpit-side">
          <RatePanel overview={overview.data} />
          {seesPlan && <TargetsPanel overview={overview.data} />}
          {seesAlarms && <AlarmsPanel onPick={setPicked} />}
        </aside>
      </div>
      <ThingDrawer no={picked} onClose={() => setPicked(null)} />
    </div>
  );
}

function CounterStrip({ counters }: { counters: Counters | undefined }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const cells: { label: string; value: number | undefined; unit?: string; to?: string; tone?: string }[] = [
    { label: text.cockpit.entities, value: counters?.entities, to: "/things" },
    { label: text.cockpit.devices, value: counters?.devices },
    { label: text.cockpit.online, value: counters?.online, tone: "ok" },
    { label: text.cockpit.readings, value: counters?.readings_total },
    { label: text.cockpit.rate, value: counters?.readings_per_second, unit: text.cockpit.perSecond },
    {
      label: text.cockpit.alarms,
      value: counters?.alarms_open,
      to: can("access.alarm.read") ? "/alarms" : undefined,
      tone: counters?.alarms_open ? "alarm" : undefined,
    },
    {
      label: text.cockpit.deadLetters,
      value: counters?.dead_letters,
      to: can("access.deadletter.read") ? "/dead-letters" : undefined,
      tone: counters?.dead_letters ? "warning" : undefined,
    },
  ];
  return (
    <section className="counters panel" aria-label={text.cockpit.title}>
      {cells.map(({ label, value, unit, to, tone }) => {
        const body = (
          <>
            <span className="counter-label">{label}</span>
            <span className={`counter-value${tone ? ` tone-${tone}` : ""}`} title={value?.toString()}>
              {value === undefined ? <span className="counter-blank" /> : format.compact(value)}
              {value !== undefined && unit && <span className="counter-unit">{unit}</span>}
            </span>
          </>
        );
        return to ? (
          <Link key={label} to={to} className="counter">
            {body}
          </Link>
        ) : (
          <div key={label} className="counter">
            {body}
          </div>
        );
      })}
    </section>
  );
}

function MapPanel({ synthetic, onPick }: { synthetic: number; onPick(no: number): void }) {
  const text = useText();
  const format = useFormat();
  const outlines = useOutlines();
  const typeLabel = useTypeLabel();
  useModels();
  const can = useCan();
  const webgl = useMemo(hasWebgl, []);
  const [types, setTypes] = useState<string[]>([]);
  const map = useQuery({
    queryKey: ["map"],
    queryFn: ({ signal }) => get<MapColumns>("/map", undefined, signal),
    refetchInterval: 60_000,
    structuralSharing: false,
  });
  const counts = useMemo(() => {
    const result = new Map<string, number>();
    map.data?.type.forEach((index) => {
      const type = map.data.types[index];
      if (type) result.set(type, (result.get(type) ?? 0) + 1);
    });
    return result;
  }, [map.data]);
  const shown = types.length
    ? types.reduce((sum, type) => sum + (counts.get(type) ?? 0), 0)
    : (map.data?.no.length ?? 0);
  const View = webgl ? WebglMap : SimpleMap;
  return (
    <section className="panel map-panel" aria-label={text.cockpit.map}>
      <div className="map-bar">
        <Select
          mode="multiple"
          allowClear
          maxTagCount="responsive"
          className="map-types"
          placeholder={text.cockpit.allTypes}
          aria-label={text.cockpit.types}
          value={types}
          onChange={setTypes}
          options={[...counts].map(([type, count]) => ({
            value: type,
            label: `${typeLabel(type)} · ${format.integer(count)}`,
          }))}
        />
        <Legend />
        <span className="muted map-count">{map.data && text.cockpit.shown(format.integer(shown))}</span>
        {can("plan.score.read") && (
          <Link to="/screen" className="map-screen">
            <DesktopOutlined aria-hidden /> {text.screen.open}
          </Link>
        )}
      </div>
      <div className="map-area">
        {map.error && <ProblemAlert error={map.error} retry={() => void map.refetch()} />}
        {outlines.data && map.data ? (
          <Suspense fallback={<div className="map-blank" />}>
            <View
              outlines={outlines.data}
              columns={map.data}
              types={types}
              typeLabel={typeLabel}
              onPick={onPick}
            />
          </Suspense>
        ) : (
          <div className="map-blank" />
        )}
        {map.data?.no.length === 0 && (
          <div className="map-empty">
            <Empty image={Empty.PRESENTED_IMAGE_SIMPLE} description={text.empty.map}>
              <span className="muted">{text.empty.mapHint}</span>
            </Empty>
          </div>
        )}
        {synthetic > 0 && (
          <div className="map-synthetic" role="note" data-testid="synthetic-banner">
            {text.synthetic.banner(format.integer(synthetic))}
          </div>
        )}
      </div>
      <p className="visually-hidden">{text.cockpit.mapHelp}</p>
    </section>
  );
}

function Legend() {
  const text = useText();
  return (
    <ul className="legend" aria-label={text.cockpit.legend}>
      {(["ok", "alarm", "offline"] as const).map((state) => (
        <li key={state}>
          <span className={`dot dot-${state}`} aria-hidden />
          {text.state[state]}
        </li>
      ))}
      <li>
        <span className="dot dot-ok hollow" aria-hidden />
        {text.cockpit.syntheticPoint}
      </li>
    </ul>
  );
}

function RatePanel({ overview }: { overview: Overview | undefined }) {
  const text = useText();
  const format = useFormat();
  const now = overview?.counters.readings_per_second;
  return (
    <section className="panel side-panel">
      <header>
        <h2>{text.cockpit.rate}</h2>
        <span className="muted">{text.cockpit.lastMinute}</span>
      </header>
      <div className="rate">
        <div className="rate-now">
          {now === undefined ? "—" : format.compact(now)}
          <span className="counter-unit">{text.cockpit.perSecond}</span>
        </div>
        <Sparkline points={lastMinute(overview?.rate)} zero label={text.cockpit.rate} height={52} />
      </div>
    </section>
  );
}

function TargetsPanel({ overview }: { overview: Overview | undefined }) {
  const text = useText();
  const targets = overview?.targets;
  const systems = overview?.systems;
  return (
    <section className="panel side-panel">
      <header>
        <h2>{text.cockpit.targets}</h2>
        <Link to="/plan/targets">{text.cockpit.viewAll}</Link>
      </header>
      {targets && systems ? (
        <>
          <Shares
            parts={[
              { label: text.cockpit.measured, count: targets.measured, tone: "ok" },
              { label: text.cockpit.reported, count: targets.reported, tone: "primary" },
              { label: text.cockpit.noData, count: targets.no_data, tone: "none" },
            ]}
          />
          <p className="muted side-note">{text.cockpit.met(targets.met, targets.total)}</p>
          <h3>{text.cockpit.systems}</h3>
          <Shares
            parts={[
              { label: text.cockpit.works, count: systems.works, tone: "ok" },
              { label: text.cockpit.partial, count: systems.partial, tone: "earth" },
              { label: text.cockpit.notYet, count: systems.none, tone: "none" },
            ]}
          />
        </>
      ) : (
        <Skeleton active title={false} paragraph={{ rows: 4 }} />
      )}
    </section>
  );
}

function AlarmsPanel({ onPick }: { onPick(no: number): void }) {
  const text = useText();
  const client = useQueryClient();
  const alarms = useQuery({
    queryKey: ["alarms", "recent"],
    queryFn: ({ signal }) => get<Page<Alarm>>("/alarms", { state: "open", limit: 8 }, signal),
    refetchInterval: 30_000,
  });
  useLive("alarm", () => void client.invalidateQueries({ queryKey: ["alarms"] }));
  return (
    <section className="panel side-panel side-alarms">
      <header>
        <h2>{text.cockpit.recentAlarms}</h2>
        <Link to="/alarms">{text.cockpit.viewAll}</Link>
      </header>
      {alarms.error ? (
        <ProblemAlert error={alarms.error} retry={() => void alarms.refetch()} />
      ) : !alarms.data ? (
        <Skeleton active title={false} paragraph={{ rows: 5 }} />
      ) : alarms.data.items.length === 0 ? (
        <div className="muted side-empty">{text.empty.alarms}</div>
      ) : (
        <ul className="alarm-list">
          {alarms.data.items.map((alarm) => (
            <li key={alarm.id}>
              <button type="button" onClick={() => onPick(alarm.no)}>
                <AlarmItem alarm={alarm} />
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
