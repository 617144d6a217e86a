/** One item: what it says, how it came here, and the steps that the reader may make. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Button, Drawer, Form, Grid, Input, Modal, Skeleton, Space, Tag, Timeline } from "antd";
import { useState } from "react";
import { get, post } from "../api/client.ts";
import type { Item, Transition, Workflow } from "../api/items.ts";
import { useFormat, person } from "../format.ts";
import { useSettings } from "../settings.tsx";
import { ItemFields, filled } from "./item-fields.tsx";
import { useOrgName } from "./org-select.tsx";
import { Facts } from "./page.tsx";
import { ProblemAlert, useSending } from "./problem.tsx";

export function ItemDrawer({ no, workflows, onClose }: { no: number; workflows: Workflow[]; onClose(): void }) {
  const { text, language } = useSettings();
  const format = useFormat();
  const org = useOrgName();
  const { md } = Grid.useBreakpoint();
  const [step, setStep] = useState<string | null>(null);
  const { data: item, error } = useQuery({
    queryKey: ["item", no],
    queryFn: ({ signal }) => get<Item>(`/items/${no}`, undefined, signal),
  });
  const workflow = workflows.find((one) => one.name === item?.workflow);
  const state = (name: string): string => workflow?.states[name]?.label[language] ?? name;
  const shown = (name: string, value: unknown): string => {
    const symbol = workflow?.fields[name]?.symbol;
    const said = typeof value === "boolean" ? (value ? "✓" : "✗") : typeof value === "object" ? JSON.stringify(value) : String(value);
    return symbol ? `${said} ${symbol}` : said;
  };
  const named = (name: string): string => workflow?.fields[name]?.label[language] ?? name;
  const transition = step === null ? undefined : workflow?.transitions[step];

  return (
    <Drawer open onClose={onClose} size={md ? 520 : "100%"} title={item?.title ?? text.items.title}>
      {error && <ProblemAlert error={error} />}
      {!item && !error && <Skeleton active />}
      {item && (
        <div data-testid="item">
          <Space wrap className="gap-below">
            <Tag color={item.final ? "default" : "processing"}>{state(item.state)}</Tag>
            {item.level > 0 && <Tag color="error">{text.items.escalated(item.level)}</Tag>}
            <span className="muted">
              {workflow?.label[language] ?? item.workflow} · {org(item.org)}
            </span>
          </Space>
          <Facts
            facts={[
              ...Object.entries(item.fields).map(([name, value]): [string, string] => [named(name), shown(name, value)]),
              ...(item.subject ? [[text.items.subject, item.subject] as [string, string]] : []),
              ...(item.assignee ? [[text.items.assignee, person(item.assignee)] as [string, string]] : []),
              ...(item.due_at ? [[text.items.due, format.moment(item.due_at)] as [string, string]] : []),
            ]}
          />
          {workflow && (item.may?.length ?? 0) > 0 && (
            <Space wrap className="gap-above gap-below">
              {item.may?.map((name, index) => (
                <Button key={name} type={index === 0 ? "primary" : "default"} data-transition={name} onClick={() => setStep(name)}>
                  {workflow.transitions[name]?.label[language] ?? name}
                </Button>
              ))}
            </Space>
          )}
          <h3 className="drawer-sub">{text.items.history}</h3>
          <Timeline
            items={[...(item.steps ?? [])].reverse().map((one) => ({
              key: one.number,
              content: (
                <div data-step={one.number}>
                  <div>
                    {one.transition ? (workflow?.transitions[one.transition]?.label[language] ?? one.transition) : text.items.created}
                    <span className="muted"> → {state(one.target)}</span>
                  </div>
                  <div className="muted">
                    {format.moment(one.at)} · {one.actor.startsWith("system:") ? text.items.house : person(one.actor)}
                  </div>
                  {one.number > 0 &&
                    Object.entries(one.fields).map(([name, value]) => (
                      <div key={name}>
                        {named(name)}: {shown(name, value)}
                      </div>
                    ))}
                  {one.comment && <p>{one.comment}</p>}
                </div>
              ),
            }))}
          />
          {workflow && step !== null && transition && (
            <StepForm item={item} workflow={workflow} name={step} transition={transition} onClose={() => setStep(null)} />
          )}
        </div>
      )}
    </Drawer>
  );
}

interface StepFormProps {
  item: Item;
  workflow: Workflow;
  name: string;
  transition: Transition;
  onClose(): void;
}

function StepForm({ item, workflow, name, transition, onClose }: StepFormProps) {
  const { text, language } = useSettings();
  const client = useQueryClient();
  const [form] = Form.useForm<{ comment?: string; fields?: Record<string, unknown> }>();
  const [key] = useState(() => crypto.randomUUID());
  const { error, busy, send } = useSending();
  return (
    <Modal open title={transition.label[language]} onCancel={onClose} onOk={() => form.submit()} okText={transition.label[language]} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        initialValues={{ fields: item.fields }}
        onFinish={({ comment, fields }) =>
          send(post<Item>(`/items/${item.no}/steps`, { transition: name, step: item.step, comment: comment ?? "", fields: filled(fields), key }), () => {
            void client.invalidateQueries({ queryKey: ["item", item.no] });
            void client.invalidateQueries({ queryKey: ["/items"] });
            onClose();
          })
        }
      >
        <ItemFields fields={workflow.fields} names={[...transition.needs, ...transition.asks]} needs={transition.needs} />
        <Form.Item name="comment" label={text.items.comment} rules={[{ required: transition.comment, whitespace: true }]}>
          <Input.TextArea rows={3} maxLength={4096} />
        </Form.Item>
      </Form>
    </Modal>
  );
}
