/** Create a device and show its token once. */
import { Alert, Checkbox, Form, Input, InputNumber, Modal, Select } from "antd";
import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { post } from "../api/client.ts";
import { useModels } from "../api/queries.ts";
import { useLabel } from "../format.ts";
import { useSession } from "../session.tsx";
import { useText } from "../settings.tsx";
import { OrgSelect } from "./org-select.tsx";
import { Secret } from "./page.tsx";
import { ProblemAlert } from "./problem.tsx";

interface Created {
  token?: string;
  secret?: string;
}

export function NewDevice({ onClose }: { onClose(): void }) {
  const text = useText();
  const label = useLabel();
  const session = useSession();
  const models = useModels();
  const client = useQueryClient();
  const [form] = Form.useForm();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [created, setCreated] = useState<Created | null>(null);

  const submit = async (values: Record<string, unknown>): Promise<void> => {
    setBusy(true);
    setError(null);
    const body = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null));
    try {
      setCreated(await post<Created>("/devices", body));
      void client.invalidateQueries({ queryKey: ["/things"] });
      void client.invalidateQueries({ queryKey: ["map"] });
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  return (
    <Modal
      open
      title={text.things.newDevice}
      onCancel={onClose}
      onOk={() => (created ? onClose() : form.submit())}
      okText={created ? text.actions.close : text.actions.create}
      cancelButtonProps={{ hidden: created !== null }}
      confirmLoading={busy}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      {created ? (
        <>
          <Alert type="success" showIcon title={text.things.secretOnce} />
          <Secret value={created.token ?? created.secret ?? ""} />
        </>
      ) : (
        <Form form={form} layout="vertical" initialValues={{ org: session.user.org }} onFinish={(values) => void submit(values)}>
          <Form.Item name="org" label={text.things.org} rules={[{ required: true }]}>
            <OrgSelect />
          </Form.Item>
          <Form.Item name="type" label={text.things.type} rules={[{ required: true }]}>
            <Select
              showSearch={{ optionFilterProp: "label" }}
              options={(models.data ?? []).map((model) => ({ value: model.type, label: label(model as never) }))}
            />
          </Form.Item>
          <Form.Item name="name" label={text.things.name} rules={[{ required: true }]}>
            <Input />
          </Form.Item>
          <Form.Item name="id" label={text.things.idOptional}>
            <Input className="mono" spellCheck={false} />
          </Form.Item>
          <div className="two">
            <Form.Item name="lon" label={text.things.lon}>
              <InputNumber min={-180} max={180} step={0.001} style={{ width: "100%" }} />
            </Form.Item>
            <Form.Item name="lat" label={text.things.lat}>
              <InputNumber min={-90} max={90} step={0.001} style={{ width: "100%" }} />
            </Form.Item>
          </div>
          <Form.Item name="synthetic" valuePropName="checked" noStyle>
            <Checkbox>{text.things.synthetic}</Checkbox>
          </Form.Item>
        </Form>
      )}
    </Modal>
  );
}
