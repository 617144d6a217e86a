/** The parts that packs' dashboards are made of. Every figure says what is behind it, and is there as CSV. */
import { DownloadOutlined, InfoCircleOutlined } from "@ant-design/icons";
import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { Button, Skeleton, Tag, Tooltip } from "antd";
import { lazy, Suspense, useMemo, type ReactNode } from "react";
import { Link } from "react-router";
import { get } from "../api/client.ts";
import {
  csvOf,
  grainOf,
  levelOf,
  useAnswer,
  useLayer,
  type Answer,
  type Asking,
  type Dashboard,
  type Indicator,
  type LayerThings,
  type Level,
  type Period,
  type Widget,
} from "../api/indicators.ts";
import { useWorkflows, type Item } from "../api/items.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Alarm, MapColumns, Page, Thing } from "../api/types.ts";
import { useFormat, useLabel } from "../format.ts";
import { useOutlines } from "../map/outlines.ts";
import { hasWebgl } from "../map/webgl.ts";
import { useSettings, useText } from "../settings.tsx";
import { DARK, LIGHT, levelColours } from "../theme.ts";
import { AlarmItem } from "./alarm-item.tsx";
import { EntityLink } from "./entity-link.tsx";
import { Nothing } from "./page.tsx";
import { ProblemAlert } from "./problem.tsx";
import { Sparkline } from "./sparkline.tsx";
import { StateMark, SyntheticTag } from "./tags.tsx";

const IndicatorChart = lazy(() => import("./indicator-chart.tsx"));
const LayerMap = lazy(() => import("../map/layer-map.tsx"));
const SimpleMap = lazy(() => import("../map/entity-map-simple.tsx"));

interface Common {
  page: Pick<Dashboard, "indicators" | "layers">;
  period: Period;
  onPick(no: number): void;
}

export function WidgetView({ widget, ...common }: Common & { widget: Widget }) {
  switch (widget.kind) {
    case "tile":
      return <TileWidget widget={widget} {...common} />;
    case "line":
    case "bar":
      return <ChartWidget widget={widget} {...common} />;
    case "ranking":
      return <RankingWidget widget={widget} {...common} />;
    case "map":
      return <MapWidget widget={widget} {...common} />;
    case "things":
      return <ThingsWidget widget={widget} {...common} />;
    case "alarms":
      return <AlarmsWidget widget={widget} {...common} />;
    case "items":
      return <ItemsWidget widget={widget} {...common} />;
  }
}

type Of<Kind extends Widget["kind"]> = Common & { widget: Extract<Widget, { kind: Kind }> };

/** The frame of a widget: heading, what it is of, CSV; and what is shown while there is nothing to show. */
function Frame<T>(props: {
  title: string;
  kind: string;
  wide?: boolean;
  query: UseQueryResult<T>;
  synthetic?: boolean;
  indicator?: Indicator;
  csv?: string;
  empty: ReactNode;
  rows?: number;
  children: ReactNode;
}) {
  const { title, kind, wide, query, synthetic, indicator, csv, empty, rows, children } = props;
  const { text, language } = useSettings();
  return (
    <section className={`panel widget${kind === "tile" ? " tile" : ""}${wide ? " wide" : ""}`} data-widget={kind} aria-label={title}>
      <header>
        <h3>{title}</h3>
        {indicator && (
          <Tooltip title={indicator.definition[language]}>
            <Link to={`/indicators?show=${indicator.pack}/${indicator.id}`} aria-label={text.packs.definitionOf(indicator.label[language])} className="widget-info">
              <InfoCircleOutlined />
            </Link>
          </Tooltip>
        )}
        <span className="spacer" />
        {synthetic && <SyntheticTag />}
        {csv && !empty && (
          <Button type="text" size="small" icon={<DownloadOutlined />} href={csv} download aria-label={text.packs.csvOf(title)} title="CSV" />
        )}
      </header>
      {query.error && !query.data ? (
        <ProblemAlert error={query.error} retry={() => void query.refetch()} />
      ) : !query.data ? (
        <Skeleton active title={false} paragraph={{ rows: rows ?? 6 }} />
      ) : (
        empty || children
      )}
    </section>
  );
}

/** What is said where there is no figure: what would bring one. */
function useWaiting(): (types: string[], property: string | null) => ReactNode {
  const text = useText();
  const typeLabel = useTypeLabel();
  const label = useLabel();
  const { data } = useModels();
  return (types, property) => {
    const found = data?.find(({ type }) => type === types[0])?.properties.find(({ name }) => name === property);
    return (
      <Nothing title={text.packs.noData} hint={text.packs.waitsFor(types.map(typeLabel).join(text.comma), found ? label(found as never) : (property ?? ""))} />
    );
  };
}

