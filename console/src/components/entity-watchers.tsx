/** The subscriptions in force that select an entity. */
import { useQuery } from "@tanstack/react-query";
import { Skeleton, Tag } from "antd";
import { get } from "../api/client.ts";
import type { Watcher } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { ProblemAlert } from "./problem.tsx";

export function EntityWatchers({ no }: { no: number }) {
  const text = useText();
  const format = useFormat();
  const { data, error, isLoading, refetch } = useQuery({
    queryKey: ["watchers", no],
    queryFn: ({ signal }) => get<{ items: Watcher[] }>(`/things/${no}/subscriptions`, undefined, signal),
  });
  return (
    <section className="panel box" data-testid="watchers">
      <h2>{text.entity.subscriptions}</h2>
      {error && <ProblemAlert error={error} retry={() => void refetch()} />}
      {isLoading && <Skeleton active paragraph={{ rows: 1 }} title={false} />}
      {data?.items.length === 0 && <p className="muted">{text.entity.noSubscriptions}</p>}
      <ul className="watchers">
        {data?.items.map(({ satisfied, subscription }) => {
          const conditions = [
            subscription.watchedAttributes?.join(", "),
            subscription.q,
            subscription.scopeQ,
            subscription.geoQ ? "geoQ" : undefined,
            subscription.timeInterval ? text.entity.everySeconds(subscription.timeInterval) : undefined,
          ].filter(Boolean);
          const { endpoint, timesSent, timesFailed, lastNotification } = subscription.notification;
          return (
            <li key={subscription.id}>
              <div className="watcher-head">
                <strong>{subscription.subscriptionName || subscription.description || subscription.id}</strong>
                <Tag color={subscription.status === "active" ? "success" : "default"} title={subscription.statusReason}>
                  {text.entity.statuses[subscription.status] ?? subscription.status}
                </Tag>
                <Tag color={satisfied ? "processing" : "default"}>
                  {satisfied ? text.entity.satisfied : text.entity.unsatisfied}
                </Tag>
              </div>
              {(subscription.subscriptionName || subscription.description) && (
                <div className="mono muted">{subscription.id}</div>
              )}
              {conditions.length > 0 && <div className="mono">{conditions.join(" · ")}</div>}
              <div className="muted">
                {text.entity.endpoint} <span className="mono">{endpoint.uri}</span> ·{" "}
                {text.entity.sent(format.integer(timesSent ?? 0))}
                {timesFailed ? ` · ${text.entity.failed(format.integer(timesFailed))}` : ""}
                {lastNotification && ` · ${format.moment(lastNotification)}`}
              </div>
            </li>
          );
        })}
      </ul>
      {data && data.items.length > 0 && <p className="muted box-note">{text.entity.subscriptionsHint}</p>}
    </section>
  );
}
