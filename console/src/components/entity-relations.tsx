/** Relationships of an entity: those that it has, and those of others that point to it. */
import { Button, Skeleton } from "antd";
import { relationships, useNames, type Entity } from "../api/entities.ts";
import { usePages } from "../api/pages.ts";
import { useTypeLabel } from "../api/queries.ts";
import type { Incoming } from "../api/types.ts";
import { useText } from "../settings.tsx";
import { EntityLink } from "./entity-link.tsx";
import { ProblemAlert } from "./problem.tsx";
import { SyntheticTag } from "./tags.tsx";

export function EntityRelations({ entity }: { entity: Entity }) {
  const text = useText();
  const typeLabel = useTypeLabel();
  const outgoing = relationships(entity);
  const names = useNames(outgoing.map(({ id }) => id));
  const incoming = usePages<Incoming>("/entities/incoming", { id: entity.id }, { limit: 50 });
  return (
    <section className="panel box" data-testid="relations">
      <h2>{text.entity.relations}</h2>
      <h3 className="box-sub">{text.entity.outgoing}</h3>
      {outgoing.length === 0 ? (
        <p className="muted">{text.entity.noOutgoing}</p>
      ) : (
        <ul className="links">
          {outgoing.map(({ path, id }) => (
            <li key={`${path} ${id}`}>
              <span className="mono link-path">{path} →</span>
              <span>
                <EntityLink id={id} org={names?.get(id)?.org} name={names?.get(id)?.name} />{" "}
                <span className="muted">{names && (typeLabel(names.get(id)?.type ?? "") || text.entity.unseen)}</span>
              </span>
            </li>
          ))}
        </ul>
      )}
      <h3 className="box-sub">{text.entity.incoming}</h3>
      {incoming.error && <ProblemAlert error={incoming.error} retry={() => void incoming.refetch()} />}
      {incoming.isLoading && <Skeleton active paragraph={{ rows: 1 }} title={false} />}
      {incoming.isSuccess && incoming.items.length === 0 && !incoming.hasNextPage && (
        <p className="muted">{text.entity.noIncoming}</p>
      )}
      <ul className="links">
        {incoming.items.map(({ no, id, org: whose, name, type, synthetic, paths }) => (
          <li key={no}>
            <span className="mono link-path">{paths.join(", ")} ←</span>
            <span>
              <EntityLink id={id} org={whose} name={name} /> <span className="muted">{typeLabel(type)}</span>{" "}
              {synthetic && <SyntheticTag />}
            </span>
          </li>
        ))}
      </ul>
      {incoming.hasNextPage && (
        <p className="box-note">
          <span className="muted">{text.entity.looked}</span>{" "}
          <Button size="small" loading={incoming.isFetchingNextPage} onClick={() => void incoming.fetchNextPage()}>
            {text.entity.goOn}
          </Button>
        </p>
      )}
    </section>
  );
}
