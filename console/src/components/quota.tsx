/** What an organisation may use, and what it uses. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, Form, InputNumber, Modal, Progress } from "antd";
import { get, put } from "../api/client.ts";
import type { Limits, Quota } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { useOrgName } from "./org-select.tsx";
import { ProblemAlert, useSending } from "./problem.tsx";

export function QuotaModal({ org, onClose }: { org: string; onClose(): void }) {
  const texts = useText();
  const text = texts.life;
  const format = useFormat();
  const name = useOrgName();
  const can = useCan();
  const client = useQueryClient();
  const [form] = Form.useForm<Limits>();
  const { error, busy, send } = useSending();
  const at = `/orgs/${encodeURIComponent(org)}/quota`;
  const quota = useQuery({ queryKey: [at], queryFn: ({ signal }) => get<Quota>(at, undefined, signal), refetchInterval: 3000 });
  const may = can("access.quota.approve");
  const rows: [keyof Limits, string, number | null | undefined][] = [
    ["devices", text.quotaDevices, quota.data?.use.devices],
    ["messages_s", text.quotaMessages, quota.data?.use.messages_s],
    ["readings", text.quotaReadings, quota.data?.use.readings],
  ];
  return (
    <Modal
      open
      title={`${text.quota} · ${name(org)}`}
      onCancel={onClose}
      onOk={may ? () => form.submit() : onClose}
      okText={may ? texts.actions.save : texts.actions.close}
      confirmLoading={busy}
    >
      {(error ?? quota.error) !== null && <ProblemAlert error={error ?? quota.error} />}
      {quota.data && (
        <Form<Limits>
          key={quota.data.updated_at}
          form={form}
          layout="vertical"
          disabled={!may}
          initialValues={quota.data.limits}
          onFinish={(limits) =>
            send(
              put<Quota>(at, {
                devices: limits.devices ?? null,
                messages_s: limits.messages_s ?? null,
                readings: limits.readings ?? null,
              }),
              (now) => {
                client.setQueryData([at], now);
                onClose();
              },
            )
          }
        >
          {rows.map(([key, title, used]) => {
            const limit = quota.data.limits[key];
            const share = limit === null || !used ? 0 : limit === 0 ? 100 : Math.min(100, (used / limit) * 100);
            return (
              <div key={key} data-testid={`quota-${key}`}>
                <Form.Item
                  name={key}
                  label={title}
                  extra={
                    <>
                      {text.quotaUse(used === null || used === undefined ? "—" : format.scalar(used))}
                      {limit !== null && (
                        <Progress percent={Math.round(share)} status={share >= 100 ? "exception" : "normal"} size="small" />
                      )}
                    </>
                  }
                >
                  <InputNumber min={0} placeholder={text.unlimited} style={{ width: "100%" }} />
                </Form.Item>
              </div>
            );
          })}
          {!!quota.data.use.refused && <Alert type="warning" showIcon title={text.quotaRefused(quota.data.use.refused)} />}
          {quota.data.above.map((above) => (
            <p key={above.org} className="muted">
              {text.quotaAbove(
                name(above.org),
                above.devices === null ? text.unlimited : String(above.devices),
                above.messages_s === null ? text.unlimited : String(above.messages_s),
                above.readings === null ? text.unlimited : String(above.readings),
              )}
            </p>
          ))}
          <p className="muted">{text.quotaHint}</p>
        </Form>
      )}
    </Modal>
  );
}
