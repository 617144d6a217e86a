/** What a device is to be, and whether it is. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Button, Form, Input, Table, Tag } from "antd";
import { useState } from "react";
import { get, patch } from "../api/client.ts";
import type { Device, Shadow } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { ProblemAlert, useShowProblem } from "./problem.tsx";

/** A value as it is typed: JSON where it is JSON, else text. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const shown = (value: unknown): string => (value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));

export function ThingShadow({ device }: { device: Device }) {
  const text = useText().shadow;
  const format = useFormat();
  const can = useCan();
  const show = useShowProblem();
  const client = useQueryClient();
  const [form] = Form.useForm<{ name: string; value: string }>();
  const [busy, setBusy] = useState(false);
  const at = `/devices/${encodeURIComponent(device.id)}/shadow`;
  const shadow = useQuery({ queryKey: [at], queryFn: ({ signal }) => get<Shadow>(at, undefined, signal), refetchInterval: 2000 });
  if (shadow.error) return <ProblemAlert error={shadow.error} retry={() => void shadow.refetch()} />;
  const writes = can("access.shadow.write");
  const { desired = {}, reported = {}, delta = {} } = shadow.data ?? {};
  const names = Object.keys(desired).sort();
  const change = (values: Record<string, unknown>): Promise<boolean> => {
    setBusy(true);
    return patch<Shadow>(at, { desired: values, version: shadow.data?.version })
      .then((now) => {
        client.setQueryData([at], now);
        return true;
      })
      .catch((problem: unknown) => {
        show(problem);
        return false;
      })
      .finally(() => setBusy(false));
  };
  if (!names.length && !writes) return null;
  return (
    <div className="panel box gap-above" data-testid="shadow">
      <h2>{text.title}</h2>
      <p className="muted">
        {text.hint}
        {shadow.data?.changed_at && ` ${text.changed(format.moment(shadow.data.changed_at), shadow.data.changed_by ?? "")}`}
      </p>
      {names.length > 0 && (
        <Table<string>
          size="small"
          rowKey={(name) => name}
          dataSource={names}
          pagination={false}
          scroll={{ x: 480 }}
          columns={[
            { title: text.name, key: "name", render: (_, name) => <span className="mono">{name}</span> },
            { title: text.desired, key: "desired", render: (_, name) => <span className="mono">{shown(desired[name])}</span> },
            { title: text.reported, key: "reported", render: (_, name) => <span className="mono">{shown(reported[name])}</span> },
            {
              title: text.state,
              key: "state",
              width: 110,
              render: (_, name) => (name in delta ? <Tag color="warning">{text.differs}</Tag> : <Tag color="success">{text.same}</Tag>),
            },
            {
              key: "remove",
              width: 90,
              align: "right",
              render: (_, name) =>
                writes && (
                  <Button size="small" disabled={busy} onClick={() => void change({ [name]: null })}>
                    {text.remove}
                  </Button>
                ),
            },
          ]}
        />
      )}
      {writes && (
        <Form
          form={form}
          layout="inline"
          className="gap-above inline-form"
          onFinish={({ name, value }) => void change({ [name]: parsed(value) }).then((done) => done && form.resetFields())}
        >
          <Form.Item name="name" rules={[{ required: true, message: text.name }]}>
            <Input className="mono" placeholder={text.name} aria-label={text.name} spellCheck={false} />
          </Form.Item>
          <Form.Item name="value" rules={[{ required: true, message: text.desired }]}>
            <Input className="mono" placeholder={text.desired} aria-label={text.desired} spellCheck={false} />
          </Form.Item>
          <Button htmlType="submit" loading={busy}>
            {text.set}
          </Button>
        </Form>
      )}
    </div>
  );
}
