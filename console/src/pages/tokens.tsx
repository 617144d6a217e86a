/** API tokens: scoped, with an end, shown once. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { Button, DatePicker, Form, Input, Select, Tag, type TableColumnsType } from "antd";
import dayjs, { type Dayjs } from "dayjs";
import { useState } from "react";
import { del, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Token } from "../api/types.ts";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, OnceModal, PagedTable, PageHead, RemoveButton } from "../components/page.tsx";
import { useSending, useShowProblem } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

export default function Tokens() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const orgName = useOrgName();
  const show = useShowProblem();
  const client = useQueryClient();
  const tokens = usePages<Token>("/tokens");
  const [adding, setAdding] = useState(false);
  const mayRevoke = can("organisations.token.delete");

  const state = (token: Token): { label: string; live: boolean } =>
    token.revoked_at
      ? { label: text.tokens.revoked, live: false }
      : token.expires_at && new Date(token.expires_at).getTime() < Date.now()
        ? { label: text.tokens.expired, live: false }
        : { label: text.tokens.active, live: true };

  const columns: TableColumnsType<Token> = [
    { title: text.tokens.name, dataIndex: "name", width: 180 },
    {
      title: text.tokens.prefix,
      dataIndex: "prefix",
      width: 150,
      render: (prefix?: string) => <span className="mono">{prefix}…</span>,
    },
    { title: text.people.org, dataIndex: "org", width: 160, render: (org: string) => orgName(org) },
    { title: text.tokens.owner, dataIndex: "user", width: 110 },
    {
      title: text.tokens.scopes,
      dataIndex: "scopes",
      width: 240,
      render: (scopes: string[]) =>
        scopes.map((scope) => (
          <Tag key={scope} variant="outlined" className="mono">
            {scope}
          </Tag>
        )),
    },
    {
      title: text.tokens.state,
      key: "state",
      width: 90,
      render: (_: unknown, token) => {
        const { label, live } = state(token);
        return <Tag color={live ? "success" : "default"}>{label}</Tag>;
      },
    },
    {
      title: text.tokens.expires,
      dataIndex: "expires_at",
      width: 120,
      render: (at: string | null) => (at ? format.day(at) : text.tokens.never),
    },
    {
      title: text.tokens.lastUsed,
      dataIndex: "used_at",
      width: 120,
      render: (at?: string | null) => <span className="muted">{format.ago(at)}</span>,
    },
  ];
  if (mayRevoke)
    columns.push({
      key: "actions",
      width: 90,
      align: "right",
      render: (_: unknown, token) =>
        state(token).live && (
          <RemoveButton
            text={text.tokens.revoke}
            name={token.name}
            warning={text.tokens.revokeConfirm}
            onRemove={() => del(`/tokens/${token.id}`).then(() => client.invalidateQueries({ queryKey: ["/tokens"] }), show)}
          />
        ),
    });

  return (
    <div className="page">
      <PageHead title={text.tokens.title}>
        {can("organisations.token.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
            {text.tokens.add}
          </Button>
        )}
      </PageHead>
      <PagedTable<Token>
        pages={tokens}
        rowKey="id"
        columns={columns}
        scroll={{ x: 1260 }}
        empty={<Nothing title={text.empty.tokens} />}
      />
      {adding && <AddToken onClose={() => setAdding(false)} />}
    </div>
  );
}

function AddToken({ onClose }: { onClose(): void }) {
  const text = useText();
  const session = useSession();
  const client = useQueryClient();
  const [form] = Form.useForm();
  const { error, busy, send } = useSending();
  const [secret, setSecret] = useState<string | null>(null);

  const submit = (values: { name: string; org: string; scopes: string[]; expires_at?: Dayjs | null }): void => {
    send(post<Token>("/tokens", {
      name: values.name,
      org: values.org,
      scopes: values.scopes,
      expires_at: values.expires_at ? new Date(`${values.expires_at.format("YYYY-MM-DD")}T23:59:59+08:00`).toISOString() : null,
    }), (created) => {
      setSecret(created.secret ?? created.token ?? "");
      void client.invalidateQueries({ queryKey: ["/tokens"] });
    });
  };

  return (
    <OnceModal
      title={secret === null ? text.tokens.add : text.tokens.created}
      secret={secret}
      once={text.tokens.once}
      error={error}
      busy={busy}
      onOk={() => form.submit()}
      onClose={onClose}
    >
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org, scopes: [], expires_at: dayjs().add(90, "day") }}
        onFinish={submit}
      >
        <Form.Item name="name" label={text.tokens.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="org" label={text.people.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="scopes" label={text.tokens.scopes} extra={text.tokens.scopesHint} rules={[{ required: true }]}>
          <Select mode="tags" tokenSeparators={[" ", ","]} options={session.can.map((value) => ({ value, label: value }))} />
        </Form.Item>
        <Form.Item name="expires_at" label={text.tokens.expires}>
          <DatePicker style={{ width: "100%" }} disabledDate={(day) => day.valueOf() < Date.now() - 86_400_000} />
        </Form.Item>
      </Form>
    </OnceModal>
  );
}
