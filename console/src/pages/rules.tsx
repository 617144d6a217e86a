/** Rules: when an alarm is raised. Organisations' own are edited here; packs' are shown. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { App, Button, Skeleton, Space, Table, Tag, type TableColumnsType } from "antd";
import { useState } from "react";
import { del, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Condition, DeclaredRule, Page, Rule, RuleTest } from "../api/types.ts";
import { SeverityMark } from "../components/alarm-item.tsx";
import { Channels } from "../components/channels.tsx";
import { useOrgName } from "../components/org-select.tsx";
import { More, Nothing, PageHead, RemoveButton } from "../components/page.tsx";
import { ProblemAlert, useShowProblem } from "../components/problem.tsx";
import { RuleForm } from "../components/rule-form.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

/** A condition in one line. */
function useSaid(): (type: string, condition: Condition) => string {
  const text = useText();
  const label = useLabel();
  const format = useFormat();
  const { data } = useModels();
  return (type, condition) => {
    const says = text.rules.says;
    const properties = data?.find((model) => model.type === type)?.properties;
    const name = (property: string): string => {
      const found = properties?.find((candidate) => candidate.name === property);
      return (found && label(found as never)) || property;
    };
    const lasting = "for_s" in condition && condition.for_s ? says.lasting(format.scalar(condition.for_s)) : "";
    if (condition.kind === "absence") return says.absence(name(condition.property), format.scalar(condition.after_s));
    if (condition.kind === "geofence") return (condition.when === "inside" ? says.inside : says.outside) + lasting;
    if (condition.kind === "expression") return condition.raise_if + lasting;
    const what =
      condition.kind === "rate" ? says.rate(name(condition.property), format.scalar(condition.per_s ?? 1)) : name(condition.property);
    const [sign, bound] = condition.above !== undefined ? [">", condition.above] : ["<", condition.below];
    return says.bound(what, sign, format.scalar(bound ?? null)) + lasting;
  };
}

export default function Rules() {
  const text = useText();
  const can = useCan();
  const format = useFormat();
  const said = useSaid();
  const orgName = useOrgName();
  const typeLabel = useTypeLabel();
  const show = useShowProblem();
  const { message } = App.useApp();
  const client = useQueryClient();
  const rules = usePages<Rule>("/rules");
  const [editing, setEditing] = useState<Rule | "new" | null>(null);
  const may = can("access.rule.write");
  const declared = (rules.data?.pages[0] as (Page<Rule> & { declared?: DeclaredRule[] }) | undefined)?.declared ?? [];
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/rules"] });

  const test = (rule: Rule): Promise<void> => {
    const end = new Date();
    const start = new Date(end.getTime() - 86_400_000);
    return post<RuleTest>(`/rules/${rule.id}/test`, { start: start.toISOString(), end: end.toISOString() }).then(
      ({ readings, raised, cleared }) => void message.info(text.rules.tested(format.scalar(readings), raised, cleared), 8),
      show,
    );
  };

  const shared: TableColumnsType<DeclaredRule> = [
    { title: text.rules.type, dataIndex: "type", width: 130, render: (type: string) => typeLabel(type) },
    {
      title: text.rules.condition,
      key: "condition",
      width: 270,
      render: (_: unknown, rule) => said(rule.type, rule.condition),
    },
    {
      title: text.rules.severity,
      dataIndex: "severity",
      width: 80,
      render: (severity: string) => <SeverityMark severity={severity} />,
    },
  ];
  const own: TableColumnsType<Rule> = [
    { title: text.rules.name, dataIndex: "name", width: 160 },
    { title: text.rules.org, dataIndex: "org", width: 120, render: (org: string) => orgName(org) },
    ...(shared as TableColumnsType<Rule>),
    {
      title: text.rules.state,
      dataIndex: "enabled",
      width: 80,
      render: (on: boolean) => <Tag color={on ? "success" : "default"}>{on ? text.rules.on : text.rules.off}</Tag>,
    },
    {
      key: "actions",
      width: 260,
      align: "right",
      render: (_: unknown, rule) => (
        <Space>
          <Button size="small" onClick={() => void test(rule)}>
            {text.rules.test}
          </Button>
          {may && (
            <Button size="small" onClick={() => setEditing(rule)}>
              {text.rules.edit}
            </Button>
          )}
          {may && (
            <RemoveButton
              text={text.rules.remove}
              name={rule.name}
              warning={text.rules.removeConfirm}
              onRemove={() => del(`/rules/${rule.id}`).then(refresh, show)}
            />
          )}
        </Space>
      ),
    },
  ];

  if (rules.isLoading) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  return (
    <div className="page">
      <PageHead title={text.rules.title}>
        {may && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setEditing("new")}>
            {text.rules.add}
          </Button>
        )}
      </PageHead>
      <p className="page-note muted">{text.rules.help}</p>
      {rules.error && <ProblemAlert error={rules.error} retry={() => void rules.refetch()} />}
      <div className="panel table-wrap gap-below" data-testid="rules">
        <Table<Rule>
          size="middle"
          rowKey="id"
          title={() => text.rules.own}
          columns={own}
          dataSource={rules.items}
          pagination={false}
          scroll={{ x: 1110 }}
          locale={{ emptyText: <Nothing title={text.empty.rules} /> }}
        />
        <More {...rules} />
      </div>
      <div className="panel table-wrap gap-below" data-testid="declared">
        <Table<DeclaredRule>
          size="middle"
          rowKey={(rule) => `${rule.type} ${rule.key} ${JSON.stringify(rule.condition)}`}
          title={() => text.rules.declared}
          columns={shared}
          dataSource={declared}
          pagination={false}
          scroll={{ x: 550 }}
        />
      </div>
      {can("access.channel.read") && <Channels />}
      {editing && (
        <RuleForm
          rule={editing === "new" ? null : editing}
          onClose={() => setEditing(null)}
          onSaved={() => {
            setEditing(null);
            void refresh();
          }}
        />
      )}
    </div>
  );
}
