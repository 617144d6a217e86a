/** One task of the plan: its targets, systems, projects with their funds, and supervision items. */
import { ArrowLeftOutlined } from "@ant-design/icons";
import { useQuery } from "@tanstack/react-query";
import { Progress, Skeleton, Table, Tag } from "antd";
import { useEffect } from "react";
import { Link, useParams } from "react-router";
import { get } from "../api/client.ts";
import type { Item } from "../api/items.ts";
import { useWorkflows } from "../api/items.ts";
import type { TaskDetail } from "../api/plan.ts";
import { useOrgName } from "../components/org-select.tsx";
import { Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { ProjectTable } from "../components/project-table.tsx";
import { MetTag, TargetStateTag } from "../components/tags.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useSettings } from "../settings.tsx";
import { TargetValue, useGoal, useTargets } from "./targets.tsx";

export default function TaskPage() {
  const { text } = useSettings();
  const format = useFormat();
  const label = useLabel();
  const goal = useGoal();
  const can = useCan();
  const id = useParams()["id"] ?? "";
  const targets = useTargets();
  const task = useQuery({
    queryKey: ["plan", "task", id],
    queryFn: ({ signal }) => get<TaskDetail>(`/plan/tasks/${encodeURIComponent(id)}`, undefined, signal),
  });
  const data = task.data;
  const title = data && label(data as never, "title");
  useEffect(() => {
    if (title) document.title = `${title} · ${text.product}`;
  }, [title, text]);
  if (task.error)
    return (
      <div className="page">
        <PageHead title={text.plan.tasks} />
        <ProblemAlert error={task.error} retry={() => void task.refetch()} />
      </div>
    );
  if (!data) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  const mine = (targets.data ?? []).filter((one) => one.task === id);
  const funds = data.projects?.funds.total;
  const facts: [string, string][] = [
    [text.plan.score, data.score === null ? "—" : format.decimal(data.score)],
    [text.projects.count, data.projects ? format.integer(data.projects.projects) : "—"],
    [text.projects.lateMilestones, data.projects ? format.integer(data.projects.late) : "—"],
    [text.projects.stages.planned, funds ? format.money(funds.planned) : "—"],
    [text.projects.stages.spent, funds ? format.money(funds.spent) : "—"],
  ];
  return (
    <div className="page">
      <div className="thing-head gap-below">
        <Link to="/plan/tasks" aria-label={text.actions.back}>
          <ArrowLeftOutlined />
        </Link>
        <span className="mono muted">{data.id}</span>
        <h1>{title}</h1>
      </div>
      <section className="panel box gap-below">
        <p className="gap-below">{label(data as never, "summary")}</p>
        <p className="muted gap-below">
          {text.plan.agencies}: {data.agencies.map((one) => (typeof one === "string" ? one : label(one as never, "name"))).join(text.comma)}
        </p>
        <dl className="big-facts">
          {facts.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </section>
      <div className="columns gap-below">
        <section className="panel box">
          <h2>{text.plan.targets}</h2>
          {mine.length === 0 && <Nothing title={text.projects.noTargets} />}
          {mine.map((target) => (
            <div key={target.id} className="gap-below">
              <Link to={`/plan/targets/${target.id}`}>{label(target as never, "title")}</Link> <TargetStateTag state={target.state} />
              <MetTag met={target.met} state={target.state} />
              <div className="target-row">
                <TargetValue target={target} /> <span className="muted">{goal(target)}</span>
              </div>
              <Progress
                size="small"
                showInfo={false}
                percent={Math.min(100, (100 * (target.value ?? 0)) / target.goal)}
                aria-label={label(target as never, "title")}
              />
            </div>
          ))}
        </section>
        <section className="panel box">
          <h2>{text.plan.systems}</h2>
          <ul className="systems">
            {data.systems.map((system) => (
              <li key={system.id}>
                <span className="mono">{system.id}</span>
                <span className={`system-state ${system.state}`} aria-hidden />
                <span>
                  {label(system as never, "title")}{" "}
                  <span className="muted system-word">
                    {system.state === "works" ? text.cockpit.works : system.state === "partial" ? text.cockpit.partial : text.cockpit.notYet}
                  </span>
                </span>
              </li>
            ))}
          </ul>
        </section>
      </div>
      {data.items !== null && (
        <section className="panel box gap-below" data-testid="task-items">
          <h2>{text.projects.supervision}</h2>
          <Items items={data.items} />
        </section>
      )}
      {can("plan.project.read") && (
        <>
          <h2 className="section-title">{text.projects.title}</h2>
          <ProjectTable query={{ task: id }} />
        </>
      )}
    </div>
  );
}

function Items({ items }: { items: Item[] }) {
  const { text, language } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const workflows = useWorkflows();
  return (
    <Table<Item>
      size="middle"
      rowKey="no"
      dataSource={items}
      pagination={items.length > 10 ? { pageSize: 10, showSizeChanger: false } : false}
      scroll={{ x: 720 }}
      locale={{ emptyText: <Nothing title={text.items.none} /> }}
      columns={[
        { title: text.items.name, dataIndex: "title", render: (title: string, { no }) => <Link to={`/items?view=open&item=${no}`}>{title}</Link> },
        { title: text.items.org, dataIndex: "org", width: 190, render: (id: string) => org(id) },
        {
          title: text.items.state,
          key: "state",
          width: 160,
          render: (_: unknown, item) => (
            <>
              <Tag color={item.final ? "default" : "processing"}>
                {workflows.data?.find((one) => one.name === item.workflow)?.states[item.state]?.label[language] ?? item.state}
              </Tag>
              {item.level > 0 && <Tag color="error">{text.items.escalated(item.level)}</Tag>}
            </>
          ),
        },
        { title: text.items.due, dataIndex: "due_at", width: 180, render: (at: string | null) => (at ? format.moment(at) : "—") },
      ]}
    />
  );
}
