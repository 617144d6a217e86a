/** The certificates of a device: register, issue, revoke; and the secret by which another organisation may claim it. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, App, Button, Form, Input, Modal, Space, Table, Tag } from "antd";
import { useState } from "react";
import { del, get, post } from "../api/client.ts";
import type { Certificate, Device } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { RemoveButton, Secret } from "./page.tsx";
import { ProblemAlert, useSending, useShowProblem } from "./problem.tsx";

export const STATUS: Record<string, string> = { active: "success", revoked: "default", expired: "warning", pending: "processing" };
const SOON = 30 * 86_400_000;

export function DeviceCertificates({ device }: { device: Device }) {
  const text = useText().life;
  const format = useFormat();
  const can = useCan();
  const show = useShowProblem();
  const client = useQueryClient();
  const [adding, setAdding] = useState(false);
  const at = `/devices/${encodeURIComponent(device.id)}/certificates`;
  const { data } = useQuery({
    queryKey: [at],
    queryFn: ({ signal }) => get<{ items: Certificate[] }>(at, undefined, signal),
    enabled: can("access.certificate.read"),
  });
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: [at] });
  const items = data?.items ?? [];
  if (!can("access.certificate.read")) return null;
  return (
    <section className="gap-above" data-testid="certificates">
      <h3 className="box-sub">{text.certificates}</h3>
      {items.length > 0 && (
        <Table<Certificate>
          size="small"
          rowKey="no"
          pagination={false}
          dataSource={items}
          scroll={{ x: 640 }}
          columns={[
            { title: text.subject, dataIndex: "subject", ellipsis: true, render: (subject: string) => <span className="mono">{subject}</span> },
            {
              title: text.status,
              dataIndex: "status",
              width: 90,
              render: (status: string) => <Tag color={STATUS[status]}>{text.statuses[status] ?? status}</Tag>,
            },
            {
              title: text.notAfter,
              dataIndex: "not_after",
              width: 150,
              render: (at: string, { status }) => (
                <>
                  {format.day(at)}
                  {status === "active" && new Date(at).getTime() - Date.now() < SOON && <Tag color="warning">{text.soon}</Tag>}
                </>
              ),
            },
            {
              title: text.usedAt,
              dataIndex: "used_at",
              width: 110,
              render: (at: string | null) => (at ? format.day(at) : text.unused),
            },
            {
              key: "revoke",
              width: 80,
              align: "right",
              render: (_: unknown, one) =>
                one.status === "active" &&
                can("access.certificate.delete") && (
                  <RemoveButton
                    text={text.revoke}
                    name={`#${one.no}`}
                    warning={text.revokeWarning}
                    onRemove={() => del(`${at}/${one.no}`).then(refresh, show)}
                  />
                ),
            },
          ]}
        />
      )}
      <Space className="gap-above" wrap>
        {can("access.certificate.create") && <Button onClick={() => setAdding(true)}>{text.addCertificate}</Button>}
        {can("access.device.write") && <ClaimableButton device={device} />}
      </Space>
      {adding && <NewCertificate at={at} onClose={() => setAdding(false)} refresh={refresh} />}
    </section>
  );
}

function save(name: string, content: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "application/x-pem-file" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function NewCertificate({ at, onClose, refresh }: { at: string; onClose(): void; refresh(): Promise<void> }) {
  const texts = useText();
  const text = texts.life;
  const [form] = Form.useForm<{ pem?: string }>();
  const [made, setMade] = useState<Certificate | null>(null);
  const { error, busy, send } = useSending();
  const files: [string, string | undefined][] = [
    ["key.pem", made?.private_key],
    ["certificate.pem", made?.certificate],
    ["authority.pem", made?.authority_certificate],
  ];
  return (
    <Modal
      open
      title={text.addCertificate}
      onCancel={onClose}
      onOk={made ? onClose : () => form.submit()}
      okText={made ? texts.actions.close : texts.actions.submit}
      cancelButtonProps={{ hidden: made !== null }}
      confirmLoading={busy}
      mask={{ closable: made === null }}
    >
      {error !== null && <ProblemAlert error={error} />}
      {made ? (
        <>
          <Alert type="success" showIcon title={made.private_key ? text.keyOnce : text.certificateDone} />
          <Space className="gap-above" wrap>
            {files.map(
              ([name, content]) =>
                content && (
                  <Button key={name} onClick={() => save(name, content)}>
                    {name}
                  </Button>
                ),
            )}
          </Space>
        </>
      ) : (
        <Form
          form={form}
          layout="vertical"
          onFinish={({ pem }) => {
            const given = (pem ?? "").trim();
            send(post<Certificate>(at, given ? { [given.includes("REQUEST") ? "csr" : "certificate"]: given } : {}), (answer) => {
              setMade(answer);
              return refresh();
            });
          }}
        >
          <Form.Item name="pem" label={text.pem} extra={text.pemHint}>
            <Input.TextArea className="mono" rows={8} spellCheck={false} placeholder="-----BEGIN …" />
          </Form.Item>
        </Form>
      )}
    </Modal>
  );
}

function ClaimableButton({ device }: { device: Device }) {
  const text = useText().life;
  const format = useFormat();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const [armed, setArmed] = useState<{ secret: string; expires_at: string } | null>(null);
  return (
    <>
      <Button
        onClick={() =>
          void modal.confirm({
            title: text.claimable,
            content: text.claimableHint,
            onOk: () =>
              post<{ secret: string; expires_at: string }>(`/devices/${encodeURIComponent(device.id)}/claim`, {}).then(setArmed, show),
          })
        }
      >
        {text.claimable}
      </Button>
      {armed && (
        <div>
          <Alert type="success" showIcon title={text.claimSecret(format.moment(armed.expires_at))} />
          <Secret value={armed.secret} />
        </div>
      )}
    </>
  );
}
