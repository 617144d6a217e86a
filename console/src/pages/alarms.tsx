/** Alarms: what is out of bounds now, and who has seen it. */
import { useQueryClient } from "@tanstack/react-query";
import { Button, Segmented, Table, Tag } from "antd";
import { Link, useSearchParams } from "react-router";
import { post } from "../api/client.ts";
import { useLive } from "../api/live.ts";
import { usePages } from "../api/pages.ts";
import type { Alarm, Scalar } from "../api/types.ts";
import { SeverityMark, useAlarmRule, useAlarmUnit } from "../components/alarm-item.tsx";
import { entityPath } from "../components/entity-link.tsx";
import { More, Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert, useShowProblem } from "../components/problem.tsx";
import { SyntheticTag } from "../components/tags.tsx";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

export default function Alarms() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const show = useShowProblem();
  const client = useQueryClient();
  const [params, setParams] = useSearchParams();
  const state = params.get("state") === "all" ? "all" : "open";
  const alarms = usePages<Alarm>("/alarms", { state: state === "open" ? "open" : undefined }, { refetch: 60_000 });
  const refresh = (): void => void client.invalidateQueries({ queryKey: ["/alarms"] });
  useLive("alarm", refresh);
  const rule = useAlarmRule();
  const unit = useAlarmUnit();
  const mayAcknowledge = can("access.alarm.write");

  return (
    <div className="page">
      <PageHead title={text.alarms.title}>
        <Segmented
          value={state}
          onChange={(value) => setParams(value === "all" ? { state: "all" } : {}, { replace: true })}
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
          scroll={{ x: 1080 }}
          locale={{ emptyText: <Nothing title={text.empty.alarms} /> }}
          columns={[
            {
              title: text.alarms.severity,
              dataIndex: "severity",
              width: 90,
              render: (severity: string) => <SeverityMark severity={severity} />,
            },
            {
              title: text.alarms.thing,
              key: "thing",
              width: 240,
              render: (_: unknown, alarm) => (
                <span className="name-cell">
                  <Link to={alarm.entity_id ? entityPath(alarm.entity_id, alarm.org) : `/things/${alarm.no}`}>{alarm.name || alarm.entity_id || alarm.no}</Link>
                  {alarm.synthetic && <SyntheticTag />}
                </span>
              ),
            },
            {
              title: text.alarms.rule,
              key: "rule",
              width: 240,
              render: (_: unknown, alarm) => rule(alarm),
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
              width: 100,
              render: (_: unknown, alarm) =>
                alarm.cleared_at ? (
                  <Tag title={format.moment(alarm.cleared_at)}>{text.alarms.clearedTag}</Tag>
                ) : (
                  <Tag color="error">{text.alarms.openTag}</Tag>
                ),
            },
            {
              key: "actions",
              width: 160,
              align: "right",
              render: (_: unknown, alarm) =>
                alarm.acknowledged_by ? (
                  <span className="muted">{text.alarms.by(alarm.acknowledged_by.replace(/^user:/, ""))}</span>
                ) : (
                  mayAcknowledge && (
                    <Button size="small" onClick={() => post(`/alarms/${alarm.id}/acknowledge`).then(refresh, show)}>
                      {text.alarms.acknowledge}
                    </Button>
                  )
                ),
            },
          ]}
        />
        <More {...alarms} />
      </div>
    </div>
  );
}
