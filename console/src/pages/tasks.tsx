/** The plan's 25 tasks by section: agencies, targets, and systems with honest states. */
import { Skeleton } from "antd";
import { Link } from "react-router";
import { useTasks } from "../api/plan.ts";
import type { Agency, PlanTask, SystemState } from "../api/types.ts";
import { PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { ReportButtons } from "../components/report-buttons.tsx";
import { Shares } from "../components/shares.tsx";
import { useLabel } from "../format.ts";
import { useText } from "../settings.tsx";
import { useTargets } from "./targets.tsx";

export default function Tasks() {
  const text = useText();
  const label = useLabel();
  const tasks = useTasks();
  const targets = useTargets();
  const sections = new Map<string, PlanTask[]>();
  for (const task of tasks.data ?? []) sections.set(task.section, [...(sections.get(task.section) ?? []), task]);
  const systems = tasks.data?.flatMap((task) => task.systems) ?? [];
  const count = (state: SystemState): number => systems.filter((one) => one.state === state).length;
  const agency = (one: Agency | string): string => (typeof one === "string" ? one : label(one as never, "name") || one.id);

  return (
    <div className="page">
      <PageHead title={text.plan.tasks} note={text.plan.subtitle}>
        <ReportButtons />
      </PageHead>
      {tasks.error && <ProblemAlert error={tasks.error} retry={() => void tasks.refetch()} />}
      <section className="panel box" aria-label={text.plan.systems}>
        {tasks.data ? (
          <Shares
            parts={[
              { label: text.cockpit.works, count: count("works"), tone: "ok" },
              { label: text.cockpit.partial, count: count("partial"), tone: "earth" },
              { label: text.cockpit.notYet, count: count("none"), tone: "none" },
            ]}
          />
        ) : (
          <Skeleton active title={false} paragraph={{ rows: 2 }} />
        )}
      </section>
      {tasks.isLoading && <Skeleton active className="gap-above" paragraph={{ rows: 12 }} />}
      {[...sections].map(([section, members]) => (
        <section key={section}>
          <h2 className="section-title">{label(members[0] as never, "section") || section}</h2>
          {members.map((task) => (
            <article key={task.id} className="panel task" id={task.id}>
              <div className="task-head">
                <span className="mono muted">{task.id}</span>
                <h3>
                  <Link to={`/plan/tasks/${task.id}`}>{label(task as never, "title")}</Link>
                </h3>
                <span className="muted">{text.plan.systemsShort(task.systems.length)}</span>
              </div>
              {(task.summary_zh || task.summary_en) && <p className="task-summary">{label(task as never, "summary")}</p>}
              <p className="task-agencies muted">
                {text.plan.agencies}: {task.agencies.map(agency).join(text.comma)}
              </p>
              {task.targets && task.targets.length > 0 && (
                <p className="task-targets">
                  {task.targets.map((id) => {
                    const target = targets.data?.find((candidate) => candidate.id === id);
                    return (
                      <Link key={id} to={`/plan/targets/${id}`}>
                        {target ? label(target as never, "title") : id}
                      </Link>
                    );
                  })}
                </p>
              )}
              <ul className="systems">
                {task.systems.map((system) => (
                  <li key={system.id}>
                    <span className="mono">{system.id}</span>
                    <span className={`system-state ${system.state}`} aria-hidden />
                    <span>
                      {label(system as never, "title")}{" "}
                      <span className="muted system-word">
                        {system.state === "works"
                          ? text.cockpit.works
                          : system.state === "partial"
                            ? text.cockpit.partial
                            : text.cockpit.notYet}
                      </span>
                    </span>
                  </li>
                ))}
              </ul>
            </article>
          ))}
        </section>
      ))}
    </div>
  );
}
