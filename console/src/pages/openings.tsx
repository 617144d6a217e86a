/** What organisations open to others: facilities to share, the nearest first, and scenarios; applications, reviews, decisions. */
import { PlusOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Button, Drawer, Form, Grid, Input, InputNumber, Modal, Select, Skeleton, Table, Tag } from "antd";
import { useState } from "react";
import { useSearchParams } from "react-router";
import { get, path, post } from "../api/client.ts";
import type { Paper } from "../api/plan.ts";
import { changed } from "../api/search.ts";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Facts, Nothing, PageHead } from "../components/page.tsx";
import { Decide, evidenceOf, EvidenceFields, Signatures } from "../components/paper.tsx";
import { ProblemAlert, useSending } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useSettings } from "../settings.tsx";

const KINDS = ["tower", "duct", "pole", "room", "site", "scenario"];

interface Opening {
  no: number;
  org: string;
  kind: string;
  title: string;
  text: string;
  places: number;
  free: number;
  reviews: number;
  lon: number | null;
  lat: number | null;
  closes: string | null;
  closed: boolean;
  distance_m?: number;
}

interface Application extends Paper {
  no: number;
  org: string;
  state: "submitted" | "accepted" | "refused" | "ended";
  reviews: { name: string; score: number; text: string; at: string }[];
  mean: number | null;
}

type OpeningDetail = Opening & { applications: Application[]; may_decide: boolean };

export default function Openings() {
  const { text } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const can = useCan();
  const [params, setParams] = useSearchParams();
  const [adding, setAdding] = useState(false);
  const set = (changes: Record<string, string | null | undefined>): void => setParams(changed(params, changes), { replace: true });
  const kind = params.get("kind") ?? undefined;
  const near = params.get("near") ?? "";
  const [typed, setTyped] = useState(near);
  const open = Number(params.get("opening")) || null;
  const found = useQuery({
    queryKey: ["plan", "openings", kind, near],
    queryFn: async ({ signal }) => (await get<{ items: Opening[] }>("/plan/openings", { kind, near, within_km: near ? 50 : null, limit: 500 }, signal)).items,
  });
  return (
    <div className="page">
      <PageHead title={text.openings.title} note={text.openings.note}>
        {can("plan.opening.create") && (
          <Button type="primary" icon={<PlusOutlined />} onClick={() => setAdding(true)}>
            {text.openings.add}
          </Button>
        )}
      </PageHead>
      <div className="filters">
        <Select
          className="filter-wide"
          allowClear
          aria-label={text.openings.kind}
          placeholder={text.openings.kind}
          value={kind}
          onChange={(value: string | undefined) => set({ kind: value })}
          options={KINDS.map((value) => ({ value, label: text.openings.kinds[value] }))}
        />
        <Input.Search
          className="filter-wide"
          allowClear
          aria-label={text.openings.near}
          placeholder={text.openings.near}
          value={typed}
          onChange={(event) => setTyped(event.target.value)}
          onSearch={(value) => set({ near: value.replace("，", ",").trim() })}
        />
      </div>
      {found.error && <ProblemAlert error={found.error} retry={() => void found.refetch()} />}
      <div className="panel table-wrap" data-testid="openings">
        <Table<Opening>
          size="middle"
          rowKey="no"
          loading={found.isLoading}
          dataSource={found.data ?? []}
          pagination={(found.data?.length ?? 0) > 50 ? { pageSize: 50, showSizeChanger: false } : false}
          scroll={{ x: 820 }}
          locale={{ emptyText: <Nothing title={text.openings.none} /> }}
          columns={[
            {
              title: text.openings.name,
              dataIndex: "title",
              render: (title: string, one) => (
                <Button type="link" className="link-cell" onClick={() => set({ opening: String(one.no) })}>
                  {title}
                </Button>
              ),
            },
            { title: text.openings.kind, dataIndex: "kind", width: 110, render: (value: string) => text.openings.kinds[value] },
            { title: text.projects.org, dataIndex: "org", width: 210, render: (id: string) => org(id) },
            { title: text.openings.free, key: "free", width: 110, align: "right", render: (_: unknown, one) => `${one.free} / ${one.places}` },
            {
              title: text.openings.distance,
              dataIndex: "distance_m",
              width: 120,
              align: "right",
              render: (metres?: number) => (metres === undefined ? "—" : `${format.decimal(Math.round(metres / 10) / 100)} km`),
            },
            { title: text.openings.closes, dataIndex: "closes", width: 120, render: (at: string | null) => (at ? format.day(at) : "—") },
          ]}
        />
      </div>
      {open !== null && <Detail key={open} no={open} onClose={() => set({ opening: null })} />}
      {adding && <NewOpening onClose={() => setAdding(false)} />}
    </div>
  );
}

