/** A thing's device: what it is, and what may be done with it. */
import { useQueryClient } from "@tanstack/react-query";
import { Alert, App, AutoComplete, Button, Form, Input, Modal, Table } from "antd";
import { useState } from "react";
import { useNavigate } from "react-router";
import { del, post } from "../api/client.ts";
import type { Device, Identity, ThingDetail } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { DeviceCertificates } from "./device-certificates.tsx";
import { Facts, Nothing, Secret } from "./page.tsx";
import { ProblemAlert, useShowProblem } from "./problem.tsx";

export function ThingDevice({ thing }: { thing: ThingDetail }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const navigate = useNavigate();
  const client = useQueryClient();
  const [secret, setSecret] = useState<string | null>(null);
  const device = thing.device;
  if (!device) return <Nothing title={text.things.noDevice} />;
  const id = encodeURIComponent(device.id);
  const facts: [string, string | null | undefined][] = [
    [text.things.deviceId, device.id],
    [text.things.status, device.status && (text.things.deviceStatus[device.status] ?? device.status)],
    [text.things.tokenPrefix, device.token_prefix],
    [text.things.createdAt, device.created_at && format.moment(device.created_at)],
    [text.things.createdBy, device.created_by],
    [text.things.rotatedAt, device.rotated_at && format.moment(device.rotated_at)],
  ];
  const refresh = (): Promise<void> => client.invalidateQueries({ queryKey: ["thing", thing.no] });

  return (
    <div className="panel box">
      <Facts facts={facts} />
      <Identities device={device} refresh={refresh} />
      <DeviceCertificates device={device} />
      {secret && (
        <div className="gap-above">
          <Alert type="success" showIcon title={text.things.secretOnce} />
          <Secret value={secret} />
        </div>
      )}
      <div className="filters gap-above">
        {can("access.device.write") && (
          <Button
            onClick={() =>
              void modal.confirm({
                title: text.things.issueToken,
                content: text.things.issueTokenConfirm,
                onOk: () =>
                  post<{ token?: string; secret?: string }>(`/devices/${id}/token`).then((answer) => {
                    setSecret(answer.token ?? answer.secret ?? "");
                    return refresh();
                  }, show),
              })
            }
          >
            {text.things.issueToken}
          </Button>
        )}
        {can("access.device.write") &&
          (device.status === "disabled" ? (
            <Button onClick={() => post(`/devices/${id}/enable`).then(refresh, show)}>{text.things.enable}</Button>
          ) : (
            <Button
              onClick={() =>
                void modal.confirm({
                  title: text.things.disable,
                  content: text.things.disableConfirm,
                  onOk: () => post(`/devices/${id}/disable`).then(refresh, show),
                })
              }
            >
              {text.things.disable}
            </Button>
          ))}
        {can("access.device.delete") && (
          <Button
            danger
            onClick={() =>
              void modal.confirm({
                title: text.things.removeDevice,
                content: text.things.removeDeviceConfirm,
                okButtonProps: { danger: true },
                onOk: () =>
                  del(`/devices/${id}`).then(() => {
                    void client.invalidateQueries({ queryKey: ["/things"] });
                    void navigate("/things");
                  }, show),
              })
            }
          >
            {text.things.removeDevice}
          </Button>
        )}
      </div>
    </div>
  );
}

/** Under which identities the device speaks field protocols. */
function Identities({ device, refresh }: { device: Device; refresh(): Promise<void> }) {
  const text = useText().things;
  const can = useCan();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const [adding, setAdding] = useState(false);
  const writes = can("access.device.write");
  const at = `/devices/${encodeURIComponent(device.id)}/identities`;
  const named = (protocol: string): string => text.protocols[protocol] ?? protocol;
  if (!device.identities.length && !writes) return null;
  return (
    <section className="gap-above" data-testid="identities">
      <h3 className="box-sub">{text.identities}</h3>
      {device.identities.length > 0 && (
        <Table<Identity>
          size="small"
          rowKey={(one) => `${one.protocol} ${one.identity}`}
          pagination={false}
          dataSource={device.identities}
          scroll={{ x: 420 }}
          columns={[
            { title: text.protocol, dataIndex: "protocol", render: named },
            { title: text.identity, dataIndex: "identity", className: "mono" },
            { title: text.identityPassword, dataIndex: "password", render: (set: boolean) => (set ? text.isSet : text.notSet) },
            {
              key: "remove",
              align: "right",
              render: (_, one) =>
                writes && (
                  <Button
                    size="small"
                    onClick={() =>
                      void modal.confirm({
                        title: `${text.removeIdentity} ${one.identity}`,
                        content: text.removeIdentityConfirm,
                        onOk: () =>
                          del(`${at}/${encodeURIComponent(one.protocol)}/${encodeURIComponent(one.identity)}`).then(refresh, show),
                      })
                    }
                  >
                    {text.removeIdentity}
                  </Button>
                ),
            },
          ]}
        />
      )}
      {writes && (
        <Button className="gap-above" onClick={() => setAdding(true)}>
          {text.addIdentity}
        </Button>
      )}
      {adding && <NewIdentity at={at} onClose={() => setAdding(false)} refresh={refresh} />}
    </section>
  );
}

function NewIdentity({ at, onClose, refresh }: { at: string; onClose(): void; refresh(): Promise<void> }) {
  const text = useText().things;
  const [form] = Form.useForm<{ protocol: string; identity: string; password?: string }>();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  return (
    <Modal open title={text.addIdentity} onCancel={onClose} onOk={() => form.submit()} confirmLoading={busy}>
      {error !== null && <ProblemAlert error={error} />}
      <Form
        form={form}
        layout="vertical"
        onFinish={({ password, ...named }) => {
          setBusy(true);
          post(at, password ? { ...named, password } : named)
            .then(refresh)
            .then(onClose, setError)
            .finally(() => setBusy(false));
        }}
      >
        <Form.Item name="protocol" label={text.protocol} rules={[{ required: true }]}>
          <AutoComplete options={Object.entries(text.protocols).map(([value, label]) => ({ value, label }))} />
        </Form.Item>
        <Form.Item name="identity" label={text.identity} extra={text.identityHint} rules={[{ required: true }]}>
          <Input className="mono" spellCheck={false} />
        </Form.Item>
        <Form.Item name="password" label={text.identityPassword} extra={text.identityPasswordHint}>
          <Input.Password autoComplete="new-password" />
        </Form.Item>
      </Form>
    </Modal>
  );
}
