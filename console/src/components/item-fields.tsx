/** The fields of an item, as a form asks for them. */
import { Form, Input, InputNumber, Switch } from "antd";
import type { Field } from "../api/items.ts";
import { useSettings } from "../settings.tsx";

export function ItemFields({ fields, names, needs }: { fields: Record<string, Field>; names: string[]; needs: string[] }) {
  const { language } = useSettings();
  return names.map((name) => {
    const field = fields[name];
    if (!field) return null;
    const label = field.symbol ? `${field.label[language]} (${field.symbol})` : field.label[language];
    return (
      <Form.Item
        key={name}
        name={["fields", name]}
        label={label}
        valuePropName={field.kind === "boolean" ? "checked" : "value"}
        rules={[{ required: needs.includes(name) }]}
      >
        {field.kind === "number" ? (
          <InputNumber className="wide" min={field.min ?? undefined} max={field.max ?? undefined} />
        ) : field.kind === "boolean" ? (
          <Switch />
        ) : (
          <Input.TextArea autoSize={{ minRows: 1, maxRows: 8 }} maxLength={4096} />
        )}
      </Form.Item>
    );
  });
}

/** What was filled in, without what was left empty. */
export function filled(fields: Record<string, unknown> | undefined): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields ?? {}).filter(([, value]) => value !== undefined && value !== null && value !== ""));
}
