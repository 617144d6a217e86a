/** How devices come by their credentials: provisioning keys, authorities, and groups of devices. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { App, Button, DatePicker, Form, Input, InputNumber, Modal, Select, Space, Switch, Tag, Typography } from "antd";
import type { Dayjs } from "dayjs";
import { useState } from "react";
import { Link } from "react-router";
import { del, patch, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import type { Authority, DeviceGroup, ProvisionKey } from "../api/types.ts";
import { STATUS } from "../components/device-certificates.tsx";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, OnceModal, PagedTable, PageHead, RemoveButton } from "../components/page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "../components/problem.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

type Dialog = "key" | "authority" | "group" | null;

export default function Provisioning() {
  const text = useText().life;
  const [dialog, setDialog] = useState<Dialog>(null);
  const close = (): void => setDialog(null);
  const can = useCan();
  return (
    <div className="page">
      <PageHead title={text.title}>
        <Space wrap>
          {can("access.group.create") && <Button onClick={() => setDialog("group")}>{text.newGroup}</Button>}
          {can("access.authority.create") && <Button onClick={() => setDialog("authority")}>{text.newAuthority}</Button>}
          {can("access.provision.create") && (
            <Button type="primary" icon={<PlusOutlined />} onClick={() => setDialog("key")}>
              {text.newKey}
            </Button>
          )}
        </Space>
      </PageHead>
      {can("access.provision.read") && <Keys />}
      {can("access.group.read") && <Groups />}
      {can("access.authority.read") && <Authorities />}
      {dialog === "key" && <NewKey onClose={close} />}
      {dialog === "authority" && <NewAuthority onClose={close} />}
      {dialog === "group" && <NewGroup onClose={close} />}
    </div>
  );
}

function Keys() {
  const text = useText().life;
  const format = useFormat();
  const can = useCan();
  const org = useOrgName();
  const typeLabel = useTypeLabel();
  const show = useShowProblem();
  const client = useQueryClient();
  const keys = usePages<ProvisionKey>("/provision-keys");
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/provision-keys"] });
  return (
    <>
      <h2 className="section-title">{text.keys}</h2>
      <PagedTable<ProvisionKey>
        pages={keys}
        testid="keys"
        rowKey="no"
        scroll={{ x: 1080 }}
        empty={<Nothing title={text.noKeys} hint={text.keysHint} />}
        columns={[
          { title: text.name, dataIndex: "name", width: 160, ellipsis: true },
          { title: text.org, dataIndex: "org", width: 120, render: (id: string) => org(id) },
          { title: text.type, dataIndex: "type", width: 140, render: typeLabel },
          {
            title: text.key,
            dataIndex: "key",
            width: 220,
            render: (key: string) => (
              <Typography.Text className="mono" copyable>
                {key}
              </Typography.Text>
            ),
          },
          { title: text.strategy, dataIndex: "strategy", width: 150, render: (value: string) => text.strategies[value] },
          { title: text.made, key: "made", width: 100, render: (_: unknown, { made, most }) => `${made} / ${most ?? "∞"}` },
          { title: text.expires, dataIndex: "expires_at", width: 110, render: (at: string | null) => (at ? format.day(at) : "—") },
          {
            title: text.enabled,
            dataIndex: "enabled",
            width: 80,
            render: (enabled: boolean, { no, name }) => (
              <Switch
                size="small"
                aria-label={`${text.enabled} ${name}`}
                checked={enabled}
                disabled={!can("access.provision.write")}
                onChange={(value) => void patch(`/provision-keys/${no}`, { enabled: value }).then(refresh, show)}
              />
            ),
          },
          {
            key: "remove",
            width: 80,
            align: "right",
            render: (_: unknown, { no, name }) =>
              can("access.provision.delete") && (
                <RemoveButton
                  text={text.remove}
                  name={name}
                  warning={text.removeKeyWarning}
                  onRemove={() => del(`/provision-keys/${no}`).then(refresh, show)}
                />
              ),
          },
        ]}
      />
    </>
  );
}

function Groups() {
  const text = useText().life;
  const format = useFormat();
  const can = useCan();
  const org = useOrgName();
  const show = useShowProblem();
  const client = useQueryClient();
  const groups = usePages<DeviceGroup>("/device-groups");
  const [changing, setChanging] = useState<DeviceGroup | null>(null);
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/device-groups"] });
  return (
    <>
      <h2 className="section-title">{text.groups}</h2>
      <PagedTable<DeviceGroup>
        pages={groups}
        testid="groups"
        rowKey="no"
        scroll={{ x: 760 }}
        empty={<Nothing title={text.noGroups} hint={text.groupsHint} />}
        columns={[
          { title: text.name, dataIndex: "name", render: (name: string, { no }) => <Link to={`/things?group=${no}`}>{name}</Link> },
          { title: text.org, dataIndex: "org", width: 140, render: (id: string) => org(id) },
          { title: text.groupDevices, dataIndex: "devices", width: 100, render: (n: number) => format.integer(n) },
          { title: text.note, dataIndex: "note", ellipsis: true },
          {
            key: "actions",
            width: 200,
            align: "right",
            render: (_: unknown, group) => (
              <Space>
                {can("access.group.write") && (
                  <Button size="small" onClick={() => setChanging(group)}>
                    {text.members}
                  </Button>
                )}
                {can("access.group.delete") && (
                  <RemoveButton
                    text={text.remove}
                    name={group.name}
                    warning={text.removeGroupWarning}
                    onRemove={() => del(`/device-groups/${group.no}`).then(refresh, show)}
                  />
                )}
              </Space>
            ),
          },
        ]}
      />
      {changing && <Members group={changing} onClose={() => setChanging(null)} refresh={refresh} />}
    </>
  );
}

function Members({ group, onClose, refresh }: { group: DeviceGroup; onClose(): void; refresh(): Promise<void> }) {
  const text = useText().life;
  const { message } = App.useApp();
  const [form] = Form.useForm<{ add?: string; remove?: string }>();
  const { error, busy, send } = useSending();
  const ids = (value?: string): string[] => (value ?? "").split(/[\s,，]+/).filter(Boolean);
  return (
    <Modal open title={`${text.members} · ${group.name}`} onCancel={onClose} onOk={() => form.submit()} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        onFinish={({ add, remove }) => {
          const asked = post<{ added: number; removed: number; unknown: string[] }>(`/device-groups/${group.no}/devices`, {
            add: ids(add),
            remove: ids(remove),
          });
          send(asked, async (answer) => {
            void message.info(text.regrouped(answer.added, answer.removed, answer.unknown.join(" ")));
            await refresh();
            onClose();
          });
        }}
      >
        <Form.Item name="add" label={text.addDevices} extra={text.idsHint}>
          <Input.TextArea className="mono" rows={4} spellCheck={false} />
        </Form.Item>
        <Form.Item name="remove" label={text.removeDevices}>
          <Input.TextArea className="mono" rows={3} spellCheck={false} />
        </Form.Item>
      </Form>
    </Modal>
  );
}

function Authorities() {
  const text = useText().life;
  const format = useFormat();
  const can = useCan();
  const org = useOrgName();
  const show = useShowProblem();
  const client = useQueryClient();
  const authorities = usePages<Authority>("/device-authorities");
  const [proving, setProving] = useState<Authority | null>(null);
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/device-authorities"] });
  return (
    <>
      <h2 className="section-title">{text.authorities}</h2>
      <PagedTable<Authority>
        pages={authorities}
        testid="authorities"
        rowKey="no"
        scroll={{ x: 900 }}
        empty={<Nothing title={text.noAuthorities} hint={text.authoritiesHint} />}
        columns={[
          { title: text.name, dataIndex: "name", width: 170, ellipsis: true },
          { title: text.org, dataIndex: "org", width: 120, render: (id: string) => org(id) },
          { title: text.subject, dataIndex: "subject", ellipsis: true, render: (subject: string) => <span className="mono">{subject}</span> },
          {
            title: text.status,
            dataIndex: "status",
            width: 100,
            render: (status: string) => <Tag color={STATUS[status]}>{text.statuses[status] ?? status}</Tag>,
          },
          { title: text.notAfter, dataIndex: "not_after", width: 120, render: format.day },
          {
            key: "actions",
            width: 160,
            align: "right",
            render: (_: unknown, one) => (
              <Space>
                {one.code && (
                  <Button size="small" onClick={() => setProving(one)}>
                    {text.prove}
                  </Button>
                )}
                {one.status !== "revoked" && !one.own && can("access.authority.delete") && (
                  <RemoveButton
                    text={text.withdraw}
                    name={one.name}
                    warning={text.withdrawWarning}
                    onRemove={() => del(`/device-authorities/${one.no}`).then(refresh, show)}
                  />
                )}
              </Space>
            ),
          },
        ]}
      />
      {proving && <Prove authority={proving} onClose={() => setProving(null)} />}
    </>
  );
}

/** Sends, reads the list anew and closes. */
function useAdding(onClose: () => void, key: string) {
  const client = useQueryClient();
  const { error, busy, send } = useSending();
  const add = (asked: Promise<unknown>): void =>
    send(asked, () => {
      void client.invalidateQueries({ queryKey: [key] });
      onClose();
    });
  return { error, busy, add };
}

