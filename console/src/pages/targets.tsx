/** The plan's figures: value against goal, where the value came from, and why. */
import { Segmented, Select, Skeleton, Table, Tooltip, type TableColumnsType } from "antd";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";
import { get } from "../api/client.ts";
import type { Score, Target, TargetState } from "../api/types.ts";
import { Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { Shares } from "../components/shares.tsx";
import { Sparkline } from "../components/sparkline.tsx";
import { MetTag, TargetStateTag } from "../components/tags.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

const VIEW = "tulou.targets";
const STATES: TargetState[] = ["measured", "reported", "no_data"];

export function useTargets() {
  return useQuery({
    queryKey: ["plan", "targets"],
    queryFn: ({ signal }) => get<Target[]>("/plan/targets", undefined, signal),
    refetchInterval: 60_000,
  });
}

export default function Targets() {
  const text = useText();
  const can = useCan();
  const targets = useTargets();
  const [params, setParams] = useSearchParams();
  const [view, setView] = useState(() => localStorage.getItem(VIEW) ?? "cards");
  const state = params.get("state");
  const shown = (targets.data ?? []).filter((target) => !state || target.state === state);
  const count = (wanted: TargetState): number => targets.data?.filter((target) => target.state === wanted).length ?? 0;

  return (
    <div className="page">
      <PageHead title={text.plan.targets} note={text.plan.subtitle} />
      <div className="columns gap-below">
        <section className="panel box summary">
          {targets.data ? (
            <>
              <Shares
                parts={[
                  { label: text.cockpit.measured, count: count("measured"), tone: "ok" },
                  { label: text.cockpit.reported, count: count("reported"), tone: "primary" },
                  { label: text.cockpit.noData, count: count("no_data"), tone: "none" },
                ]}
              />
              <p className="muted side-note">
                {text.cockpit.met(targets.data.filter(({ met }) => met).length, targets.data.length)}
              </p>
            </>
          ) : (
            <Skeleton active title={false} paragraph={{ rows: 3 }} />
          )}
        </section>
        {can("plan.score.read") && <ScorePanel />}
      </div>
      <div className="filters">
        <Select
          allowClear
          className="filter"
          placeholder={text.plan.filterState}
          aria-label={text.plan.filterState}
          value={state ?? undefined}
          onChange={(value?: string) => setParams(value ? { state: value } : {}, { replace: true })}
          options={STATES.map((value) => ({
            value,
            label: { measured: text.cockpit.measured, reported: text.cockpit.reported, no_data: text.cockpit.noData }[value],
          }))}
        />
        <Segmented
          value={view}
          onChange={(value) => {
            localStorage.setItem(VIEW, value);
            setView(value);
          }}
          options={[
            { value: "cards", label: text.plan.cards },
            { value: "table", label: text.plan.table },
          ]}
        />
      </div>
      {targets.error && <ProblemAlert error={targets.error} retry={() => void targets.refetch()} />}
      {targets.isLoading ? (
        <div className="target-grid">
          {Array.from({ length: 21 }, (_, i) => (
            <div key={i} className="panel target-card">
              <Skeleton active title={{ width: "60%" }} paragraph={{ rows: 3 }} />
            </div>
          ))}
        </div>
      ) : shown.length === 0 ? (
        <Nothing title={text.none} />
      ) : view === "table" ? (
        <TargetTable targets={shown} />
      ) : (
        <div className="target-grid" data-testid="targets">
          {shown.map((target) => (
            <TargetCard key={target.id} target={target} />
          ))}
        </div>
      )}
    </div>
  );
}

function ScorePanel() {
  const text = useText();
  const format = useFormat();
  const score = useQuery({
    queryKey: ["plan", "score"],
    queryFn: ({ signal }) => get<Score>("/plan/score", undefined, signal),
  });
  if (score.error) return <ProblemAlert error={score.error} retry={() => void score.refetch()} />;
  return (
    <section className="panel box summary">
      <dl className="big-facts">
        <div>
          <dt>{text.plan.score}</dt>
          <dd data-testid="score">
            {score.data ? (score.data.score === null ? text.plan.noValue : format.decimal(score.data.score)) : "…"}
          </dd>
        </div>
        <div>
          <dt>{text.plan.digest}</dt>
          <dd>
            <Tooltip title={score.data?.digest}>
              <code className="mono digest">{score.data?.digest.replace(/^sha256:/, "").slice(0, 12) ?? "…"}</code>
            </Tooltip>
          </dd>
        </div>
      </dl>
      <p className="muted side-note">
        {text.plan.scoreHelp} {text.plan.asOfAt(format.moment(score.data?.as_of ?? Date.now()))}
      </p>
    </section>
  );
}

/** Unit in the reader's language. */
export function useUnit(): (target: Target) => string {
  const label = useLabel();
  return (target) => label(target as never, "unit") || target.unit || "";
}

/** `≥ 80,000 stations` */
export function useGoal(): (target: Target) => string {
  const format = useFormat();
  const unit = useUnit();
  return (target) =>
    `${target.compare === ">" ? ">" : "≥"} ${format.decimal(target.goal)} ${unit(target)}`.trim();
}

export function TargetValue({ target }: { target: Target }) {
  const text = useText();
  const format = useFormat();
  const unit = useUnit();
  if (target.value === null) return <span className="target-value blank">{text.plan.noValue}</span>;
  return (
    <span className="target-value" title={format.decimal(target.value)}>
      {target.value >= 10_000_000 ? format.compact(target.value) : format.decimal(target.value)}
      <span className="counter-unit">{unit(target)}</span>
    </span>
  );
}

function Progress({ target }: { target: Target }) {
  const share = target.value === null || !target.goal ? 0 : Math.min(1, Math.max(0, target.value / target.goal));
  return (
    <div className={`progress${target.met ? " met" : ""}`} aria-hidden>
      <span style={{ width: `${share * 100}%` }} />
    </div>
  );
}

function TargetCard({ target }: { target: Target }) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const goal = useGoal();
  return (
    <Link to={`/plan/targets/${target.id}`} className="panel target-card">
      <div className="target-card-head">
        <span className="target-card-title">{label(target as never, "title")}</span>
        <span className="target-tags">
          <TargetStateTag state={target.state} />
          <MetTag met={target.met} state={target.state} />
        </span>
      </div>
      <div className="target-row">
        <TargetValue target={target} />
        {target.trend.length > 1 && (
          <Sparkline points={target.trend} goal={target.goal} height={36} label={text.plan.trend} />
        )}
      </div>
      <Progress target={target} />
      <div className="target-foot muted">
        <span>
          {text.plan.goal} {goal(target)}
        </span>
        <span>{target.as_of ? text.plan.asOfAt(format.day(target.as_of)) : text.plan.no(target.task)}</span>
      </div>
      <p className="target-why muted">{label(target as never, "why")}</p>
    </Link>
  );
}

