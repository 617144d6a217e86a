/** Items of workflows: what waits for the reader, and everything else that he may see. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { Button, Form, Input, Modal, Segmented, Select, Space, Tag } from "antd";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";
import { post } from "../api/client.ts";
import { useWorkflows, type Item, type Workflow } from "../api/items.ts";
import { usePages } from "../api/pages.ts";
import { changed } from "../api/search.ts";
import { ItemDrawer } from "../components/item-drawer.tsx";
import { ItemFields, filled } from "../components/item-fields.tsx";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, PagedTable, PageHead } from "../components/page.tsx";
import { ProblemAlert, useSending } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useSession } from "../session.tsx";
import { useSettings } from "../settings.tsx";

const VIEWS = ["inbox", "open", "ended"] as const;
type View = (typeof VIEWS)[number];

const QUERIES: Record<View, Record<string, boolean>> = { inbox: { inbox: true }, open: { open: true }, ended: { open: false } };

export default function Items() {
  const { text, language } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const workflows = useWorkflows();
  const [params, setParams] = useSearchParams();
  const view = VIEWS.find((one) => one === params.get("view")) ?? "inbox";
  const kind = params.get("workflow");
  const open = Number(params.get("item")) || null;
  const items = usePages<Item>("/items", { ...QUERIES[view], workflow: kind }, { refetch: 30_000 });
  const [adding, setAdding] = useState(false);
  const set = (changes: Record<string, string | null>): void => setParams((now) => changed(now, changes));
  const known = workflows.data ?? [];
  const of = (name: string): Workflow | undefined => known.find((one) => one.name === name);
  return (
    <div className="page">
      <PageHead title={text.items.title}>
        {known.some((one) => one.may_create) && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
            {text.items.add}
          </Button>
        )}
      </PageHead>
      <Space wrap className="gap-below">
        <Segmented<View>
          value={view}
          options={VIEWS.map((value) => ({ value, label: text.items.views[value] }))}
          onChange={(value) => set({ view: value })}
        />
        <Select
          allowClear
          value={kind}
          aria-label={text.items.workflow}
          placeholder={text.items.workflow}
          style={{ minWidth: 180 }}
          options={known.map((one) => ({ value: one.name, label: one.label[language] }))}
          onChange={(value: string | undefined) => set({ workflow: value ?? null })}
        />
      </Space>
      <PagedTable<Item>
        pages={items}
        testid="items"
        rowKey="no"
        scroll={{ x: 900 }}
        empty={<Nothing title={view === "inbox" ? text.items.nothing : text.items.none} hint={text.items.hint} />}
        columns={[
          {
            title: text.items.name,
            dataIndex: "title",
            ellipsis: true,
            render: (title: string, { no }) => <Link to={{ search: changed(params, { item: String(no) }).toString() }}>{title}</Link>,
          },
          { title: text.items.workflow, dataIndex: "workflow", width: 150, render: (name: string) => of(name)?.label[language] ?? name },
          { title: text.items.org, dataIndex: "org", width: 190, ellipsis: true, render: (id: string) => org(id) },
          {
            title: text.items.state,
            key: "state",
            width: 160,
            render: (_: unknown, item) => (
              <>
                <Tag color={item.final ? "default" : "processing"}>{of(item.workflow)?.states[item.state]?.label[language] ?? item.state}</Tag>
                {item.level > 0 && <Tag color="error">{text.items.escalated(item.level)}</Tag>}
              </>
            ),
          },
          { title: text.items.due, dataIndex: "due_at", width: 180, render: (at: string | null) => (at ? format.moment(at) : "—") },
        ]}
      />
      {open !== null && <ItemDrawer key={open} no={open} workflows={known} onClose={() => set({ item: null })} />}
      {adding && <NewItem workflows={known.filter((one) => one.may_create)} onClose={() => setAdding(false)} />}
    </div>
  );
}

interface NewItemValues {
  workflow: string;
  org: string;
  title: string;
  fields?: Record<string, unknown>;
}

function NewItem({ workflows, onClose }: { workflows: Workflow[]; onClose(): void }) {
  const { text, language } = useSettings();
  const session = useSession();
  const client = useQueryClient();
  const [form] = Form.useForm<NewItemValues>();
  const [key] = useState(() => crypto.randomUUID());
  const { error, busy, send } = useSending();
  const chosen = Form.useWatch("workflow", form) ?? workflows[0]?.name;
  const workflow = workflows.find((one) => one.name === chosen);
  return (
    <Modal open title={text.items.add} onCancel={onClose} onOk={() => form.submit()} okText={text.actions.create} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form<NewItemValues>
        form={form}
        layout="vertical"
        initialValues={{ workflow: workflows[0]?.name, org: session.user.org }}
        onFinish={(values) =>
          send(post<Item>("/items", { ...values, fields: filled(values.fields), key }), () => {
            void client.invalidateQueries({ queryKey: ["/items"] });
            onClose();
          })
        }
      >
        <Form.Item name="workflow" label={text.items.workflow} rules={[{ required: true }]}>
          <Select showSearch={{ optionFilterProp: "label" }} options={workflows.map((one) => ({ value: one.name, label: one.label[language] }))} />
        </Form.Item>
        <Form.Item name="org" label={text.items.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="title" label={text.items.name} rules={[{ required: true, whitespace: true }]}>
          <Input maxLength={256} />
        </Form.Item>
        {workflow && (
          <ItemFields key={workflow.name} fields={workflow.fields} names={[...workflow.needs, ...workflow.asks]} needs={workflow.needs} />
        )}
      </Form>
    </Modal>
  );
}
