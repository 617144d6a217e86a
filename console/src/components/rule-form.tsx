/** Make or change a rule of an organisation. */
import { Form, Input, InputNumber, Modal, Segmented, Select, Switch } from "antd";
import { useState } from "react";
import { post, put } from "../api/client.ts";
import { useModels } from "../api/queries.ts";
import type { Condition, Rule } from "../api/types.ts";
import { useLabel } from "../format.ts";
import { useSession } from "../session.tsx";
import { useText } from "../settings.tsx";
import { OrgSelect } from "./org-select.tsx";
import { ProblemAlert } from "./problem.tsx";

const KINDS = ["threshold", "rate", "absence", "geofence", "expression"] as const;
const SEVERITIES = ["critical", "major", "minor", "warning"];

interface Values {
  name: string;
  org: string;
  type: string;
  severity: string;
  enabled: boolean;
  entities: string[];
  escalate?: number | null;
  kind: Condition["kind"];
  property?: string;
  direction: "above" | "below";
  bound?: number;
  clear?: number | null;
  for_s?: number | null;
  per_s?: number | null;
  after_s?: number;
  area?: string;
  when: "inside" | "outside";
  longitude: string;
  latitude: string;
  raise_if?: string;
  clear_if?: string;
}

function conditionOf(values: Values): unknown {
  const { kind, property, direction, bound } = values;
  const for_s = values.for_s ?? 0;
  const clear = values.clear ?? undefined;
  if (kind === "absence") return { kind, property, after_s: values.after_s };
  if (kind === "geofence") {
    const { when, longitude, latitude } = values;
    return { kind, area: JSON.parse(values.area ?? ""), when, longitude, latitude, for_s };
  }
  if (kind === "expression") return { kind, raise_if: values.raise_if, clear_if: values.clear_if || undefined, for_s };
  const per_s = kind === "rate" ? (values.per_s ?? 1) : undefined;
  return { kind, property, [direction]: bound, clear, for_s, per_s };
}

function valuesOf(rule: Rule | null, org: string): Partial<Values> {
  const base = { kind: "threshold", direction: "above", when: "outside", longitude: "longitude", latitude: "latitude" } as const;
  if (rule === null) return { ...base, org, severity: "major", enabled: true, entities: [] };
  const condition = rule.condition;
  const bounded = "above" in condition || "below" in condition;
  return {
    ...base,
    ...condition,
    area: condition.kind === "geofence" ? JSON.stringify(condition.area) : undefined,
    direction: bounded && condition.below !== undefined ? "below" : "above",
    bound: bounded ? (condition.above ?? condition.below) : undefined,
    name: rule.name,
    org: rule.org,
    type: rule.type,
    severity: rule.severity,
    enabled: rule.enabled,
    entities: rule.entities ?? [],
    escalate: rule.escalate_s ? rule.escalate_s / 60 : null,
  };
}

