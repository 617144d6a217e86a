/** The register of projects: by task and organisation, those that are late; new ones, and tables of many. */
import { DownloadOutlined, PlusOutlined, UploadOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, Button, DatePicker, Form, Input, InputNumber, Modal, Select, Switch, Upload } from "antd";
import type { Dayjs } from "dayjs";
import { useState } from "react";
import { useNavigate, useSearchParams } from "react-router";
import { get, post, upload, type ProblemBody } from "../api/client.ts";
import { useTasks, type Project, type ProjectsTogether } from "../api/plan.ts";
import { changed } from "../api/search.ts";
import { OrgSelect } from "../components/org-select.tsx";
import { PageHead } from "../components/page.tsx";
import { ProblemAlert, useSending } from "../components/problem.tsx";
import { ProjectTable } from "../components/project-table.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useSettings } from "../settings.tsx";

export default function Projects() {
  const { text } = useSettings();
  const can = useCan();
  const [params, setParams] = useSearchParams();
  const [open, setOpen] = useState<"new" | "import" | null>(null);
  const set = (changes: Record<string, string | null | undefined>): void => setParams(changed(params, changes), { replace: true });
  return (
    <div className="page">
      <PageHead title={text.projects.title} note={text.projects.note}>
        {can("plan.project.create") && (
          <>
            <Button icon={<UploadOutlined />} onClick={() => setOpen("import")}>
              {text.projects.bring}
            </Button>
            <Button type="primary" icon={<PlusOutlined />} onClick={() => setOpen("new")}>
              {text.projects.add}
            </Button>
          </>
        )}
      </PageHead>
      <Together />
      <div className="filters">
        <TaskSelect value={params.get("task") ?? undefined} onChange={(task) => set({ task })} />
        <OrgSelect
          className="filter-wide"
          allowClear
          label={text.projects.org}
          placeholder={text.projects.org}
          value={params.get("org") ?? undefined}
          onChange={(org) => set({ org })}
        />
        <label className="switch-label">
          <Switch size="small" checked={params.get("late") === "1"} onChange={(on) => set({ late: on ? "1" : null })} /> {text.projects.onlyLate}
        </label>
      </div>
      <ProjectTable query={{ task: params.get("task"), org: params.get("org"), late: params.get("late") === "1" }} />
      {open === "new" && <NewProject task={params.get("task") ?? undefined} onClose={() => setOpen(null)} />}
      {open === "import" && <Import onClose={() => setOpen(null)} />}
    </div>
  );
}

function Together() {
  const { text } = useSettings();
  const format = useFormat();
  const { data } = useQuery({
    queryKey: ["plan", "projects", "overview"],
    queryFn: ({ signal }) => get<ProjectsTogether>("/plan/projects/overview", undefined, signal),
  });
  const total = data?.funds.total;
  const facts: [string, string | undefined][] = [
    [text.projects.count, data && format.integer(data.projects)],
    [text.projects.finished, data && format.integer(data.finished)],
    [text.projects.lateMilestones, data && format.integer(data.late)],
    ...(["planned", "committed", "received", "spent"] as const).map((stage): [string, string | undefined] => [
      text.projects.stages[stage],
      total && format.money(total[stage]),
    ]),
  ];
  return (
    <section className="panel box gap-below" aria-label={text.projects.title}>
      <dl className="big-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value ?? "—"}</dd>
          </div>
        ))}
      </dl>
      {data !== undefined && data.synthetic > 0 && <p className="muted gap-above">{text.projects.syntheticNote(data.synthetic)}</p>}
    </section>
  );
}

export function TaskSelect({ value, onChange, id }: { value?: string; onChange?(task: string | undefined): void; id?: string }) {
  const { text } = useSettings();
  const label = useLabel();
  const { data } = useTasks();
  return (
    <Select
      id={id}
      className="filter-wide"
      allowClear
      showSearch={{ optionFilterProp: "label" }}
      aria-label={text.plan.task}
      placeholder={text.plan.task}
      popupMatchSelectWidth={340}
      value={value}
      onChange={onChange}
      options={(data ?? []).map((task) => ({ value: task.id, label: `${task.id} ${label(task as never, "title")}` }))}
    />
  );
}

interface NewProjectValues {
  org: string;
  code: string;
  task: string;
  title: string;
  summary?: string;
  place?: string;
  lon?: number;
  lat?: number;
  span: [Dayjs, Dayjs];
}