/** The step in which a value is: its colour and its word. */
export function LevelMark({ levels, better, value }: { levels: Level[]; better: Indicator["better"]; value: number | null }) {
  const { language } = useSettings();
  const level = levelOf(levels, value);
  if (level === null) return null;
  return (
    <span className="level-mark">
      <span className="dot" style={{ background: levelColours(levels, better)[level] }} aria-hidden />
      {levels[level]!.label[language]}
    </span>
  );
}

/** What a figure is made of, in one line. */
export function Provenance({ answer }: { answer: Answer }) {
  const text = useText();
  const format = useFormat();
  const { reporting, known, capture, newest } = answer.provenance;
  return (
    <p className="muted widget-foot">
      {text.packs.behind(format.integer(reporting), format.integer(known))}
      {capture !== null && ` · ${text.packs.capture(format.figure(capture))}`}
      {newest !== null && ` · ${text.packs.newest(newest)}`}
    </p>
  );
}

const seriesOf = (indicator: Indicator, period: Period): Asking => ({ grain: grainOf(indicator, period), before: true });

function TileWidget({ widget, page, period }: Of<"tile">) {
  const { text, language } = useSettings();
  const format = useFormat();
  const waiting = useWaiting();
  const indicator = page.indicators[widget.indicator]!;
  const answer = useAnswer(widget.indicator, period, seriesOf(indicator, period));
  const { data } = answer;
  const before = data?.before ?? null;
  const change = data?.value != null && before !== null ? data.value - before : null;
  const percent = indicator.unit === "%";
  const good = change === null || indicator.better === null || change === 0 ? "" : (change > 0) === (indicator.better === "higher") ? "tone-ok" : "tone-warning";
  const shown = change !== null && (percent ? text.packs.points(format.figure(Math.abs(change))) : before ? `${format.figure(Math.abs((change / before) * 100))} %` : "");
  return (
    <Frame
      title={indicator.label[language]}
      kind="tile"
      query={answer}
      indicator={indicator}
      synthetic={data?.provenance.synthetic}
      rows={3}
      csv={csvOf(widget.indicator, period, seriesOf(indicator, period))}
      empty={data && data.value === null && waiting(indicator.types, indicator.property)}
    >
      {data && data.value !== null && (
        <>
          <div className="tile-line">
            <span className="tile-value">
              {format.figure(data.value)} <span className="counter-unit">{indicator.unit}</span>
            </span>
            <LevelMark levels={indicator.levels} better={indicator.better} value={data.value} />
          </div>
          <div className="tile-change">
            {shown ? (
              <Tooltip title={text.packs.beforeWas(format.figure(before!), indicator.unit)}>
                <span className={good}>
                  {change === 0 ? "＝" : change! > 0 ? "▲" : "▼"} {shown}
                </span>{" "}
                <span className="muted">{text.packs.thanBefore}</span>
              </Tooltip>
            ) : (
              <span className="muted">{text.packs.nothingBefore}</span>
            )}
          </div>
          <Sparkline points={data.series} goal={indicator.goal} height={44} label={indicator.label[language]} />
          <Provenance answer={data} />
        </>
      )}
    </Frame>
  );
}

function ChartWidget({ widget, page, period }: Of<"line" | "bar">) {
  const { language } = useSettings();
  const waiting = useWaiting();
  const indicator = page.indicators[widget.indicator]!;
  const asking: Asking = widget.by === "area" || widget.area !== null ? { grain: grainOf(indicator, period), group: widget.area } : seriesOf(indicator, period);
  const answer = useAnswer(widget.indicator, period, asking);
  const title = widget.title?.[language] ?? indicator.label[language];
  const { data } = answer;
  return (
    <Frame
      title={title}
      kind="chart"
      wide={widget.wide}
      query={answer}
      indicator={indicator}
      synthetic={data?.provenance.synthetic}
      csv={csvOf(widget.indicator, period, asking)}
      empty={data && data.value === null && waiting(indicator.types, indicator.property)}
    >
      {data && (
        <Suspense fallback={<div className="widget-chart" />}>
          <IndicatorChart
            indicator={indicator}
            answer={data}
            kind={widget.kind}
            by={widget.by}
            areas={widget.by === "time" && widget.area !== null}
            label={title}
          />
        </Suspense>
      )}
    </Frame>
  );
}

