/** The parts of the product editor: what it is, its properties, its commands. */
import { DeleteOutlined, PlusOutlined } from "@ant-design/icons";
import { AutoComplete, Button, Collapse, Form, Input, InputNumber, Select, Switch, type FormInstance } from "antd";
import type { ReactNode } from "react";
import { PROTOCOLS, UNITS } from "../api/units.ts";
import { useText } from "../settings.tsx";
import { OrgSelect } from "./org-select.tsx";
import { Nothing } from "./page.tsx";
import { NEW_COMMAND, NEW_PARAM, NEW_PROPERTY, type Values } from "./product-values.ts";

const KINDS = ["number", "boolean", "string", "json"];
const WHOLE = { width: "100%" };

type At = (string | number)[];

/** A field at a place of the form; where it is a name, `within` is the list in which it is the only one. */
function Field({ name, within = [], label, required, extra, checked, children }: {
  name: At; within?: At; label: string; required?: boolean; extra?: string; checked?: boolean; children: ReactNode;
}) {
  const text = useText().products;
  const unlike = (value: string, list: { name: string }[]): Promise<void> =>
    value && list.filter((item) => item?.name === value).length > 1 ? Promise.reject(new Error(text.twice)) : Promise.resolve();
  return (
    <Form.Item
      name={name}
      label={label}
      required={required}
      extra={extra}
      valuePropName={checked ? "checked" : undefined}
      rules={
        within.length > 0
          ? [({ getFieldValue }) => ({ validator: (_, value: string) => unlike(value, getFieldValue(within) as { name: string }[]) })]
          : undefined
      }
    >
      {children}
    </Form.Item>
  );
}

function Labels({ at }: { at: At }) {
  const text = useText().products;
  return (
    <>
      <Field name={[...at, "zh"]} label={text.zh} required>
        <Input maxLength={200} />
      </Field>
      <Field name={[...at, "en"]} label={text.en} required>
        <Input maxLength={200} />
      </Field>
    </>
  );
}

export function General({ fresh }: { fresh: boolean }) {
  const text = useText().products;
  return (
    <div className="product-fields">
      <Field name={["name"]} label={text.name} required extra={fresh ? text.nameHint : undefined}>
        <Input className="mono" maxLength={128} spellCheck={false} disabled={!fresh} />
      </Field>
      <Field name={["org"]} label={text.org} required>
        {fresh ? <OrgSelect /> : <Input disabled />}
      </Field>
      <Labels at={["label"]} />
      <Field name={["icon"]} label={text.icon}>
        <AutoComplete options={["device", "air", "water", "weather", "manhole", "vehicle", "ship", "meter"].map((value) => ({ value }))} />
      </Field>
      <Field name={["offline_after_s"]} label={text.offline}>
        <InputNumber min={1} style={WHOLE} />
      </Field>
      <Field name={["retention_days"]} label={text.retention} extra={text.retentionHint}>
        <InputNumber min={1} style={WHOLE} />
      </Field>
      <Field name={["open"]} label={text.open} extra={text.openHint} checked>
        <Switch />
      </Field>
    </div>
  );
}

function Take({ onClick, name }: { onClick(): void; name: string }) {
  const text = useText().products;
  return <Button className="product-take" type="text" danger icon={<DeleteOutlined />} aria-label={`${text.take} ${name}`} title={text.take} onClick={onClick} />;
}

const kinds = (text: { kinds: Record<string, string> }) => KINDS.map((value) => ({ value, label: text.kinds[value] }));

export function Properties({ form }: { form: FormInstance<Values> }) {
  const text = useText().products;
  const units = UNITS.map(([value, symbol]) => ({ value, label: `${value} · ${text.units[value]}${symbol ? ` ${symbol}` : ""}` }));
  const chosen = (at: number, code: string): void => {
    const known = UNITS.find(([unit]) => unit === code);
    if (known) form.setFieldValue(["properties", at, "symbol"], known[1]);
  };
  return (
    <Form.List name="properties">
      {(items, { add, remove }) => (
        <>
          {items.length === 0 && <Nothing title={text.noProperties} />}
          {items.map(({ key, name: at }) => (
            <div key={key} className="panel product-item" data-testid="property">
              <Take onClick={() => remove(at)} name={String(form.getFieldValue(["properties", at, "name"]) ?? "")} />
              <div className="product-fields">
                <Field name={[at, "name"]} within={["properties"]} label={text.property} required>
                  <Input className="mono" maxLength={128} spellCheck={false} />
                </Field>
                <Labels at={[at, "label"]} />
                <Field name={[at, "kind"]} label={text.kind}>
                  <Select options={kinds(text)} />
                </Field>
                <Field name={[at, "unit"]} label={text.unit}>
                  <AutoComplete
                    options={units}
                    showSearch={{ filterOption: (typed, option) => String(option?.label).toLowerCase().includes(typed.toLowerCase()) }}
                    popupMatchSelectWidth={280}
                    onSelect={(code: string) => chosen(at, code)}
                  />
                </Field>
                <Field name={[at, "symbol"]} label={text.symbol}>
                  <Input maxLength={32} />
                </Field>
                <Field name={[at, "min"]} label={text.min}>
                  <InputNumber style={WHOLE} />
                </Field>
                <Field name={[at, "max"]} label={text.max}>
                  <InputNumber style={WHOLE} />
                </Field>
              </div>
              <Collapse
                ghost
                size="small"
                items={[{ key: "more", label: text.more, forceRender: true, children: <Spoken at={at} /> }]}
                defaultActiveKey={form.getFieldValue(["properties", at, "codes"])?.length ? "more" : undefined}
              />
            </div>
          ))}
          <Button icon={<PlusOutlined />} onClick={() => add(NEW_PROPERTY)}>
            {text.addProperty}
          </Button>
        </>
      )}
    </Form.List>
  );
}

