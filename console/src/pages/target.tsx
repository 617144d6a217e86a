/** One target: value, definitions, reports with a second person's decision, measurements. */
import { ArrowLeftOutlined, CheckOutlined, CloseOutlined, PlusOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { App, Button, DatePicker, Form, Input, InputNumber, Modal, Skeleton, Table, Tag, type TableColumnsType } from "antd";
import type { Dayjs } from "dayjs";
import { useEffect, useState } from "react";
import { Link, useParams } from "react-router";
import { get, path, post } from "../api/client.ts";
import type { Report, TargetDetail } from "../api/types.ts";
import { Nothing, PageHead } from "../components/page.tsx";
import { evidenceOf, EvidenceFields } from "../components/paper.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { Sparkline } from "../components/sparkline.tsx";
import { MetTag, TargetStateTag } from "../components/tags.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { TargetValue, useGoal, useUnit } from "./targets.tsx";

export default function TargetPage() {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const goal = useGoal();
  const can = useCan();
  const id = useParams()["id"] ?? "";
  const [reporting, setReporting] = useState(false);
  const target = useQuery({
    queryKey: ["plan", "target", id],
    queryFn: ({ signal }) => get<TargetDetail>(`/plan/targets/${encodeURIComponent(id)}`, undefined, signal),
  });
  const title = target.data && label(target.data as never, "title");
  useEffect(() => {
    if (title) document.title = `${title} · ${text.product}`;
  }, [title, text]);

  if (target.error)
    return (
      <div className="page">
        <PageHead title={text.plan.targets} />
        <ProblemAlert error={target.error} retry={() => void target.refetch()} />
      </div>
    );
  if (!target.data) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  const data = target.data;
  const note = label(data as never, "note");

  return (
    <div className="page">
      <div className="thing-head gap-below">
        <Link to="/plan/targets" aria-label={text.actions.back}>
          <ArrowLeftOutlined />
        </Link>
        <h1>{title}</h1>
        <TargetStateTag state={data.state} />
        <MetTag met={data.met} state={data.state} />
        <span className="spacer" />
        {can("plan.report.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setReporting(true)}>
            {text.plan.submitReport}
          </Button>
        )}
      </div>
      <div className="columns">
        <section className="panel box">
          <div className="target-row gap-below">
            <TargetValue target={data} />
            {data.trend.length > 1 && (
              <Sparkline points={data.trend} goal={data.goal} height={64} label={text.plan.trend} />
            )}
          </div>
          <dl className="facts">
            <Fact name={text.plan.goal}>{goal(data)}</Fact>
            <Fact name={text.plan.deadline}>{format.day(data.deadline)}</Fact>
            <Fact name={text.plan.asOf}>{format.moment(data.as_of)}</Fact>
            {data.lead && <Fact name={text.plan.agencies}>{label(data.lead as never, "name")}</Fact>}
            <Fact name={text.plan.task}>
              <Link to={`/plan/tasks/${data.task}`}>{data.task}</Link> · {data.systems.join(text.comma)}
            </Fact>
            <Fact name={text.plan.why}>{label(data as never, "why")}</Fact>
          </dl>
        </section>
        <section className="panel box">
          <h2>
            {text.plan.query} <span className="muted">v{data.version}</span>
          </h2>
          {note && <p className="gap-below">{note}</p>}
          <pre className="raw">{data.query}</pre>
          <h2 className="gap-above">{text.plan.definitions}</h2>
          <table className="plain-table">
            <thead>
              <tr>
                <th scope="col">{text.plan.version}</th>
                <th scope="col">{text.plan.since}</th>
                <th scope="col">{text.plan.by}</th>
              </tr>
            </thead>
            <tbody>
              {data.definitions.map((one) => (
                <tr key={one.version} title={one.query}>
                  <td>v{one.version}</td>
                  <td>{format.moment(one.since)}</td>
                  <td>{one.by}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      </div>
      <Reports target={data} />
      <section className="panel box gap-above">
        <h2>{text.plan.measurements}</h2>
        <Measurements rows={data.measurements} />
      </section>
      {reporting && <ReportForm target={data} onClose={() => setReporting(false)} />}
    </div>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

const COLOURS: Record<string, string> = { submitted: "processing", approved: "success", rejected: "default" };

function Reports({ target }: { target: TargetDetail }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const unit = useUnit()(target);
  const client = useQueryClient();
  const [deciding, setDeciding] = useState<{ report: Report; verdict: "approve" | "reject" } | null>(null);
  const [note, setNote] = useState("");
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const mayDecide = can("plan.report.approve");

  const decide = async (): Promise<void> => {
    if (!deciding) return;
    setBusy(true);
    setError(null);
    try {
      await post(`/plan/reports/${deciding.report.id}/${deciding.verdict}`, { note });
      await client.invalidateQueries({ queryKey: ["plan"] });
      setDeciding(null);
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  const columns: TableColumnsType<Report> = [
    {
      title: text.plan.state,
      dataIndex: "state",
      width: 100,
      render: (state: string) => <Tag color={COLOURS[state]}>{text.plan.reportState[state] ?? state}</Tag>,
    },
    {
      title: text.plan.reportValue,
      dataIndex: "value",
      align: "right",
      width: 140,
      render: (value: number) => (
        <>
          {format.decimal(Number(value))} <span className="muted">{unit}</span>
        </>
      ),
    },
    { title: text.plan.asOf, dataIndex: "as_of", width: 110, render: format.day },
    {
      title: text.plan.evidence,
      key: "evidence",
      width: 320,
      render: (_: unknown, report) => (
        <>
          {report.evidence_text}
          {report.evidence_name && (
            <>
              {" "}
              <a href={path(`/plan/reports/${report.id}/evidence`)} download>
                {report.evidence_name}
              </a>
            </>
          )}
        </>
      ),
    },
    {
      title: text.plan.submittedBy,
      key: "by",
      width: 160,
      render: (_: unknown, report) => (
        <>
          {report.submitted_name ?? report.submitted_by}
          <div className="muted">{format.moment(report.submitted_at)}</div>
        </>
      ),
    },
    {
      title: text.plan.decidedBy,
      key: "decided",
      width: 200,
      render: (_: unknown, report) =>
        report.decided_by ? (
          <>
            {report.decided_name ?? report.decided_by}
            {report.note && <> · {report.note}</>}
            <div className="muted">{format.moment(report.decided_at)}</div>
          </>
        ) : (
          report.state === "submitted" &&
          mayDecide && (
            <span className="target-tags">
              <Button size="small" type="primary" icon={<CheckOutlined />} onClick={() => start(report, "approve")}>
                {text.plan.approve}
              </Button>
              <Button size="small" icon={<CloseOutlined />} onClick={() => start(report, "reject")}>
                {text.plan.reject}
              </Button>
            </span>
          )
        ),
    },
  ];
  const start = (report: Report, verdict: "approve" | "reject"): void => {
    setNote("");
    setError(null);
    setDeciding({ report, verdict });
  };

  return (
    <section className="panel box gap-above">
      <h2>
        {text.plan.reports} <span className="muted box-note">{text.plan.secondPerson}</span>
      </h2>
      <Table<Report>
        size="middle"
        rowKey="id"
        columns={columns}
        dataSource={target.reports}
        pagination={target.reports.length > 20 ? { pageSize: 20 } : false}
        scroll={{ x: 1030 }}
        locale={{ emptyText: <Nothing title={text.empty.reports} /> }}
      />
      <Modal
        open={deciding !== null}
        title={deciding?.verdict === "approve" ? text.plan.approve : text.plan.reject}
        onCancel={() => setDeciding(null)}
        onOk={() => void decide()}
        okText={deciding?.verdict === "approve" ? text.plan.approve : text.plan.reject}
        okButtonProps={{ danger: deciding?.verdict === "reject" }}
        confirmLoading={busy}
      >
        {error !== null && (
          <div className="gap-below">
            <ProblemAlert error={error} />
          </div>
        )}
        {deciding && (
          <p className="gap-below">
            {format.decimal(Number(deciding.report.value))} {unit} · {text.plan.asOfAt(format.day(deciding.report.as_of))}
            <br />
            <span className="muted">{deciding.report.evidence_text}</span>
          </p>
        )}
        <Input.TextArea
          rows={3}
          value={note}
          onChange={(event) => setNote(event.target.value)}
          placeholder={text.plan.note}
          aria-label={text.plan.note}
          maxLength={4000}
        />
      </Modal>
    </section>
  );
}

function Measurements({ rows }: { rows: TargetDetail["measurements"] }) {
  const text = useText();
  const format = useFormat();
  if (rows.length === 0) return <Nothing title={text.empty.measurements} />;
  const names = Object.keys(rows[0]!);
  const title = (name: string): string =>
    ({ as_of: text.plan.asOf, value: text.plan.value, version: text.plan.version })[name] ??
    (text.plan.measured as Record<string, string>)[name] ??
    name;
  return (
    <Table
      size="small"
      rowKey={(row) => String(row["as_of"] ?? row["at"])}
      dataSource={rows}
      pagination={rows.length > 10 ? { pageSize: 10, showSizeChanger: false } : false}
      scroll={{ x: 620 }}
      columns={names.map((name) => ({
        title: title(name),
        dataIndex: name,
        align: name === "as_of" || name === "newest" ? "left" : "right",
        render: (value: unknown) =>
          name === "as_of" || name === "newest"
            ? format.moment(value as string | null)
            : name === "version"
              ? `v${String(value)}`
              : format.scalar(value as number | null),
      }))}
    />
  );
}

function ReportForm({ target, onClose }: { target: TargetDetail; onClose(): void }) {
  const text = useText();
  const unit = useUnit()(target);
  const client = useQueryClient();
  const { message } = App.useApp();
  const [form] = Form.useForm();
  const [file, setFile] = useState<File | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);

  const submit = async (values: { value: number; as_of: Dayjs; evidence_text: string }): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      // The day ends in Fujian; of today, only what has passed.
      const end = new Date(`${values.as_of.format("YYYY-MM-DD")}T23:59:59+08:00`).getTime();
      await post(`/plan/targets/${encodeURIComponent(target.id)}/reports`, {
        value: values.value,
        as_of: new Date(Math.min(end, Date.now() - 1000)).toISOString(),
        evidence_text: values.evidence_text,
        ...(await evidenceOf(file)),
      });
      await client.invalidateQueries({ queryKey: ["plan"] });
      void message.success(text.plan.submitted);
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
      title={text.plan.submitReport}
      onCancel={onClose}
      onOk={() => form.submit()}
      okText={text.actions.submit}
      confirmLoading={busy}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form form={form} layout="vertical" onFinish={(values) => void submit(values)}>
        <div className="two">
          <Form.Item name="value" label={text.plan.reportValue} rules={[{ required: true }]}>
            <InputNumber style={{ width: "100%" }} suffix={unit} />
          </Form.Item>
          <Form.Item name="as_of" label={text.plan.asOf} rules={[{ required: true }]}>
            <DatePicker style={{ width: "100%" }} disabledDate={(day) => day.valueOf() > Date.now()} />
          </Form.Item>
        </div>
        <EvidenceFields rows={4} placeholder={text.plan.evidenceHint} file={file} onChoose={setFile} />
      </Form>
    </Modal>
  );
}
