/** System health: checks, processes, bus, stores, ingest. */
import { CheckCircleFilled, CloseCircleFilled } from "@ant-design/icons";
import { useQuery } from "@tanstack/react-query";
import { Alert, Skeleton, Table } from "antd";
import { get } from "../api/client.ts";
import type { SystemReport } from "../api/types.ts";
import { lastMinute, useOverview } from "../api/overview.ts";
import { PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { Sparkline } from "../components/sparkline.tsx";
import { useFormat, useLabel, type Format } from "../format.ts";
import { useText } from "../settings.tsx";

export default function System() {
  const text = useText();
  const format = useFormat();
  const system = useQuery({
    queryKey: ["system"],
    queryFn: ({ signal }) => get<SystemReport>("/system", undefined, signal),
    refetchInterval: 5000,
  });
  const overview = useOverview();
  if (system.error)
    return (
      <div className="page">
        <ProblemAlert error={system.error} retry={() => void system.refetch()} />
      </div>
    );
  if (!system.data) return <Skeleton active className="page" paragraph={{ rows: 12 }} />;
  const { version, uptime_s, roles, processes, checks, ingest } = system.data;
  const bad = checks.filter(({ ok }) => !ok).length;
  const duration = text.time.duration(
    Math.floor(uptime_s / 86_400),
    Math.floor((uptime_s % 86_400) / 3600),
    Math.floor((uptime_s % 3600) / 60),
  );

  return (
    <div className="page" data-testid="system">
      <PageHead title={text.system.title} />
      <Alert
        className="gap-below"
        showIcon
        type={bad ? "error" : "success"}
        title={bad ? text.system.someBad(bad) : text.system.allGood}
      />
      <div className="masonry">
        <section className="panel box">
          <h2>{text.system.ingest}</h2>
          <dl className="big-facts">
            <Big name={text.system.accepted} value={format.compact(ingest.accepted)} />
            <Big name={text.system.stored} value={format.compact(ingest.stored)} />
            <Big
              name={text.system.lag}
              value={ingest.lag_s === null ? "—" : `${format.decimal(ingest.lag_s)} ${text.system.seconds}`}
            />
            <Big name={text.system.dead} value={format.compact(ingest.dead)} />
          </dl>
          <h3 className="box-sub">{text.system.rate}</h3>
          <Sparkline points={lastMinute(overview.data?.rate)} zero height={72} label={text.system.rate} />
        </section>
        <section className="panel box">
          <h2>{text.system.checks}</h2>
          <Checks checks={checks} />
        </section>
        <section className="panel box">
          <h2>{text.system.processes}</h2>
          <dl className="big-facts gap-below">
            <Big name={text.system.version} value={version} />
            <Big name={text.system.uptime} value={duration} />
          </dl>
          <p className="muted gap-below">
            {text.system.roles}: {roles.join(text.comma)}
          </p>
          <Table
            size="small"
            rowKey={(one) => `${one.name}-${one.pid}`}
            pagination={false}
            dataSource={processes}
            scroll={{ x: 380 }}
            columns={[
              { title: text.system.process, dataIndex: "name" },
              { title: text.system.pid, dataIndex: "pid", align: "right" },
              { title: text.system.memory, dataIndex: "rss", align: "right", render: (rss: number) => format.bytes(rss) },
              { title: text.system.restarts, dataIndex: "restarts", align: "right" },
            ]}
          />
        </section>
        {(["bus", "readings", "sql"] as const).map((name) => (
          <section key={name} className="panel box">
            <h2>{text.system[name]}</h2>
            <Figures figures={system.data[name]} />
          </section>
        ))}
      </div>
    </div>
  );
}

function Big({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Checks({ checks }: { checks: SystemReport["checks"] }) {
  const text = useText();
  const label = useLabel();
  return (
    <ul>
      {checks.map((check) => (
        <li key={check.name} className="check">
          {check.ok ? (
            <CheckCircleFilled className="tone-ok" role="img" aria-label={text.system.pass} />
          ) : (
            <CloseCircleFilled className="tone-alarm" role="img" aria-label={text.system.fail} />
          )}
          <span className="mono check-name">{check.name}</span>
          <span>{label({ note_zh: check.zh, note_en: check.en }, "note")}</span>
        </li>
      ))}
    </ul>
  );
}

function shown(name: string, value: unknown, format: Format, yes: string, no: string): string {
  if (value === null || value === undefined) return "—";
  if (typeof value === "boolean") return value ? yes : no;
  if (typeof value === "number") return /bytes|rss|size/.test(name) ? format.bytes(value) : format.decimal(value);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Named figures as the engine gives them; a group of figures becomes a group here. */
function Figures({ figures }: { figures: Record<string, unknown> }) {
  const text = useText();
  const format = useFormat();
  const rows = Object.entries(figures).flatMap(([name, value]): [string, unknown][] =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([inner, one]) => [`${name}.${inner}`, one])
      : [[name, value]],
  );
  return (
    <dl className="facts">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt className="mono figure-name">{name}</dt>
          <dd>{shown(name, value, format, text.yes, text.no)}</dd>
        </div>
      ))}
    </dl>
  );
}
