/** A thing's present values beside the map. */
import { Button, Drawer, Grid, Skeleton } from "antd";
import { Link } from "react-router";
import { useThing, useTypeLabel } from "../api/queries.ts";
import { useFormat, useLabel } from "../format.ts";
import { useText } from "../settings.tsx";
import { EntityLink, entityPath } from "./entity-link.tsx";
import { LatestTable } from "./latest-table.tsx";
import { ProblemAlert } from "./problem.tsx";
import { StateMark, SyntheticTag } from "./tags.tsx";

export function ThingDrawer({ no, onClose }: { no: number | null; onClose(): void }) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const typeLabel = useTypeLabel();
  const screens = Grid.useBreakpoint();
  const thing = useThing(no);
  return (
    <Drawer
      open={no !== null}
      onClose={onClose}
      size={screens.sm === false ? "100%" : 400}
      mask={{ enabled: screens.sm === false }}
      title={thing.data?.name || thing.data?.id || " "}
      extra={
        no !== null && (
          <Link to={thing.data?.no === no ? entityPath(thing.data.id, thing.data.org) : `/things/${no}`}>
            <Button type="primary" size="small">
              {text.cockpit.openDetail}
            </Button>
          </Link>
        )
      }
    >
      {thing.error ? (
        <ProblemAlert error={thing.error} retry={() => void thing.refetch()} />
      ) : !thing.data || thing.data.no !== no ? (
        <Skeleton active paragraph={{ rows: 8 }} />
      ) : (
        <>
          <dl className="facts">
            <div>
              <dt>{text.things.state}</dt>
              <dd>
                <StateMark state={thing.data.state} synthetic={thing.data.synthetic} />{" "}
                {thing.data.synthetic ? <SyntheticTag /> : null}
              </dd>
            </div>
            <div>
              <dt>{text.things.type}</dt>
              <dd>{typeLabel(thing.data.type)}</dd>
            </div>
            <div>
              <dt>{text.things.org}</dt>
              <dd>{label({ org_zh: thing.data.org_name, org_en: thing.data.org_name_en }, "org") || thing.data.org}</dd>
            </div>
            <div>
              <dt>{text.things.lastSeen}</dt>
              <dd>{thing.data.last_seen ? format.moment(thing.data.last_seen) : text.things.never}</dd>
            </div>
            <div>
              <dt>{text.things.id}</dt>
              <dd className="mono">
                <EntityLink id={thing.data.id} org={thing.data.org} />
              </dd>
            </div>
          </dl>
          <h3 className="drawer-sub">{text.things.latest}</h3>
          <LatestTable thing={thing.data} />
        </>
      )}
    </Drawer>
  );
}
