/** The alarm desk: what is out of bounds, who has seen it, who sees to it. */
import { useQueryClient } from "@tanstack/react-query";
import { Button, Checkbox, Segmented, Select, Table, Tag } from "antd";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";
import { useLive } from "../api/live.ts";
import { usePages } from "../api/pages.ts";
import { changed } from "../api/search.ts";
import type { Alarm, Scalar } from "../api/types.ts";
import { AlarmDrawer } from "../components/alarm-drawer.tsx";
import { SeverityMark, useAlarmRule, useAlarmUnit } from "../components/alarm-item.tsx";
import { entityPath } from "../components/entity-link.tsx";
import { More, Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { SyntheticTag } from "../components/tags.tsx";
import { person, useFormat } from "../format.ts";
import { useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

export const SEVERITIES = ["critical", "major", "minor", "warning"];

export default function Alarms() {
  const text = useText();
  const format = useFormat();
  const session = useSession();
  const client = useQueryClient();
  const [params, setParams] = useSearchParams();
  const [shown, setShown] = useState<Alarm["id"] | null>(null);
  const state = params.get("state") === "all" ? "all" : "open";
  const me = `user:${session.user.name}`;
  const mine = params.get("mine") === "1";
  const group = params.get("group");
  const grouped = params.get("grouped") === "1" && !group;
  const severity = params.get("severity") ?? undefined;
  const alarms = usePages<Alarm>(
    "/alarms",
    {
      state: state === "open" ? "open" : undefined,
      severity,
      assigned: mine ? me : undefined,
      group,
      grouped: grouped ? 1 : undefined,
    },
    { refetch: 60_000 },
  );
  const refresh = (): void => {
    void client.invalidateQueries({ queryKey: ["/alarms"] });
    void client.invalidateQueries({ queryKey: ["alarm"] });
  };
  useLive("alarm", refresh);
  const rule = useAlarmRule();
  const unit = useAlarmUnit();

  const choose = (name: string, value: string | undefined): void => {
    setParams(changed(params, { [name]: value }), { replace: true });
  };

  return (
    <div className="page">
      <PageHead title={text.alarms.title}>
        {group && (
          <Tag closable onClose={() => choose("group", undefined)}>
            {text.alarms.showGroup}
          </Tag>
        )}
        <Checkbox checked={grouped} disabled={!!group} onChange={({ target }) => choose("grouped", target.checked ? "1" : "")}>
          {text.alarms.grouped}
        </Checkbox>
        <Checkbox checked={mine} onChange={({ target }) => choose("mine", target.checked ? "1" : "")}>
          {text.alarms.mine}
        </Checkbox>
        <Select
          aria-label={text.alarms.severity}
          style={{ minWidth: 120 }}
          value={severity ?? ""}
          onChange={(value) => choose("severity", value)}
          options={[
            { value: "", label: text.alarms.allSeverities },
            ...SEVERITIES.map((value) => ({ value, label: text.alarms.severities[value] })),
          ]}
        />
        <Segmented
          value={state}
          onChange={(value) => choose("state", value === "all" ? "all" : undefined)}
          options={[
            { value: "open", label: text.alarms.open },
            { value: "all", label: text.alarms.all },
          ]}
        />
      </PageHead>
      {alarms.error && <ProblemAlert error={alarms.error} retry={() => void alarms.refetch()} />}
      <div className="panel table-wrap" data-testid="alarms">
        <Table<Alarm>
          size="middle"
          rowKey="id"
          loading={alarms.isLoading}
          dataSource={alarms.items}
          pagination={false}
          scroll={{ x: 1160 }}
          locale={{ emptyText: <Nothing title={text.empty.alarms} /> }}
          columns={[
            {
              title: text.alarms.severity,
              dataIndex: "severity",
              width: 90,
              render: (value: string) => <SeverityMark severity={value} />,
            },
            {
              title: text.alarms.thing,
              key: "thing",
              width: 230,
              render: (_: unknown, alarm) => (
                <span className="name-cell">
                  <Link to={alarm.entity_id ? entityPath(alarm.entity_id, alarm.org) : `/things/${alarm.no}`}>
                    {alarm.name || alarm.entity_id || alarm.no}
                  </Link>
                  {alarm.synthetic && <SyntheticTag />}
                </span>
              ),
            },
            {
              title: text.alarms.rule,
              key: "rule",
              width: 240,
              render: (_: unknown, alarm) => (
                <>
                  {rule(alarm)}{" "}
                  {(alarm.group_size ?? 1) > 1 && alarm.group_id && !group && (
                    <Button size="small" type="link" onClick={() => choose("group", String(alarm.group_id))}>
                      {text.alarms.more(alarm.group_size ?? 1)}
                    </Button>
                  )}
                </>
              ),
            },
            {
              title: text.alarms.value,
              dataIndex: "value",
              width: 120,
              align: "right",
              render: (value: Scalar, alarm) => (
                <>
                  {format.scalar(value)} <span className="muted">{value === null ? "" : unit(alarm)}</span>
                </>
              ),
            },
            {
              title: text.alarms.raised,
              dataIndex: "raised_at",
              width: 170,
              render: (at: string) => <span title={format.ago(at)}>{format.moment(at)}</span>,
            },
            {
              title: text.orgs.state,
              key: "state",
              width: 150,
              render: (_: unknown, alarm) => (
                <>
                  {alarm.cleared_at ? (
                    <Tag title={format.moment(alarm.cleared_at)}>{text.alarms.clearedTag}</Tag>
                  ) : (
                    <Tag color="error">{text.alarms.openTag}</Tag>
                  )}
                  {alarm.acknowledged_by && <Tag>{text.alarms.acknowledged}</Tag>}
                </>
              ),
            },
            {
              title: text.alarms.assigned,
              dataIndex: "assigned_to",
              width: 100,
              render: (who: string | null) => (who ? person(who) : <span className="muted">—</span>),
            },
            {
              key: "actions",
              width: 90,
              align: "right",
              render: (_: unknown, alarm) => (
                <Button size="small" onClick={() => setShown(alarm.id)}>
                  {text.actions.details}
                </Button>
              ),
            },
          ]}
        />
        <More {...alarms} />
      </div>
      {shown !== null && <AlarmDrawer id={shown} me={me} onClose={() => setShown(null)} onDone={refresh} />}
    </div>
  );
}