const COLOURS = { submitted: "processing", accepted: "success", refused: "default", ended: "default" } as const;

function Detail({ no, onClose }: { no: number; onClose(): void }) {
  const { text } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const can = useCan();
  const { md } = Grid.useBreakpoint();
  const client = useQueryClient();
  const [deciding, setDeciding] = useState<{ of: Application; accepted: boolean } | null>(null);
  const [reviewing, setReviewing] = useState<Application | null>(null);
  const [applying, setApplying] = useState(false);
  const { data, error } = useQuery({
    queryKey: ["plan", "opening", no],
    queryFn: ({ signal }) => get<OpeningDetail>(`/plan/openings/${no}`, undefined, signal),
  });
  const again = (): Promise<void> => client.invalidateQueries({ queryKey: ["plan"] });
  return (
    <Drawer open onClose={onClose} size={md ? 560 : "100%"} title={data?.title ?? text.openings.title}>
      {error && <ProblemAlert error={error} />}
      {!data && !error && <Skeleton active />}
      {data && (
        <div data-testid="opening">
          <Facts
            facts={[
              [text.openings.kind, text.openings.kinds[data.kind]],
              [text.projects.org, org(data.org)],
              [text.openings.free, `${data.free} / ${data.places}`],
              [text.projects.place, data.lon !== null && `${data.lon}, ${data.lat}`],
              [text.openings.reviewsNeeded, data.reviews > 0 && String(data.reviews)],
              [text.openings.closes, data.closes && format.moment(data.closes)],
              [text.openings.text, data.text],
            ]}
          />
          {can("plan.application.create") && !data.closed && (
            <Button type="primary" className="gap-above" onClick={() => setApplying(true)}>
              {text.openings.apply}
            </Button>
          )}
          <h2 className="section-title">{text.openings.applications}</h2>
          {data.applications.length === 0 && <Nothing title={text.openings.noApplications} />}
          {data.applications.map((one) => (
            <article key={one.no} className="appeal">
              <strong>{org(one.org)}</strong> <Tag color={COLOURS[one.state]}>{text.openings.states[one.state]}</Tag>
              {one.mean !== null && <Tag>{text.openings.mean(one.mean, one.reviews.length)}</Tag>}
              <p>{one.evidence_text}</p>
              {one.evidence_name && (
                <a href={path(`/plan/applications/${one.no}/evidence`)} download>
                  {one.evidence_name}
                </a>
              )}
              <ul>
                {one.reviews.map((review) => (
                  <li key={review.name + review.at}>
                    {review.name} · <strong>{review.score}</strong> · {review.text}
                  </li>
                ))}
              </ul>
              <div className="muted">
                <Signatures paper={one} />
              </div>
              <span className="row-actions">
                {one.state === "submitted" && data.may_decide && (
                  <>
                    <Button size="small" onClick={() => setReviewing(one)}>
                      {text.openings.review}
                    </Button>
                    <Button size="small" type="primary" onClick={() => setDeciding({ of: one, accepted: true })}>
                      {text.openings.accept}
                    </Button>
                    <Button size="small" onClick={() => setDeciding({ of: one, accepted: false })}>
                      {text.plan.reject}
                    </Button>
                  </>
                )}
                {one.state === "accepted" && can("plan.application.create") && (
                  <Button size="small" onClick={() => void post(`/plan/applications/${one.no}/end`).then(again)}>
                    {text.openings.end}
                  </Button>
                )}
              </span>
            </article>
          ))}
        </div>
      )}
      {deciding && (
        <Decide
          title={deciding.accepted ? text.openings.accept : text.plan.reject}
          danger={!deciding.accepted}
          needsNote={!deciding.accepted}
          onClose={() => setDeciding(null)}
          onDecide={(note) => post(`/plan/applications/${deciding.of.no}/${deciding.accepted ? "accept" : "refuse"}`, { note }).then(again)}
        />
      )}
      {reviewing && <Review of={reviewing} again={again} onClose={() => setReviewing(null)} />}
      {applying && data && <Apply no={data.no} again={again} onClose={() => setApplying(false)} />}
    </Drawer>
  );
}