function TargetTable({ targets }: { targets: Target[] }) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const goal = useGoal();
  const columns: TableColumnsType<Target> = [
    {
      title: text.plan.targets,
      key: "title",
      width: 260,
      fixed: "left",
      render: (_: unknown, target) => <Link to={`/plan/targets/${target.id}`}>{label(target as never, "title")}</Link>,
    },
    { title: text.plan.task, dataIndex: "task", width: 70 },
    {
      title: text.plan.state,
      dataIndex: "state",
      width: 170,
      render: (state: TargetState, target) => (
        <span className="target-tags">
          <TargetStateTag state={state} />
          <MetTag met={target.met} state={state} />
        </span>
      ),
    },
    {
      title: text.plan.value,
      dataIndex: "value",
      align: "right",
      width: 130,
      render: (value: number | null) => (value === null ? <span className="muted">—</span> : format.decimal(value)),
    },
    { title: text.plan.goal, key: "goal", align: "right", width: 190, render: (_: unknown, target) => goal(target) },
    {
      title: text.plan.trend,
      key: "trend",
      width: 130,
      render: (_: unknown, target) =>
        target.trend.length > 1 && <Sparkline points={target.trend} height={26} label={text.plan.trend} />,
    },
    { title: text.plan.asOf, dataIndex: "as_of", width: 110, render: (at: string | null) => format.day(at) },
    {
      title: text.plan.why,
      key: "why",
      width: 420,
      render: (_: unknown, target) => <span className="muted">{label(target as never, "why")}</span>,
    },
  ];
  return (
    <div className="panel table-wrap" data-testid="targets">
      <Table<Target> size="middle" rowKey="id" columns={columns} dataSource={targets} pagination={false} scroll={{ x: 1480 }} />
    </div>
  );
}