function Prove({ authority, onClose }: { authority: Authority; onClose(): void }) {
  const text = useText().life;
  const [form] = Form.useForm<{ certificate: string }>();
  const { error, busy, add } = useAdding(onClose, "/device-authorities");
  return (
    <Modal open title={text.prove} onCancel={onClose} onOk={() => form.submit()} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <p>{text.proveHint}</p>
      <Typography.Paragraph className="mono" copyable>
        {authority.code}
      </Typography.Paragraph>
      <Form form={form} layout="vertical" onFinish={(body) => add(post(`/device-authorities/${authority.no}/prove`, body))}>
        <Form.Item name="certificate" label={text.proof} rules={[{ required: true }]}>
          <Input.TextArea className="mono" rows={8} spellCheck={false} placeholder="-----BEGIN CERTIFICATE-----" />
        </Form.Item>
      </Form>
    </Modal>
  );
}

function NewAuthority({ onClose }: { onClose(): void }) {
  const text = useText().life;
  const session = useSession();
  const [form] = Form.useForm<{ org: string; name: string; certificate: string }>();
  const { error, busy, add } = useAdding(onClose, "/device-authorities");
  return (
    <Modal open title={text.newAuthority} onCancel={onClose} onOk={() => form.submit()} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org }}
        onFinish={(body) => add(post("/device-authorities", body))}
      >
        <Form.Item name="org" label={text.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="name" label={text.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="certificate" label={text.authorityPem} extra={text.authoritiesHint} rules={[{ required: true }]}>
          <Input.TextArea className="mono" rows={8} spellCheck={false} placeholder="-----BEGIN CERTIFICATE-----" />
        </Form.Item>
      </Form>
    </Modal>
  );
}

