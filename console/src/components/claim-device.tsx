/** Claim a device of another organisation with its secret. */
import { useQueryClient } from "@tanstack/react-query";
import { App, Form, Input, Modal } from "antd";
import { post } from "../api/client.ts";
import { useSession } from "../session.tsx";
import { useText } from "../settings.tsx";
import { OrgSelect } from "./org-select.tsx";
import { ProblemAlert, useSending } from "./problem.tsx";

export function ClaimDevice({ onClose }: { onClose(): void }) {
  const texts = useText();
  const text = texts.life;
  const session = useSession();
  const client = useQueryClient();
  const { message } = App.useApp();
  const [form] = Form.useForm<{ device: string; secret: string; org: string }>();
  const { error, busy, send } = useSending();
  return (
    <Modal open title={text.claim} onCancel={onClose} onOk={() => form.submit()} okText={text.claim} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        initialValues={{ org: session.user.org }}
        onFinish={(claim) =>
          send(post<{ id: string }>("/claims", claim), ({ id }) => {
            void message.success(text.claimed(id));
            void client.invalidateQueries({ queryKey: ["/things"] });
            onClose();
          })
        }
      >
        <Form.Item name="device" label={texts.things.deviceId} rules={[{ required: true }]}>
          <Input className="mono" spellCheck={false} />
        </Form.Item>
        <Form.Item name="secret" label={text.secret} rules={[{ required: true }]}>
          <Input className="mono" autoComplete="off" spellCheck={false} />
        </Form.Item>
        <Form.Item name="org" label={texts.things.org} rules={[{ required: true }]}>
          <OrgSelect />
        </Form.Item>
      </Form>
    </Modal>
  );
}
