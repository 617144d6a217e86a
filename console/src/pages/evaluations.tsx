/** The annual evaluation: agencies and tasks with what their scores are made of, versions, appeals, and the report. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, Button, DatePicker, Form, InputNumber, Modal, Select, Skeleton, Switch, Table, Tag, type TableColumnsType } from "antd";
import dayjs, { type Dayjs } from "dayjs";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";
import { get, post } from "../api/client.ts";
import { useTasks, type Appeal, type Criterion, type Evaluation, type EvaluationHead, type EvaluationRow, type Project } from "../api/plan.ts";
import { changed } from "../api/search.ts";
import type { Page } from "../api/types.ts";
import { useOrgName } from "../components/org-select.tsx";
import { Nothing, PageHead } from "../components/page.tsx";
import { Decide, evidenceOf, EvidenceFields, Signatures } from "../components/paper.tsx";
import { ProblemAlert, useSending } from "../components/problem.tsx";
import { ReportButtons } from "../components/report-buttons.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useSettings } from "../settings.tsx";
import { useTargets } from "./targets.tsx";

const CRITERIA: Criterion[] = ["targets", "milestones", "funds", "items"];
const FIELDS: Record<Criterion, string[]> = { targets: ["value"], milestones: ["done_on"], funds: ["planned", "spent"], items: ["late"] };
const STATES = { draft: "processing", dropped: "default", published: "warning", superseded: "default", final: "success" } as const;

export default function Evaluations() {
  const { text } = useSettings();
  const can = useCan();
  const client = useQueryClient();
  const [params, setParams] = useSearchParams();
  const [dialog, setDialog] = useState<"draft" | "publish" | "finish" | "appeal" | null>(null);
  const heads = useQuery({
    queryKey: ["plan", "evaluations"],
    queryFn: async ({ signal }) => (await get<{ items: EvaluationHead[] }>("/plan/evaluations", undefined, signal)).items,
  });
  const wanted = params.get("v");
  const head = heads.data?.find((one) => `${one.year}.${one.version}` === wanted) ?? heads.data?.[0];
  const again = (): Promise<void> => client.invalidateQueries({ queryKey: ["plan"] });
  return (
    <div className="page">
      <PageHead title={text.evaluation.title} note={text.evaluation.note}>
        {head && <ReportButtons year={head.year} />}
        {can("plan.evaluation.create") && (
          <Button type="primary" onClick={() => setDialog("draft")}>
            {text.evaluation.make}
          </Button>
        )}
      </PageHead>
      {heads.error && <ProblemAlert error={heads.error} retry={() => void heads.refetch()} />}
      {heads.isLoading && <Skeleton active />}
      {heads.data?.length === 0 && (
        <section className="panel box">
          <Nothing title={text.evaluation.none} hint={text.evaluation.noneHint} />
        </section>
      )}
      {head && (
        <>
          <div className="filters">
            <Select
              className="filter-wide"
              aria-label={text.plan.version}
              value={`${head.year}.${head.version}`}
              onChange={(v) => setParams(changed(params, { v }), { replace: true })}
              options={heads.data?.map((one) => ({
                value: `${one.year}.${one.version}`,
                label: text.evaluation.version(one.year, one.version, text.evaluation.states[one.state]),
              }))}
            />
            <Tag color={STATES[head.state]}>{text.evaluation.states[head.state]}</Tag>
            {head.state === "draft" && can("plan.evaluation.approve") && (
              <Button type="primary" onClick={() => setDialog("publish")}>
                {text.evaluation.publish}
              </Button>
            )}
            {head.state === "published" && can("plan.evaluation.approve") && <Button onClick={() => setDialog("finish")}>{text.evaluation.finish}</Button>}
            {head.state === "published" && can("plan.appeal.create") && <Button onClick={() => setDialog("appeal")}>{text.evaluation.appeal}</Button>}
          </div>
          <Version key={`${head.year}.${head.version}`} head={head} again={again} appealing={dialog === "appeal"} onAppealed={() => setDialog(null)} />
        </>
      )}
      {dialog === "draft" && <Draft again={again} onClose={() => setDialog(null)} />}
      {head && (dialog === "publish" || dialog === "finish") && (
        <Sign key={dialog} what={dialog} head={head} again={again} onClose={() => setDialog(null)} />
      )}
    </div>
  );
}

/** A value of an input as people say it: funds are in fen. */
function useSaid(): (criterion: Criterion, value: unknown) => string {
  const { text } = useSettings();
  const format = useFormat();
  return (criterion, value) =>
    value === null || value === undefined
      ? "—"
      : typeof value === "boolean"
        ? value
          ? text.yes
          : text.no
        : criterion === "funds"
          ? format.money(Number(value))
          : String(value);
}

