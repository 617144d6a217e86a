/** Who is told of alarms: webhooks, e-mail, short messages. */
import { PlusOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Button, Form, Input, Select, Table, Tag, type TableColumnsType } from "antd";
import { useState } from "react";
import { del, get, post } from "../api/client.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Channel } from "../api/types.ts";
import { useFormat, useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";
import { SeverityMark } from "./alarm-item.tsx";
import { OrgSelect, useOrgName } from "./org-select.tsx";
import { Nothing, OnceModal, RemoveButton } from "./page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "./problem.tsx";

const SEVERITIES = ["warning", "minor", "major", "critical"];
const KINDS = ["webhook", "email", "sms"] as const;

export function Channels() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const orgName = useOrgName();
  const typeLabel = useTypeLabel();
  const show = useShowProblem();
  const client = useQueryClient();
  const [adding, setAdding] = useState(false);
  const may = can("access.channel.manage");
  const { data, error, isLoading, refetch } = useQuery({
    queryKey: ["channels"],
    queryFn: ({ signal }) => get<{ items: Channel[] }>("/alarm-channels", undefined, signal),
  });
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["channels"] });

  const columns: TableColumnsType<Channel> = [
    { title: text.rules.name, dataIndex: "name", width: 140 },
    { title: text.rules.org, dataIndex: "org", width: 110, render: (org: string) => orgName(org) },
    {
      title: text.channels.to,
      key: "to",
      width: 300,
      render: (_: unknown, { address }) => (
        <>
          <Tag>{text.channels.kinds[address.kind]}</Tag>
          <span className="mono">{address.kind === "webhook" ? address.url : address.to.join(", ")}</span>
        </>
      ),
    },
    {
      title: text.channels.least,
      dataIndex: "least",
      width: 100,
      render: (severity: string) => <SeverityMark severity={severity} />,
    },
    {
      title: text.rules.type,
      dataIndex: "types",
      width: 150,
      render: (types: string[] | null) => types?.map(typeLabel).join(", ") ?? <span className="muted">{text.channels.all}</span>,
    },
    {
      title: text.channels.last,
      key: "last",
      width: 200,
      render: (_: unknown, channel) =>
        channel.last_error ? (
          <Tag color="error" title={channel.last_error}>
            {text.channels.failed(format.ago(channel.last_failure))}
          </Tag>
        ) : (
          <span className="muted">{format.ago(channel.last_success)}</span>
        ),
    },
  ];
  if (may)
    columns.push({
      key: "actions",
      width: 80,
      align: "right",
      render: (_: unknown, channel) => (
        <RemoveButton
          text={text.rules.remove}
          name={channel.name}
          onRemove={() => del(`/alarm-channels/${channel.id}`).then(refresh, show)}
        />
      ),
    });

  return (
    <div className="panel table-wrap gap-below" data-testid="channels">
      {error && <ProblemAlert error={error} retry={() => void refetch()} />}
      <Table<Channel>
        size="middle"
        rowKey="id"
        title={() => (
          <div className="table-title">
            {text.channels.title}
            {may && (
              <Button size="small" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
                {text.channels.add}
              </Button>
            )}
          </div>
        )}
        loading={isLoading}
        columns={columns}
        dataSource={data?.items}
        pagination={false}
        scroll={{ x: 1080 }}
        locale={{ emptyText: <Nothing title={text.empty.channels} /> }}
      />
      {adding && (
        <AddChannel
          onClose={() => {
            setAdding(false);
            void refresh();
          }}
        />
      )}
    </div>
  );
}

interface Values {
  name: string;
  org: string;
  kind: (typeof KINDS)[number];
  url?: string;
  to?: string[];
  least: string;
  types: string[];
}

function AddChannel({ onClose }: { onClose(): void }) {
  const text = useText();
  const label = useLabel();
  const session = useSession();
  const { data: models } = useModels();
  const [form] = Form.useForm<Values>();
  const { error, busy, send } = useSending();
  const [secret, setSecret] = useState<string | null>(null);
  const kind = Form.useWatch("kind", form) ?? "webhook";

  const submit = ({ name, org, url, to, least, types }: Values): void => {
    const address = kind === "webhook" ? { kind, url } : { kind, to };
    send(post<Channel>("/alarm-channels", { name, org, address, least, types: types.length ? types : null }), (made) => {
      if (made.secret) setSecret(made.secret);
      else onClose();
    });
  };

  return (
    <OnceModal
      title={text.channels.add}
      secret={secret}
      once={text.channels.once}
      error={error}
      busy={busy}
      onOk={() => form.submit()}
      onClose={onClose}
    >
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org, kind: "webhook", least: "warning", types: [] }}
        onFinish={submit}
      >
        <Form.Item name="name" label={text.rules.name} rules={[{ required: true }]}>
          <Input maxLength={200} />
        </Form.Item>
        <Form.Item name="org" label={text.rules.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="kind" label={text.rules.kind}>
          <Select options={KINDS.map((value) => ({ value, label: text.channels.kinds[value] }))} />
        </Form.Item>
        {kind === "webhook" ? (
          <Form.Item name="url" label={text.channels.url} rules={[{ required: true }]}>
            <Input maxLength={2000} placeholder="https://" />
          </Form.Item>
        ) : (
          <Form.Item name="to" label={text.channels.recipients} rules={[{ required: true }]}>
            <Select mode="tags" tokenSeparators={[" ", ","]} open={false} />
          </Form.Item>
        )}
        <Form.Item name="least" label={text.channels.least}>
          <Select options={SEVERITIES.map((value) => ({ value, label: text.alarms.severities[value] }))} />
        </Form.Item>
        <Form.Item name="types" label={text.rules.type} extra={text.channels.typesHint}>
          <Select
            mode="multiple"
            options={(models ?? []).map((model) => ({ value: model.type, label: label(model as never) || model.type }))}
          />
        </Form.Item>
      </Form>
    </OnceModal>
  );
}