interface FormProps {
  again(): Promise<unknown>;
  onClose(): void;
}

function Review({ of, again, onClose }: FormProps & { of: Application }) {
  const { text } = useSettings();
  const [form] = Form.useForm<{ score: number; text: string }>();
  const { error, busy, send } = useSending();
  return (
    <Modal open title={text.openings.review} okText={text.actions.submit} confirmLoading={busy} onOk={() => form.submit()} onCancel={onClose}>
      {error !== null && <ProblemAlert error={error} />}
      <Form form={form} layout="vertical" onFinish={(values) => send(post(`/plan/applications/${of.no}/reviews`, values), () => again().then(onClose))}>
        <Form.Item name="score" label={text.openings.score} rules={[{ required: true }]}>
          <InputNumber min={0} max={100} precision={0} />
        </Form.Item>
        <Form.Item name="text" label={text.plan.note} rules={[{ required: true, whitespace: true }]}>
          <Input.TextArea rows={3} maxLength={4000} />
        </Form.Item>
      </Form>
    </Modal>
  );
}

function Apply({ no, again, onClose }: FormProps & { no: number }) {
  const { text } = useSettings();
  const session = useSession();
  const [form] = Form.useForm<{ org: string; evidence_text: string }>();
  const [file, setFile] = useState<File | null>(null);
  const { error, busy, send } = useSending();
  const submit = async (values: { org: string; evidence_text: string }): Promise<unknown> =>
    post(`/plan/openings/${no}/applications`, { ...values, ...(await evidenceOf(file)) });
  return (
    <Modal open title={text.openings.apply} okText={text.actions.submit} confirmLoading={busy} onOk={() => form.submit()} onCancel={onClose}>
      {error !== null && <ProblemAlert error={error} />}
      <Form form={form} layout="vertical" initialValues={{ org: session.user.org }} onFinish={(values) => send(submit(values), () => again().then(onClose))}>
        <Form.Item name="org" label={text.openings.applicant} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <EvidenceFields label={text.openings.proposal} rows={4} file={file} onChoose={setFile} />
      </Form>
    </Modal>
  );
}

function NewOpening({ onClose }: { onClose(): void }) {
  const { text } = useSettings();
  const session = useSession();
  const client = useQueryClient();
  const [form] = Form.useForm<Record<string, unknown>>();
  const kind = (Form.useWatch("kind", form) as string | undefined) ?? "pole";
  const { error, busy, send } = useSending();
  return (
    <Modal open title={text.openings.add} okText={text.actions.create} confirmLoading={busy} onOk={() => form.submit()} onCancel={onClose}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org, kind: "pole", places: 1, reviews: 2 }}
        onFinish={({ reviews, ...values }) =>
          send(post("/plan/openings", { ...values, reviews: kind === "scenario" ? reviews : 0 }), () =>
            client.invalidateQueries({ queryKey: ["plan"] }).then(onClose),
          )
        }
      >
        <Form.Item name="title" label={text.openings.name} rules={[{ required: true, whitespace: true }]}>
          <Input maxLength={200} />
        </Form.Item>
        <div className="two">
          <Form.Item name="kind" label={text.openings.kind} rules={[{ required: true }]}>
            <Select options={KINDS.map((value) => ({ value, label: text.openings.kinds[value] }))} />
          </Form.Item>
          <Form.Item name="org" label={text.projects.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="places" label={text.openings.places} rules={[{ required: true }]}>
            <InputNumber className="wide" min={1} precision={0} />
          </Form.Item>
          {kind === "scenario" && (
            <Form.Item name="reviews" label={text.openings.reviewsNeeded} rules={[{ required: true }]}>
              <InputNumber className="wide" min={2} precision={0} />
            </Form.Item>
          )}
        </div>
        <div className="two">
          <Form.Item name="lon" label={text.projects.lon} rules={[{ required: kind !== "scenario" }]}>
            <InputNumber className="wide" min={-180} max={180} />
          </Form.Item>
          <Form.Item name="lat" label={text.projects.lat} rules={[{ required: kind !== "scenario" }]}>
            <InputNumber className="wide" min={-90} max={90} />
          </Form.Item>
        </div>
        <Form.Item name="text" label={text.openings.text}>
          <Input.TextArea autoSize={{ minRows: 2, maxRows: 6 }} maxLength={4000} />
        </Form.Item>
      </Form>
    </Modal>
  );
}
