/** One alarm: what was done about it, and what can be. */
import { useQuery } from "@tanstack/react-query";
import { App, Button, Drawer, Grid, Input, Skeleton, Space } from "antd";
import { useState } from "react";
import { get, post } from "../api/client.ts";
import type { Alarm } from "../api/types.ts";
import { useFormat, person } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { AlarmItem } from "./alarm-item.tsx";
import { ProblemAlert, useShowProblem } from "./problem.tsx";

const HOURS = [1, 8, 24];

export function AlarmDrawer({ id, me, onClose, onDone }: { id: Alarm["id"]; me: string; onClose(): void; onDone(): void }) {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const show = useShowProblem();
  const { modal } = App.useApp();
  const { md } = Grid.useBreakpoint();
  const [comment, setComment] = useState("");
  const [who, setWho] = useState("");
  const { data: alarm, error } = useQuery({
    queryKey: ["alarm", id],
    queryFn: ({ signal }) => get<Alarm>(`/alarms/${id}`, undefined, signal),
  });
  const act = (action: string, body?: unknown): Promise<void> => post(`/alarms/${id}/${action}`, body).then(onDone, show);
  const silent = !!alarm?.silenced_until && new Date(alarm.silenced_until).getTime() > Date.now();

  return (
    <Drawer open onClose={onClose} size={md ? 480 : "100%"} title={text.alarms.title}>
      {error && <ProblemAlert error={error} />}
      {!alarm && !error && <Skeleton active />}
      {alarm && (
        <div data-testid="alarm">
          <AlarmItem alarm={alarm} />
          <dl className="facts alarm-part">
            <div>
              <dt>{text.alarms.raised}</dt>
              <dd>{format.moment(alarm.raised_at)}</dd>
            </div>
            {alarm.cleared_at && (
              <div>
                <dt>{text.alarms.cleared}</dt>
                <dd>
                  {format.moment(alarm.cleared_at)} {alarm.cleared_by && person(alarm.cleared_by)}
                </dd>
              </div>
            )}
            <div>
              <dt>{text.alarms.assigned}</dt>
              <dd>{alarm.assigned_to ? person(alarm.assigned_to) : text.alarms.nobody}</dd>
            </div>
            {silent && (
              <div>
                <dt>{text.alarms.silence}</dt>
                <dd>{text.alarms.silencedUntil(format.moment(alarm.silenced_until ?? ""))}</dd>
              </div>
            )}
          </dl>
          {can("access.alarm.write") && (
            <>
              <Space wrap className="gap-below">
                {!alarm.acknowledged_by && (
                  <Button type="primary" onClick={() => void act("acknowledge")}>
                    {text.alarms.acknowledge}
                  </Button>
                )}
                {alarm.assigned_to !== me && <Button onClick={() => void act("assign", { to: me })}>{text.alarms.toMe}</Button>}
                {!alarm.cleared_at && (
                  <Button
                    danger
                    onClick={() =>
                      void modal.confirm({
                        title: text.alarms.clear,
                        content: text.alarms.clearConfirm,
                        okText: text.alarms.clear,
                        okButtonProps: { danger: true },
                        onOk: () => act("clear"),
                      })
                    }
                  >
                    {text.alarms.clear}
                  </Button>
                )}
              </Space>
              <Space wrap className="gap-below">
                <span className="muted">{text.alarms.silence}</span>
                {HOURS.map((hours) => (
                  <Button
                    key={hours}
                    size="small"
                    onClick={() => void act("silence", { until: new Date(Date.now() + hours * 3_600_000).toISOString() })}
                  >
                    {text.alarms.hours(hours)}
                  </Button>
                ))}
                {silent && (
                  <Button size="small" onClick={() => void act("silence", { until: null })}>
                    {text.alarms.silenceEnd}
                  </Button>
                )}
              </Space>
              <Space.Compact block className="gap-below">
                <Input
                  value={who}
                  aria-label={text.alarms.assign}
                  placeholder={text.alarms.assignHint}
                  onChange={({ target }) => setWho(target.value)}
                />
                <Button disabled={!who.trim()} onClick={() => void act("assign", { to: `user:${who.trim()}` }).then(() => setWho(""))}>
                  {text.alarms.assign}
                </Button>
              </Space.Compact>
              <Input.TextArea
                value={comment}
                rows={2}
                maxLength={4000}
                aria-label={text.alarms.comment}
                placeholder={text.alarms.commentHint}
                onChange={({ target }) => setComment(target.value)}
              />
              <Button
                className="alarm-part"
                disabled={!comment.trim()}
                onClick={() => void act("comment", { text: comment.trim() }).then(() => setComment(""))}
              >
                {text.alarms.comment}
              </Button>
            </>
          )}
          <h3 className="drawer-sub">{text.alarms.history}</h3>
          {alarm.history?.length ? (
            <ul className="alarm-history" data-testid="history">
              {alarm.history.map((line, index) => (
                <li key={index}>
                  <time className="muted" dateTime={line.at}>
                    {format.moment(line.at)}
                  </time>{" "}
                  {person(line.actor)} {text.alarms.done[line.action] ?? line.action}{" "}
                  {line.action === "silenced" && line.text ? format.moment(line.text) : person(line.text)}
                </li>
              ))}
            </ul>
          ) : (
            <p className="muted">{text.alarms.noHistory}</p>
          )}
        </div>
      )}
    </Drawer>
  );
}