interface VersionProps {
  head: EvaluationHead;
  again(): Promise<unknown>;
  appealing: boolean;
  onAppealed(): void;
}

function Version({ head, again, appealing, onAppealed }: VersionProps) {
  const { text } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const label = useLabel();
  const said = useSaid();
  const tasks = useTasks();
  const told = useQuery({
    queryKey: ["plan", "evaluation", head.year, head.version],
    queryFn: ({ signal }) => get<Evaluation>(`/plan/evaluations/${head.year}/${head.version}`, undefined, signal),
  });
  if (told.error) return <ProblemAlert error={told.error} retry={() => void told.refetch()} />;
  if (!told.data) return <Skeleton active paragraph={{ rows: 8 }} />;
  const { document, recomputes, digest, appeals, appeal_until } = told.data;
  const task = (id: string): string => {
    const found = tasks.data?.find((one) => one.id === id);
    return found ? `${id} ${label(found as never, "title")}` : id;
  };
  return (
    <>
      <section className="panel box gap-below">
        <dl className="big-facts">
          <div>
            <dt>{text.evaluation.mean}</dt>
            <dd>{document.score === null ? "—" : format.decimal(document.score)}</dd>
          </div>
          <div>
            <dt>{text.plan.asOf}</dt>
            <dd>{format.day(document.as_of)}</dd>
          </div>
          <div>
            <dt>{text.evaluation.method}</dt>
            <dd>{head.method}</dd>
          </div>
          <div>
            <dt>{text.evaluation.madeBy}</dt>
            <dd>
              {head.appeal === null ? [head.made_name, head.published_name].filter(Boolean).join(" / ") : text.evaluation.byAppeal(head.appeal, head.made_name)}
            </dd>
          </div>
          {head.state === "published" && (
            <div>
              <dt>{text.evaluation.until}</dt>
              <dd>{format.day(appeal_until)}</dd>
            </div>
          )}
        </dl>
        <p className="gap-above" data-testid="digest">
          <Tag color={recomputes ? "success" : "error"}>{recomputes ? text.evaluation.recomputes : text.evaluation.differs}</Tag>
          <span className="mono muted digest">{digest}</span>
        </p>
        <p className="muted">{text.evaluation.weights(CRITERIA.map((one) => `${text.evaluation.criteria[one]} ${document.formula.weights[one] ?? 0}`).join(text.comma))}</p>
      </section>
      {document.adjustments.length > 0 && (
        <section className="panel box gap-below">
          <h2>{text.evaluation.adjustments}</h2>
          <ul>
            {document.adjustments.map((one, at) => (
              <li key={at}>
                {text.evaluation.adjusted(one.appeal, org(one.org))} {text.evaluation.criteria[one.criterion]} {one.subject} · {text.evaluation.fields[one.field]}:{" "}
                {said(one.criterion, one.was)} → <strong>{said(one.criterion, one.is)}</strong>
              </li>
            ))}
          </ul>
        </section>
      )}
      <Rows title={text.evaluation.agencies} rows={document.agencies} name={(id) => org(id)} testid="agencies" />
      <Rows title={text.evaluation.tasks} rows={document.tasks} name={task} testid="tasks" />
      <Appeals appeals={appeals} again={again} />
      {appealing && <NewAppeal of={told.data} again={again} onClose={onAppealed} />}
    </>
  );
}

