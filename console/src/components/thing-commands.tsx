/** What a device is told: a form for each of its methods, and what became of the commands. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { AutoComplete, Button, Form, Input, InputNumber, Select, Switch, Table, Tag } from "antd";
import { useState } from "react";
import { del, get, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Command, CommandState, Device, Methods, Schema } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useSettings, useText } from "../settings.tsx";
import { Facts, More, Nothing } from "./page.tsx";
import { ProblemAlert, useShowProblem } from "./problem.tsx";
import { Raw } from "./raw.tsx";
import { ThingShadow } from "./thing-shadow.tsx";

const COLOURS: Record<CommandState, string> = {
  waiting: "default",
  sent: "processing",
  delivered: "processing",
  done: "success",
  failed: "error",
  expired: "warning",
  cancelled: "default",
};
const OPEN: CommandState[] = ["waiting", "sent", "delivered"];
const EXPIRY = [60, 3600, 86_400, 604_800] as const;

export function ThingCommands({ device }: { device: Device }) {
  const can = useCan();
  return (
    <>
      {can("access.command.write") && <NewCommand device={device} />}
      <Sent device={device} />
      {can("access.shadow.read") && <ThingShadow device={device} />}
    </>
  );
}

function Sent({ device }: { device: Device }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const show = useShowProblem();
  const sent = usePages<Command>(`/devices/${encodeURIComponent(device.id)}/commands`, {}, { limit: 20, refetch: 2000 });
  if (sent.error) return <ProblemAlert error={sent.error} retry={() => void sent.refetch()} />;
  return (
    <div className="panel gap-above" data-testid="commands">
      <Table<Command>
        size="middle"
        rowKey="no"
        loading={sent.isLoading}
        dataSource={sent.items}
        pagination={false}
        scroll={{ x: 720 }}
        locale={{ emptyText: <Nothing title={text.commands.none} hint={text.commands.noneHint} /> }}
        expandable={{ expandedRowRender: (one) => <Told one={one} />, expandRowByClick: true }}
        columns={[
          { title: text.commands.created, dataIndex: "created_at", width: 180, render: format.moment },
          { title: text.commands.method, dataIndex: "method", render: (name: string) => <span className="mono">{name}</span> },
          {
            title: text.commands.state,
            dataIndex: "state",
            width: 110,
            render: (state: CommandState) => <Tag color={COLOURS[state]}>{text.commands.states[state]}</Tag>,
          },
          {
            title: text.commands.outcome,
            key: "outcome",
            ellipsis: true,
            render: (_, one) =>
              one.error ?? (one.result === null ? "" : <span className="mono">{JSON.stringify(one.result).slice(0, 200)}</span>),
          },
          { title: text.commands.attempts, dataIndex: "attempts", width: 80, align: "right" },
          {
            key: "cancel",
            width: 90,
            align: "right",
            render: (_, one) =>
              OPEN.includes(one.state) &&
              can("access.command.write") && (
                <Button
                  size="small"
                  onClick={(event) => {
                    event.stopPropagation();
                    del(`/commands/${one.no}`).then(() => sent.refetch(), show);
                  }}
                >
                  {text.commands.cancel}
                </Button>
              ),
          },
        ]}
      />
      <More {...sent} />
    </div>
  );
}

/** One command with its parameters, times and result. */
function Told({ one }: { one: Command }) {
  const text = useText().commands;
  const format = useFormat();
  const facts: [string, string | null][] = [
    [text.number, String(one.no)],
    [text.by, one.created_by],
    [text.bearer, text.bearers[one.bearer] ?? one.bearer],
    [text.sent, one.sent_at && format.moment(one.sent_at)],
    [text.delivered, one.delivered_at && format.moment(one.delivered_at)],
    [text.ended, one.ended_at && format.moment(one.ended_at)],
    [text.expires, format.moment(one.expires_at)],
  ];
  return (
    <div>
      <Facts facts={facts} />
      <h3 className="box-sub">{text.params}</h3>
      <Raw raw={JSON.stringify(one.params)} encoding="utf-8" />
      {one.result !== null && (
        <>
          <h3 className="box-sub">{text.result}</h3>
          <Raw raw={JSON.stringify(one.result)} encoding="utf-8" />
        </>
      )}
    </div>
  );
}

interface Fields {
  what: string;
  method?: string;
  json?: string;
  params?: Record<string, unknown>;
  expires: number;
  answer: boolean;
}

/** The schema under an optional value. */
const inner = (schema: Schema): Schema => ({ ...schema, ...schema.anyOf?.find(({ type }) => type !== "null") });
const simple = (schema: Schema): boolean =>
  Boolean(schema.enum) || ["string", "number", "integer", "boolean"].includes(schema.type ?? "");