export function RuleForm({ rule, onClose, onSaved }: { rule: Rule | null; onClose(): void; onSaved(): void }) {
  const text = useText();
  const label = useLabel();
  const session = useSession();
  const { data: models } = useModels();
  const [form] = Form.useForm<Values>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const kind = Form.useWatch("kind", form) ?? rule?.condition.kind ?? "threshold";
  const type = Form.useWatch("type", form) ?? rule?.type;
  const numbers = (models?.find((model) => model.type === type)?.properties ?? [])
    .filter((property) => property.kind === "number" || property.kind === "boolean")
    .map((property) => ({ value: property.name, label: `${label(property as never)} ${property.name}` }));
  const bounded = kind === "threshold" || kind === "rate";

  const submit = async (values: Values): Promise<void> => {
    setBusy(true);
    setError(null);
    const { name, org, severity, enabled } = values;
    const body = {
      name,
      org,
      type: values.type,
      severity,
      enabled,
      entities: values.entities?.length ? values.entities : null,
      escalate_s: values.escalate ? Math.round(values.escalate * 60) : null,
      condition: conditionOf(values),
    };
    try {
      await (rule ? put(`/rules/${rule.id}`, body) : post("/rules", body));
      onSaved();
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  const property = (name: "property" | "longitude" | "latitude") => (
    <Form.Item name={name} label={text.rules[name]} rules={[{ required: true }]}>
      <Select showSearch={{ optionFilterProp: "label" }} options={numbers} />
    </Form.Item>
  );
  const number = (name: keyof Values, title: string, required = false, extra?: string) => (
    <Form.Item name={name} label={title} rules={[{ required }]} extra={extra}>
      <InputNumber style={{ width: "100%" }} />
    </Form.Item>
  );

  return (
    <Modal
      open
      title={rule ? text.rules.edit : text.rules.add}
      onCancel={onClose}
      onOk={() => form.submit()}
      okText={rule ? text.actions.save : text.actions.create}
      confirmLoading={busy}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form form={form} layout="vertical" initialValues={valuesOf(rule, session.user.org)} onFinish={(values) => void submit(values)}>
        <Form.Item name="name" label={text.rules.name} rules={[{ required: true }]}>
          <Input maxLength={200} />
        </Form.Item>
        <div className="form-pair">
          <Form.Item name="org" label={text.rules.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="type" label={text.rules.type} rules={[{ required: true }]}>
            <Select
              showSearch={{ optionFilterProp: "label" }}
              options={(models ?? []).map((model) => ({ value: model.type, label: `${label(model as never)} ${model.type}` }))}
            />
          </Form.Item>
        </div>
        <Form.Item name="kind" label={text.rules.kind}>
          <Select options={KINDS.map((value) => ({ value, label: text.rules.kinds[value] }))} />
        </Form.Item>
        {kind !== "geofence" && kind !== "expression" && property("property")}
        {bounded && (
          <div className="form-pair">
            <Form.Item name="direction" label={text.rules.direction}>
              <Segmented
                options={[
                  { value: "above", label: text.rules.above },
                  { value: "below", label: text.rules.below },
                ]}
              />
            </Form.Item>
            {number("bound", text.rules.bound, true)}
          </div>
        )}
        {bounded && number("clear", text.rules.clear, false, text.rules.clearHint)}
        {kind === "rate" && number("per_s", text.rules.perS)}
        {kind === "absence" && number("after_s", text.rules.afterS, true)}
        {kind === "geofence" && (
          <>
            <Form.Item
              name="area"
              label={text.rules.area}
              rules={[
                { required: true },
                {
                  validator: (_, value: string) => {
                    try {
                      JSON.parse(value || "null");
                      return Promise.resolve();
                    } catch {
                      return Promise.reject(new Error(text.rules.badArea));
                    }
                  },
                },
              ]}
            >
              <Input.TextArea rows={4} className="mono" />
            </Form.Item>
            <Form.Item name="when" label={text.rules.when}>
              <Segmented
                options={[
                  { value: "outside", label: text.rules.outside },
                  { value: "inside", label: text.rules.inside },
                ]}
              />
            </Form.Item>
            <div className="form-pair">
              {property("longitude")}
              {property("latitude")}
            </div>
          </>
        )}
        {kind === "expression" && (
          <>
            <Form.Item name="raise_if" label={text.rules.raiseIf} extra={text.rules.raiseHint} rules={[{ required: true }]}>
              <Input className="mono" maxLength={500} />
            </Form.Item>
            <Form.Item name="clear_if" label={text.rules.clearIf}>
              <Input className="mono" maxLength={500} />
            </Form.Item>
          </>
        )}
        {kind !== "absence" && number("for_s", text.rules.forS)}
        <div className="form-pair">
          <Form.Item name="severity" label={text.rules.severity}>
            <Select options={SEVERITIES.map((value) => ({ value, label: text.alarms.severities[value] }))} />
          </Form.Item>
          {number("escalate", text.rules.escalate)}
        </div>
        <Form.Item name="entities" label={text.rules.entities} extra={text.rules.entitiesHint}>
          <Select mode="tags" tokenSeparators={[" ", ","]} open={false} />
        </Form.Item>
        <Form.Item name="enabled" label={text.rules.on} valuePropName="checked">
          <Switch />
        </Form.Item>
      </Form>
    </Modal>
  );
}
