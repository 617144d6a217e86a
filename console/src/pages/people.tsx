/** People, and the roles they hold. */
import { DeleteOutlined, MoreOutlined, PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { Alert, App, Button, Checkbox, Dropdown, Form, Input, Modal, Select, Tag, type TableColumnsType } from "antd";
import { useState } from "react";
import { post, put } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Binding, User } from "../api/types.ts";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, PagedTable, PageHead, Secret } from "../components/page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

export default function People() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const orgName = useOrgName();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const client = useQueryClient();
  const people = usePages<User>("/users");
  const [adding, setAdding] = useState(false);
  const [editing, setEditing] = useState<User | null>(null);
  const [secret, setSecret] = useState<string | null>(null);
  const mayManage = can("organisations.user.manage");
  const mayGrant = can("organisations.role.manage");
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["/users"] });

  const act = (person: User, key: string): void => {
    if (key === "roles") setEditing(person);
    else if (key === "enable") post(`/users/${person.id}/enable`).then(refresh, show);
    else if (key === "disable")
      void modal.confirm({
        title: `${text.people.disable} · ${person.display}`,
        content: text.people.disableConfirm,
        okButtonProps: { danger: true },
        onOk: () => post(`/users/${person.id}/disable`).then(refresh, show),
      });
    else if (key === "reset")
      void modal.confirm({
        title: `${text.people.reset} · ${person.display}`,
        content: text.people.resetConfirm,
        onOk: () =>
          post<{ password: string }>(`/users/${person.id}/password`).then(({ password }) => setSecret(password), show),
      });
  };

  const columns: TableColumnsType<User> = [
    {
      title: text.people.display,
      dataIndex: "display",
      width: 180,
      render: (display: string, person) => (
        <>
          {display} <span className="muted mono">{person.name}</span>
        </>
      ),
    },
    { title: text.people.org, dataIndex: "org", width: 180, render: (org: string) => orgName(org) },
    {
      title: text.people.roles,
      dataIndex: "roles",
      width: 360,
      render: (roles: Binding[]) =>
        roles.map(({ org, role, subtree }) => (
          <Tag key={`${org} ${role}`} variant="outlined">
            {text.people.roleNames[role] ?? role} · {orgName(org)}
            {subtree && ` · ${text.people.subtree}`}
          </Tag>
        )),
    },
    {
      title: text.orgs.state,
      dataIndex: "state",
      width: 96,
      render: (state: string) => (
        <Tag color={state === "active" ? "success" : "default"}>
          {state === "active" ? text.people.active : text.people.disabled}
        </Tag>
      ),
    },
    {
      title: text.people.lastSignIn,
      dataIndex: "signed_in_at",
      width: 170,
      render: (at: string | null) => <span className="muted">{format.moment(at)}</span>,
    },
  ];
  if (mayManage || mayGrant)
    columns.push({
      key: "actions",
      width: 60,
      align: "right",
      render: (_: unknown, person) => (
        <Dropdown
          trigger={["click"]}
          menu={{
            onClick: ({ key }) => act(person, key),
            items: [
              ...(mayGrant ? [{ key: "roles", label: text.people.editRoles }] : []),
              ...(mayManage
                ? [
                    { key: "reset", label: text.people.reset, disabled: person.oidc },
                    person.state === "active"
                      ? { key: "disable", label: text.people.disable, danger: true }
                      : { key: "enable", label: text.people.enable },
                  ]
                : []),
            ],
          }}
        >
          <Button type="text" icon={<MoreOutlined />} aria-label={`${text.actions.details} ${person.display}`} />
        </Dropdown>
      ),
    });

  return (
    <div className="page">
      <PageHead title={text.people.title}>
        {can("organisations.user.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
            {text.people.add}
          </Button>
        )}
      </PageHead>
      <PagedTable<User>
        pages={people}
        rowKey="id"
        columns={columns}
        scroll={{ x: 1040 }}
        empty={<Nothing title={text.empty.people} />}
      />
      {adding && (
        <AddPerson
          onClose={(password) => {
            setAdding(false);
            setSecret(password);
            void refresh();
          }}
        />
      )}
      {editing && (
        <EditRoles
          person={editing}
          onClose={() => {
            setEditing(null);
            void refresh();
          }}
        />
      )}
      <Modal
        open={secret !== null}
        title={text.people.created}
        onCancel={() => setSecret(null)}
        onOk={() => setSecret(null)}
        cancelButtonProps={{ hidden: true }}
        okText={text.actions.close}
      >
        <Alert type="success" showIcon title={text.people.generated} />
        <Secret value={secret ?? ""} />
      </Modal>
    </div>
  );
}

