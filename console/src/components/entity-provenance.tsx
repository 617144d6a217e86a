/** Where an entity comes from: whose it is, who or what made and changed it. */
import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { get, getNgsi, Problem } from "../api/client.ts";
import type { Entity } from "../api/entities.ts";
import type { AuditAbout, AuditEntry, Frame, Page, ThingDetail } from "../api/types.ts";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";
import { Facts } from "./page.tsx";
import { ProblemAlert } from "./problem.tsx";
import { SyntheticTag } from "./tags.tsx";

interface Registration {
  id: string;
  registrationName?: string;
  description?: string;
  mode?: string;
  endpoint: string;
}

/** Whether a row can be that of a change: it is written when the change is committed. */
const near = (row: string, change: string): boolean => Math.abs(Date.parse(row) - Date.parse(change)) < 30_000;

interface Props {
  entity: Entity;
  /** Undefined for an entity that only a context source has. */
  thing: ThingDetail | undefined;
}

export function EntityProvenance({ entity, thing }: Props) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const can = useCan();
  const no = thing?.no;
  const org = thing?.org ?? null;
  const kinds = Array.isArray(entity.type) ? entity.type : [entity.type];
  const audit = useQuery({
    queryKey: ["entity-audit", no],
    queryFn: ({ signal }) => get<AuditAbout>(`/things/${no}/audit`, undefined, signal),
    enabled: no !== undefined && can("audit.record.read"),
    retry: false,
  });
  const frame = useQuery({
    queryKey: ["last-frame", no],
    queryFn: ({ signal }) => get<Page<Frame>>(`/things/${no}/frames`, { limit: 1 }, signal),
    enabled: Boolean(thing?.device),
  });
  const sources = useQuery({
    queryKey: ["entity-sources", entity.id, org],
    queryFn: ({ signal }) =>
      getNgsi<Registration[]>("/csourceRegistrations", { id: entity.id, type: kinds.join(",") }, org, signal),
    enabled: can("context.source.read"),
  });
  const forbidden = audit.error instanceof Problem && audit.error.status === 403;
  const last = frame.data?.items[0];
  const newest = audit.data?.items[0];
  const origin = thing === undefined ? "source" : thing.synthetic ? "synthetic" : thing.device ? "device" : "written";
  const who = (entry: AuditEntry | null | undefined): ReactNode =>
    entry ? (
      <>
        {" "}
        {text.entity.by(entry.actor)} <span className="muted mono">{entry.action}</span>
      </>
    ) : audit.data ? (
      <span className="muted fact-note">{text.entity.batch}</span>
    ) : null;
  const facts: [string, ReactNode][] = [
    [text.things.org, thing && (label({ org_zh: thing.org_name, org_en: thing.org_name_en }, "org") || thing.org)],
    [
      text.entity.origin,
      <>
        {text.entity.origins[origin]} {thing?.synthetic ? <SyntheticTag /> : null}
      </>,
    ],
    [
      text.entity.created,
      entity.createdAt && (
        <>
          {format.moment(entity.createdAt)}
          {who(audit.data?.made)}
        </>
      ),
    ],
    [
      text.entity.changed,
      entity.modifiedAt && (
        <>
          {format.moment(entity.modifiedAt)}
          {newest && near(newest.at, entity.modifiedAt) && who(newest)}
        </>
      ),
    ],
    [text.things.deviceId, thing?.device && <span className="mono">{thing.device.id}</span>],
    [
      text.entity.lastFrame,
      last && (
        <>
          {format.moment(last.ts)} · {last.protocol}
          <code className="fact-note frame-line">{last.raw.slice(0, 160)}</code>
        </>
      ),
    ],
    [
      text.entity.sources,
      sources.data && sources.data.length > 0 && (
        <ul>
          {sources.data.map((source) => (
            <li key={source.id}>
              {source.registrationName || source.description || source.id}{" "}
              <span className="muted">
                {text.entity.sourceModes[source.mode ?? "inclusive"]} · <span className="mono">{source.endpoint}</span>
              </span>
            </li>
          ))}
        </ul>
      ),
    ],
  ];
  return (
    <section className="panel box" data-testid="provenance">
      <h2>{text.entity.provenance}</h2>
      <Facts facts={facts} />
      {forbidden && <p className="muted box-note">{text.entity.auditForbidden}</p>}
      {audit.error && !forbidden && <ProblemAlert error={audit.error} retry={() => void audit.refetch()} />}
      {audit.data && <Trail about={audit.data} />}
    </section>
  );
}

/** The newest audit rows about the entity and its device. */
function Trail({ about }: { about: AuditAbout }) {
  const text = useText();
  const format = useFormat();
  return (
    <>
      <h3 className="box-sub">{text.entity.trail}</h3>
      {about.items.length === 0 && <p className="muted">{text.entity.noTrail}</p>}
      <ul className="trail">
        {about.items.slice(0, 8).map((entry) => {
          const names = (entry.detail as { attributes?: string[] } | null)?.attributes;
          return (
            <li key={entry.seq}>
              <time dateTime={entry.at} className="muted">
                {format.moment(entry.at)}
              </time>
              <span>{entry.actor}</span>
              <span className="mono">{entry.action}</span>
              {names && <span className="muted mono">{names.join(", ")}</span>}
            </li>
          );
        })}
      </ul>
      {about.since && <p className="muted box-note">{text.entity.trailSince(format.moment(about.since))}</p>}
    </>
  );
}