function NewGroup({ onClose }: { onClose(): void }) {
  const text = useText().life;
  const session = useSession();
  const [form] = Form.useForm<{ org: string; name: string; note?: string }>();
  const { error, busy, add } = useAdding(onClose, "/device-groups");
  return (
    <Modal open title={text.newGroup} onCancel={onClose} onOk={() => form.submit()} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form form={form} layout="vertical" initialValues={{ org: session.user.org }} onFinish={(body) => add(post("/device-groups", body))}>
        <Form.Item name="org" label={text.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="name" label={text.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="note" label={text.note}>
          <Input />
        </Form.Item>
      </Form>
    </Modal>
  );
}

interface KeyFields {
  org: string;
  type: string;
  name: string;
  strategy: string;
  most?: number | null;
  expires_at?: Dayjs | null;
}

function NewKey({ onClose }: { onClose(): void }) {
  const text = useText().life;
  const session = useSession();
  const models = useModels();
  const label = useLabel();
  const client = useQueryClient();
  const [form] = Form.useForm<KeyFields>();
  const { error, busy, send } = useSending();
  const [secret, setSecret] = useState<string | null>(null);

  const submit = ({ expires_at, most, ...fields }: KeyFields): void => {
    const end = expires_at ? new Date(`${expires_at.format("YYYY-MM-DD")}T23:59:59+08:00`).toISOString() : null;
    send(post<ProvisionKey>("/provision-keys", { ...fields, most: most ?? null, expires_at: end }), (made) => {
      setSecret(`${made.key}\n${made.secret ?? ""}`);
      void client.invalidateQueries({ queryKey: ["/provision-keys"] });
    });
  };

  return (
    <OnceModal
      title={text.newKey}
      secret={secret}
      once={text.keyAndSecretOnce}
      error={error}
      busy={busy}
      onOk={() => form.submit()}
      onClose={onClose}
    >
      <Form<KeyFields> form={form} layout="vertical" initialValues={{ org: session.user.org, strategy: "create" }} onFinish={submit}>
        <Form.Item name="name" label={text.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <div className="two">
          <Form.Item name="org" label={text.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="type" label={text.type} rules={[{ required: true }]}>
            <Select
              showSearch={{ optionFilterProp: "label" }}
              options={(models.data ?? []).map((model) => ({ value: model.type, label: label(model as never) }))}
            />
          </Form.Item>
        </div>
        <Form.Item name="strategy" label={text.strategy}>
          <Select options={Object.entries(text.strategies).map(([value, label]) => ({ value, label }))} />
        </Form.Item>
        <div className="two">
          <Form.Item name="most" label={text.most}>
            <InputNumber min={1} style={{ width: "100%" }} />
          </Form.Item>
          <Form.Item name="expires_at" label={text.expires}>
            <DatePicker style={{ width: "100%" }} />
          </Form.Item>
        </div>
      </Form>
    </OnceModal>
  );
}