function Rows({ title, rows, name, testid }: { title: string; rows: EvaluationRow[]; name(id: string): string; testid: string }) {
  const { text, language } = useSettings();
  const format = useFormat();
  const sorted = [...rows].sort((a, b) => (b.score ?? -1) - (a.score ?? -1));
  const columns: TableColumnsType<EvaluationRow> = [
    { title, dataIndex: "id", width: 280, render: name },
    {
      title: text.plan.score,
      dataIndex: "score",
      width: 170,
      render: (score: number | null) =>
        score === null ? (
          <span className="muted">{text.evaluation.nothing}</span>
        ) : (
          <span className="score-bar">
            <span style={{ width: `${score}%` }} />
            <strong>{format.decimal(Math.round(score * 100) / 100)}</strong>
          </span>
        ),
    },
    { title: text.evaluation.grade, key: "grade", width: 90, render: (_: unknown, row) => row.grade && <Tag>{row.grade[language]}</Tag> },
    ...CRITERIA.map((one) => ({
      title: text.evaluation.criteria[one],
      key: one,
      align: "right" as const,
      width: 110,
      render: (_: unknown, row: EvaluationRow) => {
        const value = row.criteria[one];
        return value === null ? <span className="muted">—</span> : `${format.decimal(Math.round(value * 1000) / 10)} %`;
      },
    })),
  ];
  return (
    <div className="panel table-wrap gap-below" data-testid={testid}>
      <Table<EvaluationRow>
        size="middle"
        rowKey="id"
        columns={columns}
        dataSource={sorted}
        pagination={false}
        scroll={{ x: 980 }}
        expandable={{ expandedRowRender: (row) => <Inputs row={row} />, rowExpandable: (row) => CRITERIA.some((one) => row[one].length > 0) }}
      />
    </div>
  );
}

