/**
 * One attribute over time. Numbers that devices sent come from the readings and their roll-ups, as a line with its band;
 * everything else from NGSI-LD's temporal interface: numbers as steps, the rest as a timeline of changes.
 */
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { Segmented, Select } from "antd";
import { lazy, Suspense, useMemo, useState } from "react";
import { useSearchParams } from "react-router";
import { get, getNgsi } from "../api/client.ts";
import { attributes, held, type Entity, type Instance } from "../api/entities.ts";
import type { Series, ThingDetail } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { useAttributeLabel } from "./attribute-table.tsx";
import { AttributeValue } from "./attribute-value.tsx";
import { Nothing } from "./page.tsx";
import { ProblemAlert } from "./problem.tsx";

const Chart = lazy(() => import("./chart.tsx"));

const RANGES = { hour: 3_600_000, day: 86_400_000, week: 604_800_000, month: 2_592_000_000, year: 31_536_000_000 };
type RangeName = keyof typeof RANGES;
interface Range {
  name: RangeName | null;
  from: number;
  to: number;
}
/** Most instances asked for at once. */
const NEWEST = 1000;

const rangeOf = (name: RangeName): Range => {
  const to = Date.now();
  return { name, from: to - RANGES[name], to };
};

interface Props {
  entity: Entity;
  thing: ThingDetail | undefined;
  org: string | null;
}

export function EntityHistory({ entity, thing, org }: Props) {
  const text = useText();
  const attributeLabel = useAttributeLabel(thing);
  const [params, setParams] = useSearchParams();
  const [range, setRange] = useState<Range>(() => {
    const age = Date.now() - Date.parse(entity.createdAt ?? "");
    return rangeOf(age < RANGES.hour ? "hour" : "day");
  });
  const numbers = useMemo(() => {
    const modelled = thing?.model?.properties.filter(({ kind }) => kind === "number").map(({ name }) => name) ?? [];
    const seen = Object.entries(thing?.latest ?? {}).filter(([, { value }]) => typeof value === "number");
    const read = new Set(seen.map(([name]) => name));
    return { read, order: [...modelled.filter((name) => read.has(name)), ...read] };
  }, [thing]);
  const names = [...new Set([...numbers.order, ...attributes(entity).map(([name]) => name)])];
  const asked = params.get("attribute");
  const name = asked !== null && names.includes(asked) ? asked : names[0];
  if (name === undefined) return <Nothing title={text.entity.noAttributes} />;
  const own = (each: string): string => (attributeLabel(each) ? `${attributeLabel(each)} ${each}` : each);
  const choose = (attribute: string): void =>
    setParams((old) => new URLSearchParams({ ...Object.fromEntries(old), attribute }), { replace: true });
  const shared = { name, label: own(name), range, setRange };
  const chooser = (
    <>
      <Select
        aria-label={text.entity.attribute}
        value={name}
        onChange={choose}
        showSearch
        popupMatchSelectWidth={false}
        style={{ minWidth: 200 }}
        options={names.map((each) => ({ value: each, label: own(each) }))}
      />
      <Segmented<RangeName | "">
        value={range.name ?? ""}
        onChange={(chosen) => chosen && setRange(rangeOf(chosen))}
        options={(Object.keys(RANGES) as RangeName[]).map((each) => ({ value: each, label: text.things.range[each] }))}
      />
    </>
  );
  return (
    <div className="panel box" data-testid="history">
      {thing && numbers.read.has(name) ? (
        <Readings key={name} {...shared} chooser={chooser} thing={thing} />
      ) : (
        <Instances key={name} {...shared} chooser={chooser} entity={entity} org={org} />
      )}
    </div>
  );
}

interface Shared {
  name: string;
  label: string;
  range: Range;
  setRange(range: Range): void;
  chooser: React.ReactNode;
}

function Readings({ name, label, range, setRange, chooser, thing }: Shared & { thing: ThingDetail }) {
  const text = useText();
  const format = useFormat();
  const series = useQuery({
    queryKey: ["series", thing.no, name, range.from, range.to],
    queryFn: ({ signal }) =>
      get<Series>(
        `/things/${thing.no}/series`,
        { property: name, from: new Date(range.from).toISOString(), to: new Date(range.to).toISOString(), points: 800 },
        signal,
      ),
    placeholderData: keepPreviousData,
  });
  return (
    <>
      <div className="filters">
        {chooser}
        {series.data && (
          <span className="muted" data-testid="resolution">
            {text.things.resolution[series.data.resolution]} ·{" "}
            {text.things.points(format.integer(series.data.points.length), format.integer(series.data.count))}
          </span>
        )}
      </div>
      {series.error && <ProblemAlert error={series.error} retry={() => void series.refetch()} />}
      <Suspense fallback={<div className="chart" />}>
        {series.data ? (
          <Chart
            series={series.data}
            from={range.from}
            to={range.to}
            label={`${label} ${format.moment(range.from)} – ${format.moment(range.to)}`}
            onRange={(from, to) => setRange({ name: null, from, to })}
          />
        ) : (
          <div className="chart" />
        )}
      </Suspense>
      <p className="muted side-note">{series.data?.points.length === 0 ? text.empty.series : text.things.zoomHint}</p>
    </>
  );
}