/** What field protocols call a property. */
function Spoken({ at }: { at: number }) {
  const text = useText().products;
  return (
    <>
      <Form.List name={[at, "codes"]}>
        {(codes, { add, remove }, { errors }) => (
          <div className="gap-below">
            {codes.map(({ key, name }) => (
              <div key={key} className="product-code">
                <Field name={[name, "protocol"]} label={text.protocol}>
                  <AutoComplete options={PROTOCOLS.map((value) => ({ value }))} />
                </Field>
                <Field name={[name, "code"]} label={text.code}>
                  <Input className="mono" maxLength={128} spellCheck={false} />
                </Field>
                <Take onClick={() => remove(name)} name={text.code} />
              </div>
            ))}
            <Form.ErrorList errors={errors} />
            <Button size="small" icon={<PlusOutlined />} onClick={() => add({})}>
              {text.addCode}
            </Button>
          </div>
        )}
      </Form.List>
      <div className="product-fields">
        <Field name={[at, "scale"]} label={text.scale}>
          <InputNumber style={WHOLE} placeholder="1" />
        </Field>
        <Field name={[at, "offset"]} label={text.offset}>
          <InputNumber style={WHOLE} placeholder="0" />
        </Field>
        <Field name={[at, "lwm2m"]} label={text.lwm2m}>
          <Input className="mono" placeholder="3303/0/5700" spellCheck={false} />
        </Field>
      </div>
    </>
  );
}

export function Commands({ form }: { form: FormInstance<Values> }) {
  const text = useText().products;
  return (
    <Form.List name="commands">
      {(items, { add, remove }) => (
        <>
          {items.length === 0 && <p className="muted">{text.noCommands}</p>}
          {items.map(({ key, name: at }) => (
            <div key={key} className="panel product-item" data-testid="command">
              <Take onClick={() => remove(at)} name={String(form.getFieldValue(["commands", at, "name"]) ?? "")} />
              <div className="product-fields">
                <Field name={[at, "name"]} within={["commands"]} label={text.command} required>
                  <Input className="mono" spellCheck={false} />
                </Field>
                <Labels at={[at, "label"]} />
                <Field name={[at, "expires_s"]} label={text.expires}>
                  <InputNumber min={1} style={WHOLE} />
                </Field>
                <Field name={[at, "answer"]} label={text.answer} checked>
                  <Switch />
                </Field>
              </div>
              <Params at={at} />
            </div>
          ))}
          <Button icon={<PlusOutlined />} onClick={() => add(NEW_COMMAND)}>
            {text.addCommand}
          </Button>
        </>
      )}
    </Form.List>
  );
}

function Params({ at }: { at: number }) {
  const text = useText().products;
  return (
    <Form.List name={[at, "params"]}>
      {(items, { add, remove }) => (
        <>
          {items.map(({ key, name }) => (
            <div key={key} className="product-param">
              <Take onClick={() => remove(name)} name={text.param} />
              <div className="product-fields">
                <Field name={[name, "name"]} within={["commands", at, "params"]} label={text.param} required>
                  <Input className="mono" spellCheck={false} />
                </Field>
                <Labels at={[name, "label"]} />
                <Field name={[name, "kind"]} label={text.kind}>
                  <Select options={kinds(text)} />
                </Field>
                <Field name={[name, "min"]} label={text.min}>
                  <InputNumber style={WHOLE} />
                </Field>
                <Field name={[name, "max"]} label={text.max}>
                  <InputNumber style={WHOLE} />
                </Field>
                <Field name={[name, "required"]} label={text.required} checked>
                  <Switch />
                </Field>
              </div>
            </div>
          ))}
          <Button size="small" icon={<PlusOutlined />} onClick={() => add(NEW_PARAM)}>
            {text.addParam}
          </Button>
        </>
      )}
    </Form.List>
  );
}