function Inputs({ row }: { row: EvaluationRow }) {
  const { text } = useSettings();
  const format = useFormat();
  const label = useLabel();
  const targets = useTargets();
  const title = (id: string): string => {
    const found = targets.data?.find((one) => one.id === id);
    return found ? label(found as never, "title") : id;
  };
  return (
    <div className="columns">
      {row.targets.length > 0 && (
        <ul>
          {row.targets.map((one) => (
            <li key={one.id}>
              <Link to={`/plan/targets/${one.id}`}>{title(one.id)}</Link>: {format.scalar(one.value)} / {format.decimal(one.goal)}
            </li>
          ))}
        </ul>
      )}
      {row.milestones.length > 0 && (
        <ul>
          {row.milestones.map((one) => (
            <li key={one.no}>
              <Link to={`/plan/projects/${one.project}`}>{text.evaluation.project(one.project)}</Link> · #{one.no}: {one.due} →{" "}
              {one.done_on ?? text.projects.lateTag}
            </li>
          ))}
        </ul>
      )}
      {row.funds.length > 0 && (
        <ul>
          {row.funds.map((one) => (
            <li key={one.project}>
              <Link to={`/plan/projects/${one.project}`}>{text.evaluation.project(one.project)}</Link>: {text.projects.of(format.money(one.spent), format.money(one.planned))}
            </li>
          ))}
        </ul>
      )}
      {row.items.length > 0 && (
        <ul>
          {row.items.map((one) => (
            <li key={one.no}>
              <Link to={`/items?view=open&item=${one.no}`}>{text.evaluation.item(one.no)}</Link> {one.late && <Tag color="error">{text.projects.lateTag}</Tag>}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Appeals({ appeals, again }: { appeals: Appeal[]; again(): Promise<unknown> }) {
  const { text } = useSettings();
  const org = useOrgName();
  const said = useSaid();
  const can = useCan();
  const [deciding, setDeciding] = useState<{ of: Appeal; upheld: boolean } | null>(null);
  if (appeals.length === 0) return null;
  return (
    <section className="panel box" data-testid="appeals">
      <h2>{text.evaluation.appeals}</h2>
      {appeals.map((one) => (
        <article key={one.no} className="appeal">
          <div>
            <strong>
              #{one.no} {org(one.org)}
            </strong>{" "}
            <Tag color={{ submitted: "processing", upheld: "success", rejected: "default" }[one.state]}>{text.evaluation.appealStates[one.state]}</Tag>
            {one.made !== null && <Tag>{text.evaluation.made(one.made)}</Tag>}
          </div>
          <p>{one.evidence_text}</p>
          <ul>
            {one.corrections.map((part, at) => (
              <li key={at}>
                {text.evaluation.criteria[part.criterion]} {part.subject} · {text.evaluation.fields[part.field]} → {said(part.criterion, part.value)}
              </li>
            ))}
          </ul>
          <div className="muted">
            <Signatures paper={one} />
          </div>
          {one.state === "submitted" && can("plan.appeal.approve") && (
            <span className="row-actions">
              <Button size="small" type="primary" onClick={() => setDeciding({ of: one, upheld: true })}>
                {text.evaluation.uphold}
              </Button>
              <Button size="small" onClick={() => setDeciding({ of: one, upheld: false })}>
                {text.evaluation.rejectAppeal}
              </Button>
            </span>
          )}
        </article>
      ))}
      {deciding && (
        <Decide
          title={deciding.upheld ? text.evaluation.uphold : text.evaluation.rejectAppeal}
          danger={!deciding.upheld}
          needsNote={!deciding.upheld}
          onClose={() => setDeciding(null)}
          onDecide={(note) => post(`/plan/appeals/${deciding.of.no}/${deciding.upheld ? "uphold" : "reject"}`, { note }).then(again)}
        >
          {deciding.upheld && text.evaluation.newVersion}
        </Decide>
      )}
    </section>
  );
}

function Draft({ again, onClose }: { again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const [year, setYear] = useState<number | null>(new Date().getFullYear() - 1);
  const { error, busy, send } = useSending();
  return (
    <Modal
      open
      title={text.evaluation.make}
      okText={text.actions.create}
      confirmLoading={busy}
      onCancel={onClose}
      onOk={() => send(post("/plan/evaluations", { year }), () => again().then(onClose))}
    >
      {error !== null && <ProblemAlert error={error} />}
      <p className="gap-below">{text.evaluation.makeHint}</p>
      <InputNumber value={year} onChange={setYear} min={2000} max={2100} aria-label={text.evaluation.year} id="year" />
    </Modal>
  );
}

function Sign({ what, head, again, onClose }: { what: "publish" | "finish"; head: EvaluationHead; again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const { error, busy, send } = useSending();
  return (
    <Modal
      open
      title={text.evaluation[what]}
      okText={text.evaluation[what]}
      confirmLoading={busy}
      onCancel={onClose}
      onOk={() => send(post(`/plan/evaluations/${head.year}/${head.version}/${what}`), () => again().then(onClose))}
    >
      {error !== null && <ProblemAlert error={error} />}
      <Alert type="info" showIcon title={what === "publish" ? text.evaluation.publishHint : text.evaluation.finishHint} />
    </Modal>
  );
}

interface AppealValues {
  org: string;
  corrections: { what: string; value?: number; day?: Dayjs; late?: boolean }[];
  evidence_text: string;
}

function NewAppeal({ of, again, onClose }: { of: Evaluation; again(): Promise<unknown>; onClose(): void }) {
  const { text } = useSettings();
  const session = useSession();
  const orgName = useOrgName();
  const label = useLabel();
  const targets = useTargets();
  const projects = useQuery({
    queryKey: ["plan", "projects", "titles"],
    queryFn: async ({ signal }) => (await get<Page<Project>>("/plan/projects", { limit: 1000 }, signal)).items,
  });
  const titles = new Map(projects.data?.map(({ no, title }) => [no, title]));
  const [form] = Form.useForm<AppealValues>();
  const [file, setFile] = useState<File | null>(null);
  const { error, busy, send } = useSending();
  const org = Form.useWatch("org", form) ?? session.user.org;
  const chosen = Form.useWatch("corrections", form) ?? [];
  const row = of.document.agencies.find((one) => one.id === org);
  const options = row
    ? CRITERIA.flatMap((criterion) =>
        (row[criterion] as Record<string, unknown>[]).flatMap((part) =>
          FIELDS[criterion].map((field) => {
            const subject = String(part["id"] ?? (criterion === "funds" ? part["project"] : part["no"]));
            const target = targets.data?.find((one) => one.id === subject);
            const project = part["project"] === undefined ? "" : `${titles.get(Number(part["project"])) ?? text.evaluation.project(Number(part["project"]))} `;
            const name = target ? label(target as never, "title") : project + (criterion === "funds" ? "" : `#${subject}`);
            return {
              value: `${criterion}|${subject}|${field}`,
              label: `${text.evaluation.criteria[criterion]} · ${name} · ${text.evaluation.fields[field]}: ${String(part[field] ?? "—")}`,
            };
          }),
        ),
      )
    : [];
  const submit = async ({ corrections, evidence_text }: AppealValues): Promise<unknown> =>
    post(`/plan/evaluations/${of.year}/appeals`, {
      org,
      evidence_text,
      corrections: corrections.map(({ what, value, day, late }) => {
        const [criterion, subject, field] = what.split("|");
        const said = criterion === "milestones" ? day?.format("YYYY-MM-DD") : criterion === "items" ? (late ?? false) : criterion === "funds" ? Math.round((value ?? 0) * 100) : value;
        return { criterion, subject, field, value: said };
      }),
      ...(await evidenceOf(file)),
    });
  return (
    <Modal open width={640} title={text.evaluation.appeal} okText={text.actions.submit} confirmLoading={busy} onOk={() => form.submit()} onCancel={onClose}>
      {error !== null && <ProblemAlert error={error} />}
      <Form<AppealValues>
        form={form}
        layout="vertical"
        initialValues={{ org: row ? org : undefined, corrections: [{}] }}
        onFinish={(values) => send(submit(values), () => again().then(onClose))}
      >
        <Form.Item name="org" label={text.projects.org} rules={[{ required: true }]}>
          <Select options={of.document.agencies.map((one) => ({ value: one.id, label: orgName(one.id) }))} />
        </Form.Item>
        <Form.List name="corrections">
          {(fields, { add, remove }) => (
            <>
              {fields.map(({ key, name }) => {
                const criterion = chosen[name]?.what?.split("|")[0];
                return (
                  <div key={key} className="correction">
                    <Form.Item name={[name, "what"]} label={text.evaluation.input} rules={[{ required: true }]}>
                      <Select showSearch={{ optionFilterProp: "label" }} options={options} popupMatchSelectWidth={520} />
                    </Form.Item>
                    {criterion === "milestones" ? (
                      <Form.Item name={[name, "day"]} label={text.evaluation.shouldBe} rules={[{ required: true }]}>
                        <DatePicker maxDate={dayjs()} />
                      </Form.Item>
                    ) : criterion === "items" ? (
                      <Form.Item name={[name, "late"]} label={text.projects.lateTag} valuePropName="checked">
                        <Switch />
                      </Form.Item>
                    ) : (
                      <Form.Item name={[name, "value"]} label={criterion === "funds" ? text.projects.yuan : text.evaluation.shouldBe} rules={[{ required: true }]}>
                        <InputNumber min={0} />
                      </Form.Item>
                    )}
                    {fields.length > 1 && (
                      <Button type="text" danger onClick={() => remove(name)}>
                        {text.evaluation.remove}
                      </Button>
                    )}
                  </div>
                );
              })}
              <Button className="gap-below" onClick={() => add({})}>
                {text.evaluation.more}
              </Button>
            </>
          )}
        </Form.List>
        <EvidenceFields rows={3} file={file} onChoose={setFile} />
      </Form>
    </Modal>
  );
}