function NewCommand({ device }: { device: Device }) {
  const text = useText().commands;
  const { language } = useSettings();
  const client = useQueryClient();
  const [form] = Form.useForm<Fields>();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const at = `/devices/${encodeURIComponent(device.id)}`;
  const { data } = useQuery({ queryKey: ["methods", device.id], queryFn: ({ signal }) => get<Methods>(`${at}/methods`, undefined, signal) });
  const what = Form.useWatch("what", form);
  if (!data) return null;
  const known = Object.entries(data).flatMap(([bearer, methods]) =>
    Object.entries(methods ?? {}).map(([name, method]) => ({ bearer, name, ...method })),
  );
  const chosen = known.find(({ bearer, name }) => `${bearer} ${name}` === what);
  const shown = Object.entries(chosen?.schema.properties ?? {}).map(([name, schema]) => [name, inner(schema)] as const);
  const byForm = chosen !== undefined && shown.every(([, schema]) => simple(schema));
  const groups = Object.entries(data).map(([bearer, methods]) => ({
    label: text.bearers[bearer] ?? bearer,
    options: methods
      ? Object.entries(methods).map(([name, { label }]) => ({ value: `${bearer} ${name}`, label: label[language] }))
      : [{ value: bearer, label: text.anyMethod }],
  }));
  const first = known[0] ? `${known[0].bearer} ${known[0].name}` : "json";

  const send = (fields: Fields): void => {
    let params: unknown = {};
    if (byForm) params = Object.fromEntries(Object.entries(fields.params ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== ""));
    else if (fields.json?.trim()) {
      try {
        params = JSON.parse(fields.json);
      } catch (problem) {
        form.setFields([{ name: "json", errors: [`${text.notJson}: ${(problem as Error).message}`] }]);
        return;
      }
    }
    setBusy(true);
    setError(null);
    post(`${at}/commands`, {
      method: chosen?.name ?? fields.method,
      bearer: chosen?.bearer ?? "json",
      params,
      expires_s: fields.expires,
      ...(chosen ? {} : { answer: fields.answer }),
    })
      .then(() => client.invalidateQueries({ queryKey: [`${at}/commands`] }), setError)
      .finally(() => setBusy(false));
  };

  return (
    <div className="panel box" data-testid="new-command">
      <h2>{text.create}</h2>
      {error !== null && <ProblemAlert error={error} />}
      <Form<Fields> form={form} layout="vertical" onFinish={send} initialValues={{ what: first, expires: 60, answer: true }}>
        <div className="command-fields">
          <Form.Item name="what" label={text.method}>
            <Select options={groups} showSearch={{ optionFilterProp: "label" }} popupMatchSelectWidth={false} />
          </Form.Item>
          {!chosen && (
            <Form.Item name="method" label={text.methodName} rules={[{ required: true }]}>
              <AutoComplete className="mono" options={[{ value: "reboot" }]} />
            </Form.Item>
          )}
          {byForm &&
            shown.map(([name, schema]) => (
              <Form.Item
                key={`${what} ${name}`}
                name={["params", name]}
                label={`${(language === "en" ? schema.title_en : undefined) ?? schema.title ?? name}${schema.unit ? ` (${schema.unit})` : ""}`}
                extra={schema.description}
                initialValue={schema.default ?? undefined}
                rules={[{ required: chosen.schema.required?.includes(name) ?? false }]}
                valuePropName={schema.type === "boolean" ? "checked" : "value"}
              >
                <Field schema={schema} />
              </Form.Item>
            ))}
          <Form.Item name="expires" label={text.expiry}>
            <Select options={EXPIRY.map((value) => ({ value, label: text.spans[value] }))} />
          </Form.Item>
          {!chosen && (
            <Form.Item name="answer" label={text.answer} valuePropName="checked">
              <Switch />
            </Form.Item>
          )}
        </div>
        {!byForm && (
          <Form.Item name="json" label={text.paramsJson} extra={chosen && shown.map(([name]) => name).join(", ")}>
            <Input.TextArea className="mono" autoSize={{ minRows: 2, maxRows: 12 }} spellCheck={false} placeholder="{}" />
          </Form.Item>
        )}
        <Button type="primary" htmlType="submit" loading={busy}>
          {text.send}
        </Button>
      </Form>
    </div>
  );
}

function Field({ schema, ...rest }: { schema: Schema; id?: string }) {
  if (schema.enum) return <Select {...rest} options={schema.enum.map((value) => ({ value, label: value }))} />;
  if (schema.type === "boolean") return <Switch {...rest} />;
  if (schema.type === "string") return <Input {...rest} spellCheck={false} />;
  return (
    <InputNumber {...rest} style={{ width: "100%" }} min={schema.minimum} max={schema.maximum} precision={schema.type === "integer" ? 0 : undefined} />
  );
}
