/** Firmware and its roll-outs: upload, begin, progress of each stage, pause, abort. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { App, Button, Form, Input, InputNumber, Modal, Select, Space, Tag } from "antd";
import { useState } from "react";
import { del, get, post, upload } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import { useModels } from "../api/queries.ts";
import type { Firmware, Rollout, RolloutDetail } from "../api/types.ts";
import { GroupSelect } from "../components/group-select.tsx";
import { OrgSelect, useOrgName } from "../components/org-select.tsx";
import { Nothing, PagedTable, PageHead } from "../components/page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "../components/problem.tsx";
import { Shares } from "../components/shares.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan, useSession } from "../session.tsx";
import { useSettings, useText } from "../settings.tsx";

const COLOURS: Record<string, string> = { running: "processing", paused: "warning", aborted: "error", done: "success" };
const STEPS: Record<string, string[]> = {
  draft: ["start", "abort"],
  running: ["pause", "retry", "abort"],
  paused: ["resume", "retry", "abort"],
  done: ["retry"],
};

export default function Rollouts() {
  const text = useText().ota;
  const format = useFormat();
  const can = useCan();
  const org = useOrgName();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const client = useQueryClient();
  const [dialog, setDialog] = useState<"upload" | "rollout" | null>(null);
  const rollouts = usePages<Rollout>("/rollouts", {}, { refetch: 3000 });
  const packages = usePages<Firmware>("/firmware");
  const maySteer = can("access.rollout.write");

  const step = (no: number, what: string): void => {
    const act = () =>
      post(`/rollouts/${no}/${what}`).then(() => client.invalidateQueries({ queryKey: ["/rollouts"] }), show);
    if (what === "abort") void modal.confirm({ title: text.steps.abort, content: text.abortConfirm, onOk: act });
    else void act();
  };

  return (
    <div className="page">
      <PageHead title={text.title}>
        <Space>
          {can("access.firmware.create") && <Button onClick={() => setDialog("upload")}>{text.upload}</Button>}
          {can("access.rollout.create") && (
            <Button type="primary" disabled={packages.items.length === 0} onClick={() => setDialog("rollout")}>
              {text.create}
            </Button>
          )}
        </Space>
      </PageHead>
      <PagedTable<Rollout>
        pages={rollouts}
        testid="rollouts"
        rowKey="no"
        scroll={{ x: 1120 }}
        expandable={{ expandedRowRender: ({ no }) => <Stages no={no} /> }}
        empty={<Nothing title={text.noRollouts} hint={text.hint} />}
        columns={[
          { title: "#", dataIndex: "no", width: 60 },
          { title: text.name, dataIndex: "name", width: 170, ellipsis: true },
          { title: text.firmware, key: "firmware", width: 150, render: (_: unknown, one) => `${one.title ?? "—"} ${one.version ?? ""}` },
          { title: text.org, dataIndex: "org", width: 110, render: (id: string) => org(id) },
          {
            title: text.state,
            dataIndex: "state",
            width: 100,
            render: (state: string) => <Tag color={COLOURS[state]}>{text.states[state]}</Tag>,
          },
          {
            title: text.progress,
            key: "progress",
            width: 140,
            render: (_: unknown, { counts }) => text.updatedOf(counts.updated ?? 0, Object.values(counts).reduce((sum, n) => sum + n, 0), counts.failed ?? 0),
          },
          { title: text.started, dataIndex: "started_at", width: 170, render: format.moment },
          {
            key: "actions",
            width: 190,
            align: "right",
            render: (_: unknown, { no, state, counts }) =>
              maySteer && (
                <Space wrap>
                  {(STEPS[state] ?? [])
                    .filter((what) => what !== "retry" || (counts.failed ?? 0) > 0)
                    .map((what) => (
                      <Button key={what} size="small" danger={what === "abort"} onClick={() => step(no, what)}>
                        {text.steps[what]}
                      </Button>
                    ))}
                </Space>
              ),
          },
        ]}
      />
      <h2 className="section-title">{text.packages}</h2>
      <PagedTable<Firmware>
        pages={packages}
        testid="firmware"
        rowKey="no"
        scroll={{ x: 1100 }}
        empty={<Nothing title={text.noPackages} />}
        columns={[
          { title: "#", dataIndex: "no", width: 60 },
          { title: text.name, dataIndex: "title", width: 200, ellipsis: true },
          { title: text.version, dataIndex: "version", width: 110 },
          { title: text.type, dataIndex: "type", width: 170 },
          { title: text.org, dataIndex: "org", width: 130, render: (id: string) => org(id) },
          { title: text.size, dataIndex: "size", width: 100, render: format.bytes },
          { title: "SHA-256", dataIndex: "sha256", width: 150, render: (sum: string) => <code title={sum}>{sum.slice(0, 12)}…</code> },
          { title: text.created, dataIndex: "created_at", width: 170, render: format.moment },
          {
            key: "actions",
            width: 90,
            align: "right",
            render: (_: unknown, { no, title, version }) =>
              can("access.firmware.delete") && (
                <Button
                  size="small"
                  onClick={() =>
                    void modal.confirm({
                      title: `${text.remove} ${title} ${version}`,
                      onOk: () =>
                        del(`/firmware/${no}`).then(() => client.invalidateQueries({ queryKey: ["/firmware"] }), show),
                    })
                  }
                >
                  {text.remove}
                </Button>
              ),
          },
        ]}
      />
      {dialog === "upload" && <Upload onClose={() => setDialog(null)} />}
      {dialog === "rollout" && <NewRollout packages={packages.items} onClose={() => setDialog(null)} />}
    </div>
  );
}

function Stages({ no }: { no: number }) {
  const text = useText().ota;
  const { language } = useSettings();
  const { data, error } = useQuery({
    queryKey: ["/rollouts", "one", no],
    queryFn: ({ signal }) => get<RolloutDetail>(`/rollouts/${no}`, undefined, signal),
    refetchInterval: 3000,
  });
  if (error) return <ProblemAlert error={error} />;
  if (!data) return null;
  const [, zh, en] = /^(.*) \((.*)\)$/s.exec(data.reason ?? "") ?? [];
  return (
    <div data-testid="stages">
      {data.reason && <p>{(language === "zh" ? zh : en) ?? data.reason}</p>}
      {data.stages.map((stage, at) => (
        <section key={stage.percent}>
          <h3 className="box-sub">
            {text.stage(at + 1, stage.percent)}
            {data.state === "running" && at + 1 === data.stage && <Tag className="stage-now" color="processing">{text.now}</Tag>}
          </h3>
          <Shares
            parts={[
              { label: text.devices.updated, count: stage.updated, tone: "ok" },
              { label: text.devices.told, count: stage.told, tone: "earth" },
              { label: text.devices.failed, count: stage.failed, tone: "bad" },
              { label: text.devices.withdrawn, count: stage.withdrawn, tone: "away" },
              { label: text.devices.waiting, count: stage.waiting, tone: "none" },
            ]}
          />
          <p className="muted">
            {text.gate(stage.wait_s, stage.updated_min, stage.failed_max, stage.silent_max)}
            {stage.silent > 0 && ` ${text.silent(stage.silent)}`}
          </p>
        </section>
      ))}
    </div>
  );
}

function Upload({ onClose }: { onClose(): void }) {
  const text = useText();
  const label = useLabel();
  const session = useSession();
  const models = useModels();
  const client = useQueryClient();
  const [form] = Form.useForm<Record<string, string>>();
  const [file, setFile] = useState<File | null>(null);
  const { error, busy, send } = useSending();

  const submit = (fields: Record<string, string>): void => {
    if (!file) return;
    send(upload("/firmware", fields, file), () => {
      void client.invalidateQueries({ queryKey: ["/firmware"] });
      onClose();
    });
  };

  return (
    <Modal open title={text.ota.upload} onCancel={onClose} onOk={() => form.submit()} okText={text.ota.upload} okButtonProps={{ disabled: !file }} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form form={form} layout="vertical" initialValues={{ org: session.user.org }} onFinish={submit}>
        <Form.Item name="org" label={text.ota.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
        <Form.Item name="type" label={text.ota.type} rules={[{ required: true }]}>
          <Select
            showSearch={{ optionFilterProp: "label" }}
            options={(models.data ?? []).map((model) => ({ value: model.type, label: label(model as never) }))}
          />
        </Form.Item>
        <div className="two">
          <Form.Item name="title" label={text.ota.name} rules={[{ required: true }]}>
            <Input spellCheck={false} />
          </Form.Item>
          <Form.Item name="version" label={text.ota.version} rules={[{ required: true }]}>
            <Input spellCheck={false} />
          </Form.Item>
        </div>
        <input type="file" aria-label={text.ota.file} onChange={(event) => setFile(event.target.files?.[0] ?? null)} />
      </Form>
    </Modal>
  );
}

interface Fields {
  firmware: number;
  name: string;
  q?: string;
  group?: number;
  stages: string[];
  wait_s: number;
  updated_min: number;
  failed_max: number;
  silent_max: number;
  device_s: number;
}

function NewRollout({ packages, onClose }: { packages: Firmware[]; onClose(): void }) {
  const { ota: text, life } = useText();
  const client = useQueryClient();
  const [form] = Form.useForm<Fields>();
  const { error, busy, send } = useSending();
  const numbers: [keyof Fields, string, number][] = [
    ["wait_s", text.waitS, 30 * 86400],
    ["updated_min", text.updatedMin, 100],
    ["failed_max", text.failedMax, 100],
    ["silent_max", text.silentMax, 100],
    ["device_s", text.deviceS, 30 * 86400],
  ];

  const submit = ({ firmware, name, q, group, stages, device_s, ...gate }: Fields): void => {
    const percents = stages.map(Number).sort((a, b) => a - b);
    const body = { firmware, name, q: q ?? "", group: group ?? null, device_s, stages: percents.map((percent) => ({ percent, ...gate })) };
    send(post("/rollouts", body), () => {
      void client.invalidateQueries({ queryKey: ["/rollouts"] });
      onClose();
    });
  };

  return (
    <Modal open title={text.create} onCancel={onClose} onOk={() => form.submit()} okText={text.prepare} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form<Fields>
        form={form}
        layout="vertical"
        onFinish={submit}
        initialValues={{
          firmware: packages[0]?.no,
          stages: ["1", "10", "50", "100"],
          wait_s: 600,
          updated_min: 95,
          failed_max: 5,
          silent_max: 5,
          device_s: 86400,
        }}
      >
        <Form.Item name="firmware" label={text.firmware} rules={[{ required: true }]}>
          <Select options={packages.map(({ no, title, version, type }) => ({ value: no, label: `${title} ${version} · ${type}` }))} />
        </Form.Item>
        <Form.Item name="name" label={text.name} rules={[{ required: true }]}>
          <Input />
        </Form.Item>
        <Form.Item name="q" label={text.part} extra={text.partHint}>
          <Input spellCheck={false} />
        </Form.Item>
        <Form.Item name="group" label={life.group}>
          <GroupSelect />
        </Form.Item>
        <Form.Item name="stages" label={text.percents} rules={[{ required: true }]}>
          <Select mode="tags" tokenSeparators={[",", " "]} />
        </Form.Item>
        <div className="two">
          {numbers.map(([name, title, most]) => (
            <Form.Item key={name} name={name} label={title} rules={[{ required: true }]}>
              <InputNumber min={name === "device_s" ? 1 : 0} max={most} style={{ width: "100%" }} />
            </Form.Item>
          ))}
        </div>
      </Form>
    </Modal>
  );
}
