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
import { useFormat, useLabel } from "../format.ts";
import { useText } from "../settings.tsx";

/** Parts that have a place of their own; what engines add beside them is shown as it is named. */
const KNOWN = new Set([
  "version",
  "uptime_s",
  "roles",
  "processes",
  "checks",
  "bus",
  "readings",
  "sql",
  "ingest",
]);

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
        <PageHead title={text.system.title} />
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
        {Object.entries(system.data)
          .filter(([name]) => !KNOWN.has(name))
          .map(([name, figures]) => (
            <section key={name} className="panel box">
              <h2 className="mono">{name}</h2>
              <Figures figures={figures} />
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

type Row = Record<string, unknown>;
const isRow = (value: unknown): value is Row => value !== null && typeof value === "object" && !Array.isArray(value);

function useShown(): (name: string, value: unknown) => string {
  const text = useText();
  const format = useFormat();
  return (name, value) => {
    if (value === null || value === undefined || value === "") return "—";
    if (typeof value === "boolean") return value ? text.yes : text.no;
    if (typeof value === "number")
      return /bytes|rss|size/.test(name) || (/^(total|free)$/.test(name) && value > 1 << 20) ? format.bytes(value) : format.decimal(value);
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };
}

/** Figures as the engine names them: single ones as a list, rows of the same shape as a table. */
function Figures({ figures }: { figures: unknown }) {
  const shown = useShown();
  if (Array.isArray(figures) && figures.length > 0 && figures.every(isRow)) return <Rows rows={figures} />;
  if (!isRow(figures)) return <p>{shown("", figures)}</p>;
  const entries = Object.entries(figures);
  const single = entries.filter(([, value]) => !isRow(value) && !Array.isArray(value));
  const groups = entries.filter(([, value]) => isRow(value) || Array.isArray(value));
  return (
    <>
      <dl className="facts">
        {single.map(([name, value]) => (
          <div key={name}>
            <dt className="mono">{name}</dt>
            <dd>{shown(name, value)}</dd>
          </div>
        ))}
      </dl>
      {groups.map(([name, value]) => (
        <div key={name}>
          <h3 className="box-sub mono">{name}</h3>
          {isRow(value) && Object.values(value).length > 0 && Object.values(value).every(isRow) ? (
            <Rows rows={Object.entries(value).map(([key, row]) => ({ name: key, ...(row as Row) }))} />
          ) : (
            <Figures figures={value} />
          )}
        </div>
      ))}
    </>
  );
}

function Rows({ rows }: { rows: Row[] }) {
  const shown = useShown();
  const names = [...new Set(rows.flatMap(Object.keys))];
  if (names.length > 6)
    return rows.map((row, i) => (
      <dl key={String(row["name"] ?? i)} className="facts gap-below">
        {names.map((name) => (
          <div key={name}>
            <dt className="mono">{name}</dt>
            <dd>{shown(name, row[name])}</dd>
          </div>
        ))}
      </dl>
    ));
  return (
    <div className="scroll-x">
      <table className="plain-table small">
        <thead>
          <tr>
            {names.map((name) => (
              <th key={name} scope="col" className={`mono${typeof rows[0]?.[name] === "number" ? " number" : ""}`}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, i) => (
            <tr key={String(row["name"] ?? i)}>
              {names.map((name) => (
                <td key={name} className={typeof row[name] === "number" ? "number" : undefined}>
                  {shown(name, row[name])}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
