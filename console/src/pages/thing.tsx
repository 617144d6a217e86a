/** One thing: values now, over time, as they came, as NGSI-LD, and its device. */
import { ArrowLeftOutlined, EllipsisOutlined } from "@ant-design/icons";
import { keepPreviousData, useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, App, Button, Segmented, Select, Skeleton, Table, Tabs } from "antd";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import { Link, useNavigate, useParams, useSearchParams } from "react-router";
import { del, get, post } from "../api/client.ts";
import { useLive } from "../api/live.ts";
import { usePages } from "../api/pages.ts";
import { useThing, useTypeLabel } from "../api/queries.ts";
import type { Frame, Series, ThingDetail } from "../api/types.ts";
import { LatestTable } from "../components/latest-table.tsx";
import { More, Nothing, PageHead, Secret } from "../components/page.tsx";
import { ProblemAlert, useShowProblem } from "../components/problem.tsx";
import { Raw, rawBytes } from "../components/raw.tsx";
import { StateMark, SyntheticTag } from "../components/tags.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

const Chart = lazy(() => import("../components/chart.tsx"));

export default function ThingPage() {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const typeLabel = useTypeLabel();
  const no = Number(useParams()["no"]);
  const [params, setParams] = useSearchParams();
  const thing = useThing(Number.isInteger(no) ? no : null);
  const client = useQueryClient();
  const tab = params.get("tab") ?? "now";
  useLive("alarm", (alarm) => {
    if (alarm.no === no) void client.invalidateQueries({ queryKey: ["thing", no] });
  });
  const name = thing.data?.name || thing.data?.id;
  useEffect(() => {
    if (name) document.title = `${name} · ${text.product}`;
  }, [name, text]);

  if (thing.error)
    return (
      <div className="page">
        <PageHead title={text.things.title} />
        <ProblemAlert error={thing.error} retry={() => void thing.refetch()} />
        <p className="page-note">
          <Link to="/things">{text.things.title}</Link>
        </p>
      </div>
    );
  if (!thing.data) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  const data = thing.data;

  return (
    <div className="page">
      <div className="thing-head">
        <Link to="/things" aria-label={text.actions.back}>
          <ArrowLeftOutlined />
        </Link>
        <h1>{name}</h1>
        <StateMark state={data.state} synthetic={data.synthetic} />
        {data.synthetic ? <SyntheticTag /> : null}
      </div>
      <div className="thing-sub muted">
        <span>{typeLabel(data.type)}</span>
        <span>{label({ org_zh: data.org_name, org_en: data.org_name_en }, "org") || data.org}</span>
        <span className="mono">{data.id}</span>
        {data.lon !== null && data.lat !== null && (
          <span>
            {text.things.position} {data.lon.toFixed(5)}, {data.lat.toFixed(5)}
          </span>
        )}
        <span>
          {text.things.lastSeen} {data.last_seen ? format.moment(data.last_seen) : text.things.never}
        </span>
      </div>
      <Tabs
        activeKey={tab}
        onChange={(key) => setParams(key === "now" ? {} : { tab: key }, { replace: true })}
        items={[
          {
            key: "now",
            label: text.things.tabs.now,
            children: (
              <div className="panel box latest-box">
                <LatestTable thing={data} />
              </div>
            ),
          },
          { key: "chart", label: text.things.tabs.chart, children: <ChartTab thing={data} /> },
          { key: "frames", label: text.things.tabs.frames, children: <FramesTab no={no} /> },
          {
            key: "document",
            label: text.things.tabs.document,
            children: <pre className="raw">{JSON.stringify(data.doc, null, 2)}</pre>,
          },
          { key: "device", label: text.things.tabs.device, children: <DeviceTab thing={data} /> },
        ]}
        destroyOnHidden
        more={{ icon: <EllipsisOutlined aria-label={text.actions.details} /> }}
      />
    </div>
  );
}

const RANGES = { hour: 3_600_000, day: 86_400_000, week: 604_800_000, month: 2_592_000_000, year: 31_536_000_000 };
type RangeName = keyof typeof RANGES;

function ChartTab({ thing }: { thing: ThingDetail }) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const names = useMemo(() => {
    const modelled = thing.model?.properties.filter(({ kind }) => kind === "number").map(({ name }) => name) ?? [];
    const seen = Object.keys(thing.latest).filter((name) => typeof thing.latest[name]?.value === "number");
    return [...new Set([...modelled.filter((name) => name in thing.latest), ...seen, ...modelled])];
  }, [thing]);
  const [property, setProperty] = useState(names[0]);
  const [range, setRange] = useState<{ name: RangeName | null; from: number; to: number }>(() => rangeOf("day"));
  const series = useQuery({
    queryKey: ["series", thing.no, property, range.from, range.to],
    queryFn: ({ signal }) =>
      get<Series>(
        `/things/${thing.no}/series`,
        {
          property,
          from: new Date(range.from).toISOString(),
          to: new Date(range.to).toISOString(),
          points: 800,
        },
        signal,
      ),
    enabled: property !== undefined,
    placeholderData: keepPreviousData,
  });
  const propertyLabel = (name: string): string => {
    const found = thing.model?.properties.find((candidate) => candidate.name === name);
    const own = found && label(found as never);
    return own && own !== name ? `${own} ${name}` : name;
  };

  if (property === undefined) return <Nothing title={text.empty.latest} />;
  return (
    <div className="panel box">
      <div className="filters">
        <Select
          aria-label={text.things.property}
          value={property}
          onChange={setProperty}
          popupMatchSelectWidth={false}
          style={{ minWidth: 200 }}
          options={names.map((name) => ({ value: name, label: propertyLabel(name) }))}
        />
        <Segmented<RangeName | "">
          value={range.name ?? ""}
          onChange={(name) => name && setRange(rangeOf(name))}
          options={(Object.keys(RANGES) as RangeName[]).map((name) => ({ value: name, label: text.things.range[name] }))}
        />
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
            label={`${propertyLabel(property)} ${format.moment(range.from)} – ${format.moment(range.to)}`}
            onRange={(from, to) => setRange({ name: null, from, to })}
          />
        ) : (
          <div className="chart" />
        )}
      </Suspense>
      <p className="muted side-note">{series.data?.points.length === 0 ? text.empty.series : text.things.zoomHint}</p>
    </div>
  );
}

