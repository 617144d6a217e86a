/** One entity, with or without a device: state, place, history, relationships, subscriptions and where it comes from. */
import { ArrowLeftOutlined, EllipsisOutlined } from "@ant-design/icons";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Alert, Skeleton, Tabs } from "antd";
import { useEffect } from "react";
import { Link, useLocation, useSearchParams } from "react-router";
import { get, Problem } from "../api/client.ts";
import { placeOf, useEntity, type Entity } from "../api/entities.ts";
import { useLive } from "../api/live.ts";
import { useThing, useTypeLabel } from "../api/queries.ts";
import type { Named, ThingDetail } from "../api/types.ts";
import { AttributeTable } from "../components/attribute-table.tsx";
import { EntityHistory } from "../components/entity-history.tsx";
import { entityPath } from "../components/entity-link.tsx";
import { EntityProvenance } from "../components/entity-provenance.tsx";
import { EntityRelations } from "../components/entity-relations.tsx";
import { EntityWatchers } from "../components/entity-watchers.tsx";
import { PageHead } from "../components/page.tsx";
import { PlaceMap } from "../components/place-map.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { StateMark, SyntheticTag } from "../components/tags.tsx";
import { ThingCommands } from "../components/thing-commands.tsx";
import { ThingDevice } from "../components/thing-device.tsx";
import { ThingFrames } from "../components/thing-frames.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

/** The identifier in the address, encoded or as it is. */
function idOf(pathname: string): string {
  const raw = pathname.replace(/^\/entities\//, "");
  try {
    return decodeURIComponent(raw);
  } catch {
    return raw;
  }
}

export default function EntityPage() {
  const text = useText();
  const id = idOf(useLocation().pathname);
  const [params] = useSearchParams();
  const named = useQuery({
    queryKey: ["named", id],
    queryFn: ({ signal }) => get<{ items: Named[] }>("/entities", { id }, signal),
  });
  const wanted = params.get("org");
  const items = named.data?.items;
  const mine = items?.find(({ org }) => org === wanted) ?? (wanted === null ? items?.[0] : undefined);
  const thing = useThing(mine?.no ?? null);
  const entity = useEntity(id, mine?.org ?? wanted, items !== undefined);
  const client = useQueryClient();
  useLive("alarm", (alarm) => {
    if (alarm.no === mine?.no) void client.invalidateQueries({ queryKey: ["thing", alarm.no] });
  });
  const name = thing.data?.name || mine?.name || id;
  useEffect(() => {
    document.title = `${name} · ${text.product}`;
  }, [name, text]);

  const error = named.error ?? thing.error ?? entity.error;
  if (error) {
    const missing = error instanceof Problem && error.status === 404;
    return (
      <div className="page" data-testid="entity-error">
        <PageHead title={missing ? text.entity.missing : text.entity.title} />
        <ProblemAlert
          error={error}
          retry={() => void client.refetchQueries({ predicate: (query) => query.state.status === "error" })}
        />
        <p className="gap-above muted">
          {missing && text.entity.missingHint} <Link to="/things">{text.things.title}</Link>
        </p>
      </div>
    );
  }
  if (!entity.data || (mine && !thing.data)) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  return (
    <Found
      key={`${id} ${mine?.org ?? ""}`}
      name={name}
      entity={entity.data}
      thing={thing.data}
      others={(items ?? []).filter(({ no }) => no !== mine?.no)}
    />
  );
}

interface FoundProps {
  name: string;
  entity: Entity;
  thing: ThingDetail | undefined;
  /** Entities of the same identifier in other organisations. */
  others: Named[];
}

function Found({ name, entity, thing, others }: FoundProps) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const can = useCan();
  const typeLabel = useTypeLabel();
  const [params, setParams] = useSearchParams();
  const org = thing?.org ?? params.get("org");
  const place = placeOf(entity);
  const synthetic = Boolean(thing?.synthetic);
  const kinds = Array.isArray(entity.type) ? entity.type : [entity.type];
  const choose = (tab: string): void =>
    setParams(
      (old) => {
        const kept = Object.fromEntries([...old].filter(([key]) => key === "org"));
        return new URLSearchParams(tab === "now" ? kept : { ...kept, tab });
      },
      { replace: true },
    );
  const overview = (
    <div className="entity-grid">
      <div>
        <section className="panel box">
          <h2>{text.entity.state}</h2>
          <AttributeTable entity={entity} thing={thing} org={org} />
        </section>
        <EntityRelations entity={entity} />
      </div>
      <div>
        {place && (
          <section className="panel box">
            <h2>{text.entity.place}</h2>
            <PlaceMap geometry={place} synthetic={synthetic} />
          </section>
        )}
        <EntityProvenance entity={entity} thing={thing} />
        {thing && can("context.subscription.read") && <EntityWatchers no={thing.no} />}
      </div>
    </div>
  );
  return (
    <div className="page">
      <div className="thing-head">
        <Link to="/things" aria-label={text.actions.back}>
          <ArrowLeftOutlined />
        </Link>
        <h1>{name}</h1>
        {thing?.device && <StateMark state={thing.state} synthetic={thing.synthetic} />}
        {synthetic && <SyntheticTag />}
      </div>
      <div className="thing-sub muted">
        <span>{kinds.map(typeLabel).join(text.comma)}</span>
        {thing && <span>{label({ org_zh: thing.org_name, org_en: thing.org_name_en }, "org") || thing.org}</span>}
        <span className="mono entity-id">{entity.id}</span>
        {thing?.device && (
          <span>
            {text.things.lastSeen} {thing.last_seen ? format.moment(thing.last_seen) : text.things.never}
          </span>
        )}
        {others.length > 0 && (
          <span>
            {text.entity.elsewhere}{" "}
            {others.map((other, i) => (
              <span key={other.no}>
                {i > 0 && text.comma}
                <Link to={entityPath(other.id, other.org)}>
                  {label({ org_zh: other.org_name, org_en: other.org_name_en }, "org")}
                </Link>
              </span>
            ))}
          </span>
        )}
      </div>
      {!thing && <Alert type="info" showIcon title={text.entity.onlyAtSource} />}
      <Tabs
        activeKey={params.get("tab") ?? "now"}
        onChange={choose}
        items={[
          { key: "now", label: text.entity.tabs.now, children: overview },
          {
            key: "chart",
            label: text.entity.tabs.chart,
            children: <EntityHistory entity={entity} thing={thing} org={org} />,
          },
          ...(thing?.device
            ? [{ key: "frames", label: text.things.tabs.frames, children: <ThingFrames no={thing.no} /> }]
            : []),
          ...(thing?.device && can("access.command.read")
            ? [{ key: "commands", label: text.commands.title, children: <ThingCommands device={thing.device} /> }]
            : []),
          {
            key: "document",
            label: text.things.tabs.document,
            children: <pre className="raw">{JSON.stringify(entity, null, 2)}</pre>,
          },
          ...(thing?.device
            ? [{ key: "device", label: text.things.tabs.device, children: <ThingDevice thing={thing} /> }]
            : []),
        ]}
        destroyOnHidden
        more={{ icon: <EllipsisOutlined aria-label={text.actions.details} /> }}
      />
    </div>
  );
}