function NewProject({ task, onClose }: { task?: string; onClose(): void }) {
  const { text } = useSettings();
  const session = useSession();
  const navigate = useNavigate();
  const client = useQueryClient();
  const [form] = Form.useForm<NewProjectValues>();
  const { error, busy, send } = useSending();
  const submit = ({ span, ...values }: NewProjectValues): void =>
    send(
      post<Project>("/plan/projects", { ...values, starts: span[0].format("YYYY-MM-DD"), ends: span[1].format("YYYY-MM-DD") }),
      async (made) => {
        await client.invalidateQueries({ queryKey: ["/plan/projects"] });
        void navigate(`/plan/projects/${made.no}`);
      },
    );
  return (
    <Modal open title={text.projects.add} okText={text.actions.create} confirmLoading={busy} onOk={() => form.submit()} onCancel={onClose}>
      {error !== null && <ProblemAlert error={error} />}
      <Form<NewProjectValues> form={form} layout="vertical" initialValues={{ org: session.user.org, task }} onFinish={submit}>
        <Form.Item name="title" label={text.projects.name} rules={[{ required: true, whitespace: true }]}>
          <Input maxLength={200} />
        </Form.Item>
        <div className="two">
          <Form.Item name="org" label={text.projects.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="code" label={text.projects.code} rules={[{ required: true, pattern: /^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$/ }]}>
            <Input maxLength={60} />
          </Form.Item>
        </div>
        <Form.Item name="task" label={text.plan.task} rules={[{ required: true }]}>
          <TaskSelect />
        </Form.Item>
        <Form.Item name="span" label={text.projects.span} rules={[{ required: true }]}>
          <DatePicker.RangePicker className="wide" />
        </Form.Item>
        <Form.Item name="place" label={text.projects.place}>
          <Input maxLength={200} />
        </Form.Item>
        <div className="two">
          <Form.Item name="lon" label={text.projects.lon}>
            <InputNumber className="wide" min={-180} max={180} />
          </Form.Item>
          <Form.Item name="lat" label={text.projects.lat}>
            <InputNumber className="wide" min={-90} max={90} />
          </Form.Item>
        </div>
        <Form.Item name="summary" label={text.projects.summary}>
          <Input.TextArea autoSize={{ minRows: 2, maxRows: 6 }} maxLength={4000} />
        </Form.Item>
      </Form>
    </Modal>
  );
}

const COLUMNS = {
  projects: "org,code,task,title,summary,target,place,lon,lat,starts,ends,synthetic",
  milestones: "org,code,title,due,final",
  movements: "org,code,kind,source,use,yuan,resource,quantity,unit,at,key,evidence",
};

interface Brought {
  counts: Record<"created" | "changed" | "unchanged" | "error", number>;
  lines: { line: number; error?: ProblemBody }[];
}

function Import({ onClose }: { onClose(): void }) {
  const { text, language } = useSettings();
  const client = useQueryClient();
  const [what, setWhat] = useState<keyof typeof COLUMNS>("projects");
  const [answer, setAnswer] = useState<Brought | null>(null);
  const { error, busy, send } = useSending();
  const bad = answer?.lines.filter((line) => line.error) ?? [];
  return (
    <Modal open title={text.projects.bring} footer={null} onCancel={onClose} width={640}>
      <div className="filters">
        <Select
          aria-label={text.projects.bring}
          value={what}
          onChange={(value) => {
            setWhat(value);
            setAnswer(null);
          }}
          options={(["projects", "milestones", "movements"] as const).map((value) => ({ value, label: text.projects.tables[value] }))}
        />
        <Upload
          accept=".csv,text/csv"
          showUploadList={false}
          beforeUpload={(file) => {
            send(upload<Brought>(`/plan/import/${what}`, {}, file), (told) => {
              setAnswer(told);
              return client.invalidateQueries();
            });
            return false;
          }}
        >
          <Button type="primary" loading={busy} icon={<UploadOutlined />}>
            {text.plan.chooseFile}
          </Button>
        </Upload>
        <a download={`${what}.csv`} href={`data:text/csv;charset=utf-8,${encodeURIComponent(`\ufeff${COLUMNS[what]}\r\n`)}`}>
          <DownloadOutlined /> {text.projects.emptyTable}
        </a>
      </div>
      <p className="muted">{text.projects.bringHint}</p>
      <pre className="raw gap-above">{COLUMNS[what]}</pre>
      {error !== null && <ProblemAlert error={error} />}
      {answer && (
        <div className="gap-above" data-testid="brought">
          <Alert
            showIcon
            type={bad.length ? "warning" : "success"}
            title={text.projects.brought(answer.counts.created, answer.counts.changed, answer.counts.unchanged, answer.counts.error)}
          />
          {bad.length > 0 && (
            <table className="plain-table small gap-above">
              <tbody>
                {bad.slice(0, 200).map(({ line, error: problem }) => (
                  <tr key={line}>
                    <td className="number">{line}</td>
                    <td>{(language === "zh" ? problem?.detail_zh : problem?.detail_en) ?? problem?.detail}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </div>
      )}
    </Modal>
  );
}