function rangeOf(name: RangeName): { name: RangeName; from: number; to: number } {
  const to = Date.now();
  return { name, from: to - RANGES[name], to };
}

function FramesTab({ no }: { no: number }) {
  const text = useText();
  const format = useFormat();
  const frames = usePages<Frame>(`/things/${no}/frames`, {}, { limit: 50 });
  if (frames.error) return <ProblemAlert error={frames.error} retry={() => void frames.refetch()} />;
  return (
    <div className="panel">
      <Table<Frame>
        size="middle"
        rowKey={(frame) => `${frame.seq}-${frame.frame}-${frame.ts}`}
        loading={frames.isLoading}
        dataSource={frames.items}
        pagination={false}
        scroll={{ x: 560 }}
        locale={{ emptyText: <Nothing title={text.empty.frames} /> }}
        expandable={{ expandedRowRender: (frame) => <Raw raw={frame.raw} encoding={frame.encoding} />, expandRowByClick: true }}
        columns={[
          { title: text.things.receivedAt, dataIndex: "ts", width: 180, render: format.moment },
          { title: text.things.protocol, dataIndex: "protocol", width: 90 },
          {
            title: text.things.raw,
            dataIndex: "raw",
            ellipsis: true,
            render: (raw: string) => <span className="mono">{raw.slice(0, 200)}</span>,
          },
          {
            title: text.things.bytes,
            key: "size",
            width: 100,
            align: "right",
            render: (_: unknown, frame) => format.integer(rawBytes(frame.raw, frame.encoding).length),
          },
          { title: text.things.seq, dataIndex: "seq", width: 100, align: "right" },
        ]}
      />
      <More {...frames} />
    </div>
  );
}

function DeviceTab({ thing }: { thing: ThingDetail }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const navigate = useNavigate();
  const client = useQueryClient();
  const [secret, setSecret] = useState<string | null>(null);
  const device = thing.device;
  if (!device) return <Nothing title={text.things.noDevice} />;
  const id = encodeURIComponent(device.id);
  const facts: [string, string | null | undefined][] = [
    [text.things.deviceId, device.id],
    [text.things.status, device.status && (text.things.deviceStatus[device.status] ?? device.status)],
    [text.things.tokenPrefix, device.token_prefix],
    [text.things.createdAt, device.created_at && format.moment(device.created_at)],
    [text.things.createdBy, device.created_by],
    [text.things.rotatedAt, device.rotated_at && format.moment(device.rotated_at)],
  ];
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["thing", thing.no] });

  return (
    <div className="panel box">
      <dl className="facts">
        {facts
          .filter(([, value]) => value)
          .map(([key, value]) => (
            <div key={key}>
              <dt>{key}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
      {secret && (
        <div className="gap-above">
          <Alert type="success" showIcon title={text.things.secretOnce} />
          <Secret value={secret} />
        </div>
      )}
      <div className="filters gap-above">
        {can("access.device.write") && (
          <Button
            onClick={() =>
              void modal.confirm({
                title: text.things.issueToken,
                content: text.things.issueTokenConfirm,
                onOk: () =>
                  post<{ token?: string; secret?: string }>(`/devices/${id}/token`).then((answer) => {
                    setSecret(answer.token ?? answer.secret ?? "");
                    return refresh();
                  }, show),
              })
            }
          >
            {text.things.issueToken}
          </Button>
        )}
        {can("access.device.write") &&
          (device.status === "disabled" ? (
            <Button onClick={() => post(`/devices/${id}/enable`).then(refresh, show)}>{text.things.enable}</Button>
          ) : (
            <Button
              onClick={() =>
                void modal.confirm({
                  title: text.things.disable,
                  content: text.things.disableConfirm,
                  onOk: () => post(`/devices/${id}/disable`).then(refresh, show),
                })
              }
            >
              {text.things.disable}
            </Button>
          ))}
        {can("access.device.delete") && (
          <Button
            danger
            onClick={() =>
              void modal.confirm({
                title: text.things.removeDevice,
                content: text.things.removeDeviceConfirm,
                okButtonProps: { danger: true },
                onOk: () =>
                  del(`/devices/${id}`).then(() => {
                    void client.invalidateQueries({ queryKey: ["/things"] });
                    void navigate("/things");
                  }, show),
              })
            }
          >
            {text.things.removeDevice}
          </Button>
        )}
      </div>
    </div>
  );
}
