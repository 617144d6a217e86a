/** The tree of organisations: apply, approve or reject, suspend, resume. */
import { PlusOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { App, Button, Form, Grid, Input, Modal, Select, Skeleton, Table, Tag, type TableColumnsType } from "antd";
import { useMemo, useState } from "react";
import { post } from "../api/client.ts";
import { useOrganisations } from "../api/queries.ts";
import type { Organisation } from "../api/types.ts";
import { OrgSelect } from "../components/org-select.tsx";
import { Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "../components/problem.tsx";
import { QuotaModal } from "../components/quota.tsx";
import { useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useText } from "../settings.tsx";

type Node = Organisation & { children?: Node[] };
const COLOURS: Record<string, string> = { applied: "processing", approved: "success", suspended: "warning", rejected: "default" };

function tree(orgs: Organisation[]): Node[] {
  const nodes = new Map<string, Node>(orgs.map((org) => [org.id, { ...org }]));
  const roots: Node[] = [];
  for (const node of nodes.values()) {
    const parent = node.parent ? nodes.get(node.parent) : undefined;
    if (parent) (parent.children ??= []).push(node);
    else roots.push(node);
  }
  return roots;
}

export default function Organisations() {
  const text = useText();
  const label = useLabel();
  const can = useCan();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const client = useQueryClient();
  const screens = Grid.useBreakpoint();
  const orgs = useOrganisations();
  const [word, setWord] = useState("");
  const [applying, setApplying] = useState(false);
  const [quota, setQuota] = useState<string | null>(null);
  const mayDecide = can("organisations.org.approve");
  const narrow = screens.md === false;

  const rows = useMemo(() => {
    const wanted = word.trim().toLowerCase();
    if (!wanted) return tree(orgs.data ?? []);
    return (orgs.data ?? []).filter(({ id, name_zh, name_en }) => `${id} ${name_zh} ${name_en}`.toLowerCase().includes(wanted));
  }, [orgs.data, word]);
  const open = useMemo(() => orgs.data?.map(({ id }) => id) ?? [], [orgs.data]);

  const decide = (org: Organisation, verb: "approve" | "reject" | "suspend" | "resume"): void => {
    let reason = "";
    void modal.confirm({
      title: `${text.orgs[verb]} · ${label(org as never, "name")}`,
      okText: text.orgs[verb],
      okButtonProps: { danger: verb === "suspend" || verb === "reject" },
      content: (
        <>
          {verb === "suspend" && <p className="gap-below">{text.orgs.suspendConfirm}</p>}
          <Input
            placeholder={text.orgs.reason}
            aria-label={text.orgs.reason}
            onChange={(event) => {
              reason = event.target.value;
            }}
          />
        </>
      ),
      onOk: () =>
        post(`/orgs/${encodeURIComponent(org.id)}/${verb}`, { reason }).then(
          () => client.invalidateQueries({ queryKey: ["orgs"] }),
          show,
        ),
    });
  };

  const columns: TableColumnsType<Node> = [
    {
      title: text.orgs.title,
      key: "name",
      width: narrow ? 300 : 420,
      render: (_: unknown, org) => label(org as never, "name") || org.id,
    },
    ...(narrow
      ? []
      : [
          { title: text.orgs.slug, dataIndex: "id", width: 180, render: (id: string) => <span className="mono">{id}</span> },
          { title: text.orgs.kind, dataIndex: "kind", width: 130, render: (kind: string) => text.orgs.kinds[kind] ?? kind },
        ]),
    {
      title: text.orgs.state,
      dataIndex: "state",
      width: 100,
      render: (state: string) => <Tag color={COLOURS[state]}>{text.orgs.states[state] ?? state}</Tag>,
    },
  ];
  if (can("access.quota.read"))
    columns.push({
      key: "quota",
      width: 90,
      align: "right",
      render: (_: unknown, org) =>
        org.state === "approved" && (
          <Button size="small" type="text" aria-label={`${text.life.quota} ${org.id}`} onClick={() => setQuota(org.id)}>
            {text.life.quota}
          </Button>
        ),
    });
  if (mayDecide)
    columns.push({
      key: "actions",
      width: 170,
      align: "right",
      render: (_: unknown, org) => (
        <span className="row-actions">
          {org.state === "applied" && (
            <>
              <Button size="small" type="primary" onClick={() => decide(org, "approve")}>
                {text.orgs.approve}
              </Button>
              <Button size="small" onClick={() => decide(org, "reject")}>
                {text.orgs.reject}
              </Button>
            </>
          )}
          {org.state === "approved" && org.parent !== null && (
            <Button size="small" type="text" onClick={() => decide(org, "suspend")}>
              {text.orgs.suspend}
            </Button>
          )}
          {org.state === "suspended" && (
            <Button size="small" onClick={() => decide(org, "resume")}>
              {text.orgs.resume}
            </Button>
          )}
        </span>
      ),
    });

  return (
    <div className="page">
      <PageHead title={text.orgs.title}>
        {can("organisations.application.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setApplying(true)}>
            {text.orgs.apply}
          </Button>
        )}
      </PageHead>
      <div className="filters" role="search">
        <Input
          data-search
          allowClear
          className="things-search"
          placeholder={text.orgs.filter}
          aria-label={text.orgs.filter}
          value={word}
          onChange={(event) => setWord(event.target.value)}
        />
      </div>
      {orgs.error && <ProblemAlert error={orgs.error} retry={() => void orgs.refetch()} />}
      <div className="panel table-wrap">
        {orgs.isLoading ? (
          <Skeleton active className="box" paragraph={{ rows: 10 }} />
        ) : (
          <Table<Node>
            key={open.length}
            size="middle"
            rowKey="id"
            columns={columns}
            dataSource={rows}
            pagination={false}
            scroll={{ x: narrow ? 480 : 980 }}
            expandable={{ defaultExpandedRowKeys: open, indentSize: 20 }}
            locale={{ emptyText: <Nothing title={text.empty.orgs} /> }}
          />
        )}
      </div>
      {quota !== null && <QuotaModal org={quota} onClose={() => setQuota(null)} />}
      {applying && <Apply onClose={() => setApplying(false)} />}
    </div>
  );
}

function Apply({ onClose }: { onClose(): void }) {
  const text = useText();
  const session = useSession();
  const client = useQueryClient();
  const [form] = Form.useForm();
  const { error, busy, send } = useSending();

  const submit = (values: Record<string, string>): void => {
    send(post("/orgs", values), async () => {
      await client.invalidateQueries({ queryKey: ["orgs"] });
      onClose();
    });
  };

  return (
    <Modal open title={text.orgs.apply} onCancel={onClose} onOk={() => form.submit()} okText={text.actions.submit} confirmLoading={busy}>
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form
        form={form}
        layout="vertical"
        initialValues={{ parent: session.user.org, kind: "department" }}
        onFinish={submit}
      >
        <Form.Item name="name_zh" label={text.orgs.nameZh} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="name_en" label={text.orgs.nameEn} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item
          name="id"
          label={text.orgs.slug}
          extra={text.orgs.slugHint}
          rules={[{ required: true, pattern: /^[a-z0-9]+([-.][a-z0-9]+)*$/, message: text.orgs.slugHint }]}
        >
          <Input className="mono" spellCheck={false} />
        </Form.Item>
        <div className="two">
          <Form.Item name="kind" label={text.orgs.kind} rules={[{ required: true }]}>
            <Select
              options={["province", "city", "county", "department", "enterprise"].map((value) => ({
                value,
                label: text.orgs.kinds[value],
              }))}
            />
          </Form.Item>
          <Form.Item name="parent" label={text.orgs.parent} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
        </div>
      </Form>
    </Modal>
  );
}