function RankingWidget({ widget, page, period, onPick }: Of<"ranking">) {
  const { text, language } = useSettings();
  const format = useFormat();
  const waiting = useWaiting();
  const indicator = page.indicators[widget.indicator]!;
  const asking: Asking = { group: "thing", limit: widget.most };
  const answer = useAnswer(widget.indicator, period, asking);
  const { data } = answer;
  const most = Math.max(...(data?.ranking ?? []).map(({ value }) => Math.abs(value)), 1e-9);
  const colours = levelColours(indicator.levels, indicator.better);
  return (
    <Frame
      title={widget.title?.[language] ?? indicator.label[language]}
      kind="ranking"
      wide={widget.wide}
      query={answer}
      indicator={indicator}
      synthetic={data?.provenance.synthetic}
      csv={csvOf(widget.indicator, period, { ...asking, limit: 20_000 })}
      empty={data && data.ranking.length === 0 && waiting(indicator.types, indicator.property)}
    >
      {data && (
        <>
          <ol className="ranking">
            {data.ranking.map((item) => {
              const level = levelOf(indicator.levels, item.value);
              return (
                <li key={item.no}>
                  <button type="button" onClick={() => onPick(item.no)}>
                    <span className="ranking-name">{item.name || item.id}</span>
                    {item.synthetic && <span className="dot dot-offline hollow" role="img" aria-label={text.synthetic.tag} title={text.synthetic.tag} />}
                    <span className="ranking-value">
                      {format.figure(item.value)} <span className="muted">{indicator.unit}</span>
                    </span>
                    <span
                      className="ranking-bar"
                      style={{ width: `${(Math.abs(item.value) / most) * 100}%`, background: level === null ? "var(--primary)" : colours[level] }}
                      aria-hidden
                    />
                  </button>
                </li>
              );
            })}
          </ol>
          <p className="muted widget-foot">{text.packs.ranked(format.integer(data.ranking.length), format.integer(data.count ?? 0))}</p>
        </>
      )}
    </Frame>
  );
}

/** Things as the plain map wants them: the step of each value is its state. */
function columnsOf(things: LayerThings): MapColumns {
  const none = things.layer.levels.length || 1;
  return {
    no: things.no, id: things.name, name: things.name, org: things.org, type: things.no.map(() => 0), types: [""],
    lon: things.lon, lat: things.lat, synthetic: things.made_up,
    state: things.value.map((value) => (value === null ? none : (levelOf(things.layer.levels, value) ?? 0))),
  };
}

function MapWidget({ widget, page, period, onPick }: Of<"map">) {
  const { text, language, dark } = useSettings();
  const format = useFormat();
  const outlines = useOutlines();
  const waiting = useWaiting();
  const webgl = useMemo(hasWebgl, []);
  const layer = page.layers[widget.layer]!;
  const things = useLayer(widget.layer, period);
  const { data } = things;
  const palette = dark ? DARK : LIGHT;
  const colours = useMemo(() => levelColours(layer.levels, layer.better), [layer]);
  const plain = useMemo(() => (webgl || !data ? null : columnsOf(data)), [webgl, data]);
  const plainColours = useMemo(() => [...(colours.length ? colours : [palette.primary]), palette.offline], [colours, palette]);
  const title = widget.title?.[language] ?? layer.label[language];
  const property = layer.indicator ? page.indicators[layer.indicator]!.property : layer.property;
  const counts = layer.levels.map((_, level) => (data?.value ?? []).filter((value) => levelOf(layer.levels, value) === level).length);
  return (
    <Frame
      title={title}
      kind="map"
      wide={widget.wide}
      query={things}
      synthetic={data?.synthetic}
      indicator={layer.indicator ? page.indicators[layer.indicator] : undefined}
      empty={data && data.no.length === 0 && waiting(layer.types, property)}
    >
      {data && (
        <>
          <ul className="legend" aria-label={text.cockpit.legend}>
            {layer.levels.map((level, i) => (
              <li key={i} className={counts[i] ? "" : "muted"}>
                <span className="dot" style={{ background: colours[i] }} aria-hidden />
                {level.label[language]} {counts[i]! > 0 && <span className="muted">{format.integer(counts[i]!)}</span>}
              </li>
            ))}
            {data.value.includes(null) && (
              <li>
                <span className="dot dot-offline" aria-hidden />
                {text.packs.noValue}
              </li>
            )}
            {data.synthetic && (
              <li>
                <span className="dot dot-offline hollow" aria-hidden />
                {text.cockpit.syntheticPoint}
              </li>
            )}
          </ul>
          <div className="map-area widget-map">
            {outlines.data && (
              <Suspense fallback={<div className="map-blank" />}>
                {plain ? (
                  <SimpleMap outlines={outlines.data} columns={plain} types={[]} onPick={onPick} colours={plainColours} />
                ) : (
                  <LayerMap outlines={outlines.data} things={data} label={title} onPick={onPick} />
                )}
              </Suspense>
            )}
          </div>
        </>
      )}
    </Frame>
  );
}

