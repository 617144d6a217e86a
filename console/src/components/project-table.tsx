/** Projects in a list: milestones, funds, lateness. */
import { Progress, Tag, type TableColumnsType } from "antd";
import { Link } from "react-router";
import { usePages } from "../api/pages.ts";
import type { Project } from "../api/plan.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { useOrgName } from "./org-select.tsx";
import { Nothing, PagedTable } from "./page.tsx";
import { SyntheticTag } from "./tags.tsx";

export function ProjectTable({ query }: { query: { task?: string | null; org?: string | null; late?: boolean } }) {
  const text = useText();
  const format = useFormat();
  const org = useOrgName();
  const pages = usePages<Project>("/plan/projects", { ...query, late: query.late ? 1 : null });
  const columns: TableColumnsType<Project> = [
    {
      title: text.projects.name,
      key: "title",
      width: 320,
      render: (_: unknown, one) => (
        <>
          <Link to={`/plan/projects/${one.no}`}>{one.title}</Link> {one.synthetic && <SyntheticTag />}
          <div className="muted">
            <span className="mono">{one.code}</span> · {one.task}
          </div>
        </>
      ),
    },
    { title: text.projects.org, dataIndex: "org", width: 190, ellipsis: true, render: (id: string) => org(id) },
    {
      title: text.projects.milestones,
      key: "milestones",
      width: 190,
      render: (_: unknown, one) => (
        <>
          {one.done} / {one.milestones} {one.late > 0 && <Tag color="error">{text.projects.late(one.late)}</Tag>}
          {one.finished > 0 && <Tag color="success">{text.projects.finished}</Tag>}
        </>
      ),
    },
    {
      title: text.projects.stages.received,
      key: "received",
      align: "right",
      width: 130,
      render: (_: unknown, one) => format.money(one.funds.total.received),
    },
    {
      title: text.projects.spentOfPlanned,
      key: "spent",
      width: 230,
      render: (_: unknown, { funds }) => (
        <>
          <span>{text.projects.of(format.money(funds.total.spent), format.money(funds.total.planned))}</span>
          <Progress
            size="small"
            showInfo={false}
            aria-label={text.projects.spentOfPlanned}
            percent={funds.total.planned ? Math.min(100, (100 * funds.total.spent) / funds.total.planned) : 0}
          />
        </>
      ),
    },
  ];
  return (
    <PagedTable<Project>
      pages={pages}
      testid="projects"
      rowKey="no"
      scroll={{ x: 1060 }}
      columns={columns}
      empty={<Nothing title={text.projects.none} hint={text.projects.noneHint} />}
    />
  );
}
