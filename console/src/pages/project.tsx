/** One project: milestones with evidence and a second person, sources and uses of funds, quotas, movements. */
import { ArrowLeftOutlined, PlusOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { App, Button, Checkbox, DatePicker, Form, Input, InputNumber, Modal, Progress, Select, Skeleton, Table, Tag, type TableColumnsType } from "antd";
import type { Dayjs } from "dayjs";
import { lazy, Suspense, useEffect, useMemo, useState } from "react";
import { Link, useParams } from "react-router";
import { get, path, post, Problem, type ProblemBody } from "../api/client.ts";
import { useTasks, type Milestone, type Movement, type ProjectDetail, type Stage } from "../api/plan.ts";
import { useOrgName } from "../components/org-select.tsx";
import { Facts, Nothing, PageHead } from "../components/page.tsx";
import { Decide, evidenceOf, EvidenceFields, Signatures } from "../components/paper.tsx";
import { ProblemAlert, useSending, useShowProblem } from "../components/problem.tsx";
import { SyntheticTag } from "../components/tags.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useSettings } from "../settings.tsx";

const BarChart = lazy(() => import("../components/bar-chart.tsx"));
const STAGES = ["planned", "committed", "received", "spent"] as const;
const TONES = { planned: "offline", committed: "earth", received: "primary", spent: "ok" } as const;
const SOURCES = ["budget", "special_bonds", "ppp", "reit", "own", "loans"];
const USES = ["land", "works", "equipment", "software", "services", "other"];
const UNITS: Record<string, string[]> = { land: ["m2", "mu"], energy: ["tce", "kWh"] };

/** The end of a day in Fujian, or now. */
const endOf = (day: Dayjs): string =>
  new Date(Math.min(new Date(`${day.format("YYYY-MM-DD")}T23:59:59+08:00`).getTime(), Date.now() - 1000)).toISOString();

export default function ProjectPage() {
  const { text } = useSettings();
  const format = useFormat();
  const label = useLabel();
  const org = useOrgName();
  const no = useParams()["no"] ?? "";
  const tasks = useTasks();
  const client = useQueryClient();
  const [open, setOpen] = useState<"milestone" | "movement" | null>(null);
  const project = useQuery({
    queryKey: ["plan", "project", no],
    queryFn: ({ signal }) => get<ProjectDetail>(`/plan/projects/${encodeURIComponent(no)}`, undefined, signal),
  });
  const data = project.data;
  useEffect(() => {
    if (data) document.title = `${data.title} · ${text.product}`;
  }, [data, text]);
  if (project.error)
    return (
      <div className="page">
        <PageHead title={text.projects.title} />
        <ProblemAlert error={project.error} retry={() => void project.refetch()} />
      </div>
    );
  if (!data) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  const task = tasks.data?.find((one) => one.id === data.task);
  const again = (): Promise<void> => client.invalidateQueries({ queryKey: ["plan"] });
  return (
    <div className="page">
      <div className="thing-head gap-below">
        <Link to="/plan/projects" aria-label={text.actions.back}>
          <ArrowLeftOutlined />
        </Link>
        <h1>{data.title}</h1>
        {data.synthetic && <SyntheticTag />}
        {data.finished > 0 && <Tag color="success">{text.projects.finished}</Tag>}
        {data.late > 0 && <Tag color="error">{text.projects.late(data.late)}</Tag>}
        <span className="spacer" />
        {data.may_write && (
          <>
            <Button icon={<PlusOutlined />} onClick={() => setOpen("milestone")}>
              {text.projects.addMilestone}
            </Button>
            <Button type="primary" icon={<PlusOutlined />} onClick={() => setOpen("movement")}>
              {text.projects.addMovement}
            </Button>
          </>
        )}
      </div>
      <div className="columns gap-below">
        <section className="panel box">
          <Facts
            facts={[
              [text.projects.code, <span className="mono">{data.code}</span>],
              [text.projects.org, org(data.org)],
              [
                text.plan.task,
                <Link to={`/plan/tasks/${data.task}`}>
                  {data.task} {task && label(task as never, "title")}
                </Link>,
              ],
              [text.projects.span, `${data.starts} — ${data.ends}`],
              [text.projects.place, [data.place, data.lon !== null && `${data.lon}, ${data.lat}`].filter(Boolean).join(" · ")],
              [text.projects.summary, data.summary],
            ]}
          />
        </section>
        <section className="panel box">
          <h2>{text.projects.quotas}</h2>
          {data.funds.quotas.length === 0 && <span className="muted">{text.projects.noQuotas}</span>}
          {data.funds.quotas.map(({ resource, granted, used, unit }) => (
            <div key={resource} className="gap-below">
              {text.projects.resources[resource]} · {text.projects.usedOf(format.parts(used, unit), format.parts(granted, unit))}
              <Progress
                size="small"
                status={used > granted ? "exception" : "normal"}
                percent={granted ? Math.round((1000 * used) / granted) / 10 : used ? 100 : 0}
                aria-label={text.projects.resources[resource]}
              />
            </div>
          ))}
        </section>
      </div>
      <FundsPanels data={data} />
      <Milestones data={data} again={again} />
      <Movements data={data} again={again} />
      {open === "milestone" && <NewMilestone no={data.no} again={again} onClose={() => setOpen(null)} />}
      {open === "movement" && <NewMovement no={data.no} again={again} onClose={() => setOpen(null)} />}
    </div>
  );
}

function FundsPanels({ data }: { data: ProjectDetail }) {
  const { text } = useSettings();
  const format = useFormat();
  const { sources, uses, total } = data.funds;
  const bySource = useMemo(
    () => ({
      categories: sources.map(({ source }) => text.projects.sources[source] ?? source),
      series: STAGES.map((stage) => ({ name: text.projects.stages[stage], tone: TONES[stage], values: sources.map((row) => row[stage]) })),
    }),
    [sources, text],
  );
  const byMonth = useMemo(
    () => ({
      categories: data.months.map(({ month }) => month),
      series: (["received", "spent"] as const).map((stage) => ({
        name: text.projects.stages[stage],
        tone: TONES[stage],
        values: data.months.map((row) => row[stage]),
      })),
    }),
    [data.months, text],
  );
  if (sources.length === 0)
    return (
      <section className="panel box gap-below">
        <h2>{text.projects.funds}</h2>
        <Nothing title={text.projects.noFunds} />
      </section>
    );
  return (
    <div className="columns gap-below" data-testid="funds">
      <section className="panel box">
        <h2>{text.projects.bySource}</h2>
        <Suspense fallback={<div className="chart bar-chart" />}>
          <BarChart {...bySource} say={format.money} label={text.projects.bySource} />
        </Suspense>
        <table className="plain-table small">
          <thead>
            <tr>
              <th scope="col">{text.projects.source}</th>
              {STAGES.map((stage) => (
                <th key={stage} scope="col" className="number">
                  {text.projects.stages[stage]}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {[...sources, { source: "", ...total }].map((row) => (
              <tr key={row.source}>
                <td>{row.source ? text.projects.sources[row.source] : text.projects.total}</td>
                {STAGES.map((stage) => (
                  <td key={stage} className="number">
                    {format.money(row[stage])}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </section>
      <section className="panel box">
        <h2>{text.projects.byMonth}</h2>
        {data.months.length === 0 ? (
          <Nothing title={text.projects.noFunds} />
        ) : (
          <Suspense fallback={<div className="chart bar-chart" />}>
            <BarChart {...byMonth} say={format.money} label={text.projects.byMonth} />
          </Suspense>
        )}
        <h2 className="gap-above">{text.projects.usesTitle}</h2>
        {uses.length === 0 && <span className="muted">{text.projects.noUses}</span>}
        {uses.map(({ use, spent }) => (
          <div key={use}>
            {text.projects.uses[use]} · {format.money(spent)}
            <Progress size="small" showInfo={false} percent={(100 * spent) / Math.max(1, total.spent)} aria-label={text.projects.uses[use]} />
          </div>
        ))}
      </section>
    </div>
  );
}

type Part = { data: ProjectDetail; again(): Promise<unknown> };

function Milestones({ data, again }: Part) {
  const { text } = useSettings();
  const [reporting, setReporting] = useState<Milestone | null>(null);
  const [deciding, setDeciding] = useState<{ of: Milestone; done: boolean } | null>(null);
  const columns: TableColumnsType<Milestone> = [
    {
      title: text.projects.milestone,
      key: "title",
      width: 260,
      render: (_: unknown, one) => (
        <>
          {one.title} {one.final && <Tag>{text.projects.final}</Tag>}
        </>
      ),
    },
    { title: text.projects.due, dataIndex: "due", width: 110 },
    {
      title: text.plan.state,
      key: "state",
      width: 170,
      render: (_: unknown, one) => (
        <>
          <Tag color={{ planned: "default", reported: "processing", done: "success" }[one.state]}>{text.projects.milestoneState[one.state]}</Tag>
          {one.late && <Tag color="error">{one.state === "done" ? text.projects.doneLate : text.projects.lateTag}</Tag>}
        </>
      ),
    },
    { title: text.projects.doneOn, dataIndex: "done_on", width: 110, render: (day: string | null) => day ?? "—" },
    {
      title: text.plan.evidence,
      key: "evidence",
      width: 260,
      render: (_: unknown, one) => (one.state === "planned" ? one.note : <Evidence of="milestones" paper={one} />),
    },
    { title: text.projects.signed, key: "signed", width: 170, render: (_: unknown, one) => one.state !== "planned" && <Signatures paper={{ ...one, note: null }} /> },
    {
      title: "",
      key: "actions",
      width: 170,
      render: (_: unknown, one) => (
        <span className="row-actions">
          {one.state === "planned" && data.may_write && (
            <Button size="small" onClick={() => setReporting(one)}>
              {text.projects.report}
            </Button>
          )}
          {one.state === "reported" && data.may_decide && (
            <>
              <Button size="small" type="primary" onClick={() => setDeciding({ of: one, done: true })}>
                {text.plan.approve}
              </Button>
              <Button size="small" onClick={() => setDeciding({ of: one, done: false })}>
                {text.plan.reject}
              </Button>
            </>
          )}
        </span>
      ),
    },
  ];
  return (
    <section className="panel box gap-below" data-testid="milestones">
      <h2>{text.projects.milestones}</h2>
      <Table<Milestone>
        size="middle"
        rowKey="no"
        columns={columns}
        dataSource={data.milestones}
        pagination={false}
        scroll={{ x: 1180 }}
        locale={{ emptyText: <Nothing title={text.projects.noMilestones} /> }}
      />
      {reporting && <Reached of={reporting} again={again} onClose={() => setReporting(null)} />}
      {deciding && (
        <Decide
          title={deciding.done ? text.plan.approve : text.plan.reject}
          danger={!deciding.done}
          needsNote={!deciding.done}
          onClose={() => setDeciding(null)}
          onDecide={(note) => post(`/plan/milestones/${deciding.of.no}/${deciding.done ? "approve" : "reject"}`, { note }).then(again)}
        >
          {deciding.of.title} · {deciding.of.done_on}
          <br />
          <span className="muted">{deciding.of.evidence_text}</span>
        </Decide>
      )}
    </section>
  );
}

function Evidence({ of, paper }: { of: "milestones" | "movements"; paper: Milestone | Movement }) {
  return (
    <>
      {paper.evidence_text}{" "}
      {paper.evidence_name && (
        <a href={path(`/plan/${of}/${paper.no}/evidence`)} download>
          {paper.evidence_name}
        </a>
      )}
    </>
  );
}

function Movements({ data, again }: Part) {
  const { text } = useSettings();
  const format = useFormat();
  const show = useShowProblem();
  const { message } = App.useApp();
  const [chosen, setChosen] = useState<number[]>([]);
  const [deciding, setDeciding] = useState<boolean | null>(null);
  const [undoing, setUndoing] = useState<Movement | null>(null);
  const decide = async (note: string): Promise<void> => {
    const told = await post<{ items: { no: number; error?: ProblemBody }[] }>(`/plan/projects/${data.no}/${deciding ? "approve" : "reject"}`, { papers: chosen, note });
    const refused = told.items.filter((one) => one.error);
    refused.slice(0, 3).forEach(({ error }) => show(new Problem(400, error!)));
    if (refused.length < told.items.length) void message.success(text.projects.decided(told.items.length - refused.length));
    setChosen([]);
    await again();
  };
  const columns: TableColumnsType<Movement> = [
    { title: text.projects.day, dataIndex: "at", width: 110, render: format.day },
    {
      title: text.projects.kind,
      key: "kind",
      width: 230,
      render: (_: unknown, one) => (
        <>
          {one.reverses !== null && <Tag color="warning">{text.projects.reversal(one.reverses)}</Tag>}
          {text.projects.stages[one.kind]} · {text.projects.sources[one.source ?? ""] ?? text.projects.resources[one.resource ?? ""]}
          {one.use && ` → ${text.projects.uses[one.use]}`}
        </>
      ),
    },
    {
      title: text.projects.amount,
      key: "amount",
      align: "right",
      width: 150,
      render: (_: unknown, one) => `${one.reverses === null ? "" : "−"}${one.unit === "CNY" ? format.money(one.amount) : format.parts(one.amount, one.unit)}`,
    },
    {
      title: text.plan.state,
      key: "state",
      width: 110,
      render: (_: unknown, one) => (
        <Tag color={{ submitted: "processing", approved: "success", rejected: "default" }[one.state]}>{text.plan.reportState[one.state]}</Tag>
      ),
    },
    { title: text.plan.evidence, key: "evidence", width: 240, render: (_: unknown, one) => <Evidence of="movements" paper={one} /> },
    { title: text.projects.signed, key: "signed", width: 180, render: (_: unknown, one) => <Signatures paper={one} /> },
    {
      title: text.projects.entry,
      key: "entry",
      width: 120,
      render: (_: unknown, one) => (
        <>
          {one.entry !== null && <span className="mono">#{one.entry}</span>}{" "}
          {one.state === "approved" && one.reverses === null && data.may_write && (
            <Button size="small" type="text" onClick={() => setUndoing(one)}>
              {text.projects.undo}
            </Button>
          )}
        </>
      ),
    },
  ];
  return (
    <section className="panel box gap-below" data-testid="movements">
      <h2>
        {text.projects.movements} <span className="muted box-note">{text.projects.secondPerson}</span>
        {chosen.length > 0 && (
          <span className="row-actions">
            <Button size="small" type="primary" onClick={() => setDeciding(true)}>
              {text.plan.approve} ({chosen.length})
            </Button>
            <Button size="small" onClick={() => setDeciding(false)}>
              {text.plan.reject}
            </Button>
          </span>
        )}
      </h2>
      <Table<Movement>
        size="middle"
        rowKey="no"
        columns={columns}
        dataSource={data.movements}
        pagination={data.movements.length > 20 ? { pageSize: 20, showSizeChanger: false } : false}
        scroll={{ x: 1180 }}
        rowSelection={
          data.may_decide
            ? {
                selectedRowKeys: chosen,
                onChange: (keys) => setChosen(keys.map(Number)),
                getCheckboxProps: (one) => ({ disabled: one.state !== "submitted", "aria-label": `${text.projects.movement} ${one.no}` }) as never,
              }
            : undefined
        }
        locale={{ emptyText: <Nothing title={text.projects.noFunds} /> }}
      />
      {deciding !== null && (
        <Decide title={deciding ? text.plan.approve : text.plan.reject} danger={!deciding} needsNote={!deciding} onDecide={decide} onClose={() => setDeciding(null)} />
      )}
      {undoing && (
        <Decide
          title={text.projects.undo}
          danger
          needsNote
          onClose={() => setUndoing(null)}
          onDecide={(why) => post(`/plan/movements/${undoing.no}/undo`, { evidence_text: why }).then(again)}
        >
          {text.projects.stages[undoing.kind]} · {undoing.unit === "CNY" ? format.money(undoing.amount) : format.parts(undoing.amount, undoing.unit)}
          <br />
          <span className="muted">{text.projects.undoHint}</span>
        </Decide>
      )}
    </section>
  );
}

function Dialog({ title, error, busy, onOk, onClose, children }: { title: string; error: unknown; busy: boolean; onOk(): void; onClose(): void; children: React.ReactNode }) {
  const { text } = useSettings();
  return (
    <Modal open title={title} okText={text.actions.submit} confirmLoading={busy} onOk={onOk} onCancel={onClose}>
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      {children}
    </Modal>
  );
}

function NewMilestone({ no, again, onClose }: { no: number; again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const [form] = Form.useForm<{ title: string; due: Dayjs; final?: boolean }>();
  const { error, busy, send } = useSending();
  return (
    <Dialog title={text.projects.addMilestone} error={error} busy={busy} onOk={() => form.submit()} onClose={onClose}>
      <Form
        form={form}
        layout="vertical"
        onFinish={({ title, due, final }) =>
          send(post(`/plan/projects/${no}/milestones`, { title, due: due.format("YYYY-MM-DD"), final: final ?? false }), () => again().then(onClose))
        }
      >
        <Form.Item name="title" label={text.projects.milestone} rules={[{ required: true, whitespace: true }]}>
          <Input maxLength={200} />
        </Form.Item>
        <Form.Item name="due" label={text.projects.due} rules={[{ required: true }]} extra={text.projects.dueHint}>
          <DatePicker className="wide" />
        </Form.Item>
        <Form.Item name="final" valuePropName="checked">
          <Checkbox>{text.projects.finalHint}</Checkbox>
        </Form.Item>
      </Form>
    </Dialog>
  );
}

function Reached({ of, again, onClose }: { of: Milestone; again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const [form] = Form.useForm<{ done_on: Dayjs; evidence_text: string }>();
  const [file, setFile] = useState<File | null>(null);
  const { error, busy, send } = useSending();
  const submit = async ({ done_on, evidence_text }: { done_on: Dayjs; evidence_text: string }): Promise<unknown> =>
    post(`/plan/milestones/${of.no}/reached`, { done_on: done_on.format("YYYY-MM-DD"), evidence_text, ...(await evidenceOf(file)) });
  return (
    <Dialog title={`${text.projects.report} · ${of.title}`} error={error} busy={busy} onOk={() => form.submit()} onClose={onClose}>
      <Form form={form} layout="vertical" onFinish={(values) => send(submit(values), () => again().then(onClose))}>
        <Form.Item name="done_on" label={text.projects.doneOn} rules={[{ required: true }]}>
          <DatePicker className="wide" disabledDate={(day) => day.valueOf() > Date.now()} />
        </Form.Item>
        <EvidenceFields rows={3} file={file} onChoose={setFile} />
      </Form>
    </Dialog>
  );
}

interface NewMovementValues {
  kind: Stage | "granted" | "used";
  source?: string;
  use?: string;
  yuan?: number;
  resource?: string;
  quantity?: number;
  unit?: string;
  at: Dayjs;
  evidence_text: string;
}

function NewMovement({ no, again, onClose }: { no: number; again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const [form] = Form.useForm<NewMovementValues>();
  const [key] = useState(() => crypto.randomUUID());
  const [file, setFile] = useState<File | null>(null);
  const { error, busy, send } = useSending();
  const kind = Form.useWatch("kind", form) ?? "received";
  const resource = Form.useWatch("resource", form) ?? "land";
  const money = STAGES.includes(kind as Stage);
  const options = (names: string[], words: Record<string, string>) => names.map((value) => ({ value, label: words[value] ?? value }));
  const submit = async ({ yuan, at, ...values }: NewMovementValues): Promise<unknown> =>
    post(`/plan/projects/${no}/movements`, {
      ...values,
      ...(money ? { fen: Math.round((yuan ?? 0) * 100) } : {}),
      at: kind === "planned" ? `${at.format("YYYY-MM-DD")}T00:00:00+08:00` : endOf(at),
      key,
      ...(await evidenceOf(file)),
    });
  return (
    <Dialog title={text.projects.addMovement} error={error} busy={busy} onOk={() => form.submit()} onClose={onClose}>
      <Form<NewMovementValues>
        form={form}
        layout="vertical"
        initialValues={{ kind: "received", resource: "land" }}
        onFinish={(values) => send(submit(values), () => again().then(onClose))}
      >
        <Form.Item name="kind" label={text.projects.kind} rules={[{ required: true }]}>
          <Select options={options([...STAGES, "granted", "used"], text.projects.stages)} />
        </Form.Item>
        {money ? (
          <div className="two">
            <Form.Item name="source" label={text.projects.source} rules={[{ required: true }]}>
              <Select options={options(SOURCES, text.projects.sources)} />
            </Form.Item>
            <Form.Item name="yuan" label={text.projects.yuan} rules={[{ required: true }]}>
              <InputNumber className="wide" min={0.01} precision={2} />
            </Form.Item>
          </div>
        ) : (
          <div className="two">
            <Form.Item name="resource" label={text.projects.resource} rules={[{ required: true }]}>
              <Select options={options(["land", "energy"], text.projects.resources)} onChange={() => form.setFieldValue("unit", undefined)} />
            </Form.Item>
            <Form.Item name="unit" label={text.projects.unit} rules={[{ required: true }]}>
              <Select options={options(UNITS[resource] ?? [], text.projects.units)} />
            </Form.Item>
            <Form.Item name="quantity" label={text.projects.amount} rules={[{ required: true }]}>
              <InputNumber className="wide" min={0} />
            </Form.Item>
          </div>
        )}
        {kind === "spent" && (
          <Form.Item name="use" label={text.projects.use} rules={[{ required: true }]}>
            <Select options={options(USES, text.projects.uses)} />
          </Form.Item>
        )}
        <Form.Item name="at" label={kind === "planned" ? text.projects.by : text.projects.day} rules={[{ required: true }]}>
          <DatePicker className="wide" disabledDate={(day) => kind !== "planned" && day.valueOf() > Date.now()} />
        </Form.Item>
        <EvidenceFields rows={2} file={file} onChoose={setFile} />
      </Form>
    </Dialog>
  );
}