function ThingsWidget({ widget, period }: Of<"things">) {
  const { text, language } = useSettings();
  const format = useFormat();
  const typeLabel = useTypeLabel();
  const waiting = useWaiting();
  const query = { type: widget.type, org: period.org, limit: widget.most, count: 1, synthetic: period.synthetic ? null : 0 };
  const things = useQuery({
    queryKey: ["widget", "things", query],
    queryFn: ({ signal }) => get<Page<Thing>>("/things", query, signal),
    refetchInterval: 60_000,
  });
  return (
    <Frame
      title={widget.title?.[language] ?? typeLabel(widget.type)}
      kind="list"
      wide={widget.wide}
      query={things}
      empty={things.data && things.data.items.length === 0 && waiting([widget.type], null)}
    >
      <ul className="widget-list">
        {things.data?.items.map((thing) => (
          <li key={thing.no}>
            <StateMark state={thing.state} synthetic={thing.synthetic} />
            <span className="widget-list-name">
              <EntityLink id={thing.id} org={thing.org} name={thing.name} />
            </span>
            <span className="muted">{format.ago(thing.last_seen)}</span>
          </li>
        ))}
      </ul>
      <p className="muted widget-foot">
        <Link to={`/things?type=${widget.type}`}>{text.packs.allOf(format.integer(things.data?.count ?? 0))}</Link>
      </p>
    </Frame>
  );
}

function AlarmsWidget({ widget, period, onPick }: Of<"alarms">) {
  const { text, language } = useSettings();
  const alarms = useQuery({
    queryKey: ["alarms", "widget", widget.types, period.org, period.synthetic],
    queryFn: async ({ signal }) => {
      const page = await get<Page<Alarm>>("/alarms", { state: "open", limit: 500, org: period.org }, signal);
      return page.items.filter((alarm) => widget.types.includes(alarm.type ?? "") && (period.synthetic || !alarm.synthetic));
    },
    refetchInterval: 30_000,
  });
  return (
    <Frame
      title={widget.title?.[language] ?? text.alarms.title}
      kind="list"
      wide={widget.wide}
      query={alarms}
      empty={alarms.data && alarms.data.length === 0 && <Nothing title={text.packs.noAlarms} />}
    >
      <ul className="alarm-list">
        {alarms.data?.slice(0, 8).map((alarm) => (
          <li key={alarm.id}>
            <button type="button" onClick={() => onPick(alarm.no)}>
              <AlarmItem alarm={alarm} />
            </button>
          </li>
        ))}
      </ul>
    </Frame>
  );
}

function ItemsWidget({ widget, period }: Of<"items">) {
  const { text, language } = useSettings();
  const workflows = useWorkflows();
  const items = useQuery({
    queryKey: ["/items", "widget", widget.workflow, period.org],
    queryFn: ({ signal }) => get<Page<Item>>("/items", { workflow: widget.workflow, open: true, org: period.org, limit: 10 }, signal),
    refetchInterval: 60_000,
  });
  const workflow = workflows.data?.find(({ name }) => name === widget.workflow);
  return (
    <Frame
      title={widget.title?.[language] ?? workflow?.label[language] ?? widget.workflow}
      kind="list"
      wide={widget.wide}
      query={items}
      empty={items.data && items.data.items.length === 0 && <Nothing title={text.items.none} hint={text.items.hint} />}
    >
      <ul className="widget-list">
        {items.data?.items.map((item) => (
          <li key={item.no}>
            <Tag color={item.level > 0 ? "error" : "processing"}>{workflow?.states[item.state]?.label[language] ?? item.state}</Tag>
            <span className="widget-list-name">
              <Link to={`/items?view=open&item=${item.no}`}>{item.title}</Link>
            </span>
          </li>
        ))}
      </ul>
    </Frame>
  );
}