function RoleRows({ name }: { name: string }) {
  const text = useText();
  const session = useSession();
  return (
    <Form.List name={name}>
      {(fields, { add, remove }) => (
        <>
          {fields.map((field) => (
            <div className="role-row" key={field.key}>
              <Form.Item name={[field.name, "role"]} noStyle rules={[{ required: true }]}>
                <Select
                  aria-label={text.people.role}
                  options={Object.entries(text.people.roleNames).map(([value, label]) => ({ value, label }))}
                />
              </Form.Item>
              <Form.Item name={[field.name, "org"]} noStyle rules={[{ required: true }]}>
                <OrgSelect label={text.people.org} />
              </Form.Item>
              <Form.Item name={[field.name, "subtree"]} noStyle valuePropName="checked">
                <Checkbox>{text.people.subtree}</Checkbox>
              </Form.Item>
              <Button type="text" icon={<DeleteOutlined />} aria-label={text.actions.reset} onClick={() => remove(field.name)} />
            </div>
          ))}
          <Button
            type="dashed"
            block
            icon={<PlusOutlined />}
            onClick={() => add({ role: "viewer", org: session.user.org, subtree: false })}
          >
            {text.people.addRole}
          </Button>
        </>
      )}
    </Form.List>
  );
}

function AddPerson({ onClose }: { onClose(password: string | null): void }) {
  const text = useText();
  const session = useSession();
  const [form] = Form.useForm();
  const { error, busy, send } = useSending();

  const submit = (values: Record<string, unknown>): void => {
    send(post<{ password?: string }>("/users", {
      ...values,
      password: values["password"] || undefined,
      roles: values["roles"] ?? [],
    }), (created) => {
      onClose(created.password ?? null);
    });
  };

  return (
    <Modal
      open
      width={640}
      title={text.people.add}
      onCancel={() => onClose(null)}
      onOk={() => form.submit()}
      okText={text.actions.create}
      confirmLoading={busy}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form form={form} layout="vertical" initialValues={{ org: session.user.org }} onFinish={(values) => void submit(values)}>
        <div className="two">
          <Form.Item name="name" label={text.people.name} rules={[{ required: true }]}>
            <Input autoComplete="off" spellCheck={false} />
          </Form.Item>
          <Form.Item name="display" label={text.people.display} rules={[{ required: true }]}>
            <Input autoComplete="off" />
          </Form.Item>
        </div>
        <div className="two">
          <Form.Item name="org" label={text.people.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="password" label={text.people.initialPassword}>
            <Input.Password autoComplete="new-password" placeholder={text.people.random} />
          </Form.Item>
        </div>
        <Form.Item label={text.people.roles}>
          <RoleRows name="roles" />
        </Form.Item>
      </Form>
    </Modal>
  );
}

function EditRoles({ person, onClose }: { person: User; onClose(): void }) {
  const text = useText();
  const [form] = Form.useForm();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);

  const submit = async ({ roles }: { roles?: Binding[] }): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await put(`/users/${person.id}/roles`, {
        roles: (roles ?? []).map(({ org, role, subtree }) => ({ org, role, subtree: subtree ?? false })),
      });
      onClose();
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  return (
    <Modal
      open
      width={640}
      title={`${text.people.editRoles} · ${person.display}`}
      onCancel={onClose}
      onOk={() => form.submit()}
      okText={text.actions.save}
      confirmLoading={busy}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form form={form} initialValues={{ roles: person.roles }} onFinish={(values) => void submit(values)}>
        <RoleRows name="roles" />
      </Form>
    </Modal>
  );
}
