/** The audit: append-only and hash-chained; anybody who may read it can verify it. */
import { SafetyCertificateOutlined } from "@ant-design/icons";
import { useMutation } from "@tanstack/react-query";
import { Alert, Button, Input, Table, Tag } from "antd";
import { useState } from "react";
import { get } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { AuditEntry } from "../api/types.ts";
import { EntityLink } from "../components/entity-link.tsx";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { More, Nothing, PageHead, useRested } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

interface Verdict {
  ok: boolean;
  count: number;
  first_bad: number | null;
}

export default function Audit() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const orgName = useOrgName();
  const [actor, setActor] = useState("");
  const [action, setAction] = useState("");
  const [org, setOrg] = useState<string>();
  const entries = usePages<AuditEntry>("/audit", {
    actor: useRested(actor.trim(), 400) || undefined,
    action: useRested(action.trim(), 400) || undefined,
    org,
  });
  const verify = useMutation({ mutationFn: () => get<Verdict>("/audit/verify") });

  return (
    <div className="page">
      <PageHead title={text.audit.title} note={text.audit.help}>
        {can("audit.chain.read") && (
          <Button icon={<SafetyCertificateOutlined />} loading={verify.isPending} onClick={() => verify.mutate()}>
            {text.audit.verify}
          </Button>
        )}
      </PageHead>
      {verify.error && (
        <div className="gap-below">
          <ProblemAlert error={verify.error} />
        </div>
      )}
      {verify.data && (
        <Alert
          className="gap-below"
          data-testid="verdict"
          showIcon
          closable
          type={verify.data.ok ? "success" : "error"}
          title={
            verify.data.ok
              ? text.audit.ok(format.integer(verify.data.count))
              : text.audit.bad(String(verify.data.first_bad ?? "?"))
          }
        />
      )}
      <div className="filters" role="search">
        <Input
          data-search
          allowClear
          className="filter-wide"
          placeholder={`${text.audit.filterActor} user:admin`}
          aria-label={text.audit.filterActor}
          value={actor}
          onChange={(event) => setActor(event.target.value)}
        />
        <Input
          allowClear
          className="filter-wide"
          placeholder={`${text.audit.filterAction} plan.report.create`}
          aria-label={text.audit.filterAction}
          value={action}
          onChange={(event) => setAction(event.target.value)}
        />
        <OrgSelect className="filter" allowClear placeholder={text.things.org} label={text.things.org} value={org} onChange={setOrg} />
      </div>
      {entries.error && <ProblemAlert error={entries.error} retry={() => void entries.refetch()} />}
      <div className="panel table-wrap" data-testid="audit">
        <Table<AuditEntry>
          size="middle"
          rowKey="seq"
          loading={entries.isLoading}
          dataSource={entries.items}
          pagination={false}
          scroll={{ x: 1080 }}
          locale={{ emptyText: <Nothing title={text.empty.audit} /> }}
          expandable={{
            expandedRowRender: (entry) => (
              <pre className="raw">{JSON.stringify({ detail: entry.detail, hash: entry.hash }, null, 2)}</pre>
            ),
          }}
          columns={[
            { title: text.audit.seq, dataIndex: "seq", width: 80, align: "right" },
            { title: text.audit.at, dataIndex: "at", width: 170, render: format.moment },
            { title: text.audit.actor, dataIndex: "actor", width: 150, ellipsis: true },
            {
              title: text.audit.action,
              dataIndex: "action",
              width: 240,
              render: (name: string) => <span className="mono">{name}</span>,
            },
            { title: text.things.org, dataIndex: "org", width: 140, render: (id: string | null) => orgName(id) },
            {
              title: text.audit.subject,
              dataIndex: "subject",
              ellipsis: true,
              render: (subject: string | null, entry) =>
                subject && entry.action.startsWith("context.entity.") ? (
                  <EntityLink id={subject} org={entry.org} />
                ) : (
                  subject
                ),
            },
            {
              title: text.audit.outcome,
              dataIndex: "outcome",
              width: 90,
              render: (outcome: string) => (
                <Tag color={outcome === "ok" || outcome === "allowed" ? "success" : "error"}>
                  {text.audit.outcomes[outcome] ?? outcome}
                </Tag>
              ),
            },
            {
              title: text.audit.hash,
              dataIndex: "hash",
              width: 110,
              render: (hash: string) => (
                <span className="mono muted" title={hash}>
                  {hash.slice(0, 8)}
                </span>
              ),
            },
          ]}
        />
        <More {...entries} />
      </div>
    </div>
  );
}