const timeOf = (instance: Instance): string => instance.observedAt ?? instance.modifiedAt ?? instance.createdAt ?? "";

function Instances({
  name, label, range, setRange, chooser, entity, org,
}: Shared & { entity: Entity; org: string | null }) {
  const text = useText();
  const format = useFormat();
  // What is written without a time of observation is known by the time of the writing alone (4.8).
  const observed = attributes(entity).some(([own, instance]) => own === name && instance.observedAt !== undefined);
  const history = useQuery({
    queryKey: ["history", entity.id, org, name, range.from, range.to, observed],
    queryFn: ({ signal }) =>
      getNgsi<Entity>(
        `/temporal/entities/${encodeURIComponent(entity.id)}`,
        {
          attrs: name,
          timerel: "between",
          timeAt: new Date(range.from).toISOString(),
          endTimeAt: new Date(range.to).toISOString(),
          timeproperty: observed ? "observedAt" : "modifiedAt",
          lastN: NEWEST,
          options: "sysAttrs",
        },
        org,
        signal,
      ),
    placeholderData: keepPreviousData,
    retry: false,
  });
  const found = useMemo(
    () =>
      attributes(history.data ?? { id: "", type: "" })
        .filter(([own]) => own === name)
        .map(([, instance]) => instance)
        .sort((a, b) => timeOf(a).localeCompare(timeOf(b))),
    [history.data, name],
  );
  const numeric = found.length > 0 && found.every((instance) => typeof held(instance) === "number" && !instance.datasetId);
  const series = useMemo<Series>(
    () => ({
      property: name,
      unit: found.at(-1)?.unitCode ?? null,
      resolution: "raw",
      count: found.length,
      points: found.map((instance) => {
        const value = held(instance) as number;
        return [new Date(timeOf(instance)).getTime(), value, value, value];
      }),
    }),
    [found, name],
  );
  return (
    <>
      <div className="filters">
        {chooser}
        {history.data && (
          <span className="muted" data-testid="resolution">
            {text.entity.written} · {text.entity.instances(format.integer(found.length))}
          </span>
        )}
      </div>
      {history.error && <ProblemAlert error={history.error} retry={() => void history.refetch()} />}
      {found.length >= NEWEST && <p className="muted">{text.entity.newest(format.integer(NEWEST))}</p>}
      {history.data && found.length === 0 && <Nothing title={text.entity.noHistory} />}
      {numeric && (
        <Suspense fallback={<div className="chart" />}>
          <Chart
            series={series}
            from={range.from}
            to={range.to}
            step
            label={`${label} ${format.moment(range.from)} – ${format.moment(range.to)}`}
            onRange={(from, to) => setRange({ name: null, from, to })}
          />
        </Suspense>
      )}
      {found.length > 0 && !numeric && <Timeline found={found} org={org} />}
    </>
  );
}

/** Changes, newest first; what was written again without a change is one entry. */
function Timeline({ found, org }: { found: Instance[]; org: string | null }) {
  const format = useFormat();
  const changes: { key: string; instance: Instance; times: number }[] = [];
  const before = new Map<string, { text: string; entry: (typeof changes)[number] }>();
  for (const instance of found) {
    const words = JSON.stringify(held(instance));
    const dataset = instance.datasetId ?? "";
    const last = before.get(dataset);
    if (last?.text === words) {
      last.entry.times += 1;
      continue;
    }
    const entry = { key: instance.instanceId ?? `${dataset} ${timeOf(instance)}`, instance, times: 1 };
    changes.push(entry);
    before.set(dataset, { text: words, entry });
  }
  return (
    <ol className="timeline" data-testid="timeline">
      {changes.reverse().map(({ key, instance, times }) => (
        <li key={key}>
          <time dateTime={timeOf(instance)} className="muted">
            {format.moment(timeOf(instance))}
          </time>
          <span>
            <AttributeValue instance={instance} org={org} unit={instance.unitCode} />
            {instance.datasetId && <span className="muted mono"> {instance.datasetId}</span>}
            {times > 1 && <span className="muted"> ×{format.integer(times)}</span>}
          </span>
        </li>
      ))}
    </ol>
  );
}
