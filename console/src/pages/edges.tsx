/** Edges: small houses elsewhere that bring what they measure when the link is there. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { Button, Form, Input, Tag } from "antd";
import { useState } from "react";
import { del, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Edge } from "../api/types.ts";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, OnceModal, PagedTable, PageHead, RemoveButton } from "../components/page.tsx";
import { useSending, useShowProblem } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

const COLOUR: Record<Edge["state"], string> = { connected: "success", away: "warning", new: "processing", revoked: "default" };

export default function Edges() {
  const text = useText().edges;
  const format = useFormat();
  const can = useCan();
  const org = useOrgName();
  const show = useShowProblem();
  const client = useQueryClient();
  const edges = usePages<Edge>("/edges");
  const [adding, setAdding] = useState(false);
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/edges"] });
  return (
    <div className="page">
      <PageHead title={text.title}>
        {can("access.edge.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
            {text.add}
          </Button>
        )}
      </PageHead>
      <PagedTable<Edge>
        pages={edges}
        testid="edges"
        rowKey="no"
        scroll={{ x: 980 }}
        empty={<Nothing title={text.none} hint={text.hint} />}
        columns={[
          { title: text.name, dataIndex: "name", width: 160, ellipsis: true },
          { title: text.org, dataIndex: "org", width: 120, render: (id: string) => org(id) },
          {
            title: text.state,
            dataIndex: "state",
            width: 110,
            render: (state: Edge["state"]) => <Tag color={COLOUR[state]}>{text.states[state]}</Tag>,
          },
          {
            title: text.contact,
            dataIndex: "contact_at",
            width: 120,
            render: (at: string | null) => (at ? <span title={format.moment(at)}>{format.ago(at)}</span> : "—"),
          },
          {
            title: text.lag,
            key: "lag",
            width: 150,
            render: (_: unknown, { lag, lag_s }) => (lag ? text.behind(format.integer(lag), format.integer(Math.ceil(lag_s))) : text.upToDate),
          },
          { title: text.devices, dataIndex: "devices", width: 90, align: "right", render: (n: number) => format.integer(n) },
          {
            title: text.lost,
            key: "lost",
            width: 130,
            render: (_: unknown, { missed, left_out }) => `${format.integer(missed)} / ${format.integer(left_out)}`,
          },
          {
            key: "revoke",
            width: 90,
            align: "right",
            render: (_: unknown, { no, name, state }) =>
              state !== "revoked" &&
              can("access.edge.delete") && (
                <RemoveButton
                  text={text.revoke}
                  name={name}
                  warning={text.revokeWarning}
                  onRemove={() => del(`/edges/${no}`).then(refresh, show)}
                />
              ),
          },
        ]}
      />
      {adding && <NewEdge onClose={() => setAdding(false)} />}
    </div>
  );
}

function NewEdge({ onClose }: { onClose(): void }) {
  const text = useText().edges;
  const session = useSession();
  const client = useQueryClient();
  const [form] = Form.useForm<{ org: string; name: string }>();
  const { error, busy, send } = useSending();
  const [token, setToken] = useState<string | null>(null);
  return (
    <OnceModal title={text.add} secret={token} once={text.once} error={error} busy={busy} onOk={() => form.submit()} onClose={onClose}>
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org }}
        onFinish={(body) =>
          send(post<Edge>("/edges", body), (made) => {
            setToken(made.token ?? "");
            void client.invalidateQueries({ queryKey: ["/edges"] });
          })
        }
      >
        <Form.Item name="name" label={text.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="org" label={text.org} extra={text.orgHint} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
      </Form>
    </OnceModal>
  );
}
