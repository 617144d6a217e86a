/** A thing's device: what it is, and what may be done with it. */
import { useQueryClient } from "@tanstack/react-query";
import { Alert, App, Button } from "antd";
import { useState } from "react";
import { useNavigate } from "react-router";
import { del, post } from "../api/client.ts";
import type { ThingDetail } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { Nothing, Secret } from "./page.tsx";
import { useShowProblem } from "./problem.tsx";

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
      <dl className="facts">
        {facts
          .filter(([, value]) => value)
          .map(([key, value]) => (
            <div key={key}>
              <dt>{key}</dt>
              <dd>{value}</dd>
            </div>
          ))}
      </dl>
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
