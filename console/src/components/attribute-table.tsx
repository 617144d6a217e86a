/** The attributes of an entity as they are now; those that devices send change as they come. */
import { LineChartOutlined } from "@ant-design/icons";
import { useState } from "react";
import { Link } from "react-router";
import { attributes, type Entity, type Instance } from "../api/entities.ts";
import { useLive } from "../api/live.ts";
import type { Latest, ThingDetail } from "../api/types.ts";
import { useFormat, useLabel } from "../format.ts";
import { useText } from "../settings.tsx";
import { AttributeValue } from "./attribute-value.tsx";
import { entityPath } from "./entity-link.tsx";
import { Nothing } from "./page.tsx";
import { QualityTag } from "./tags.tsx";

/** The label of an attribute in the reader's language; empty where no model says. */
export function useAttributeLabel(thing: ThingDetail | undefined): (name: string) => string {
  const label = useLabel();
  const text = useText();
  return (name) => {
    const found = thing?.model?.properties.find((property) => property.name === name);
    const own = (found && label(found as never)) || (text.entity.common[name] ?? "");
    return own === name ? "" : own;
  };
}

interface Props {
  entity: Entity;
  thing: ThingDetail | undefined;
  org: string | null;
}

interface Row {
  name: string;
  instance: Instance;
  latest?: Latest | undefined;
}

export function AttributeTable({ entity, thing, org }: Props) {
  const text = useText();
  const format = useFormat();
  const attributeLabel = useAttributeLabel(thing);
  const [live, setLive] = useState<{ no: number | undefined; values: Record<string, Latest> }>({ no: thing?.no, values: {} });
  useLive("latest", (readings) => {
    const mine = readings.filter(({ no }) => no === thing?.no);
    if (!mine.length) return;
    setLive((old) => {
      const values = old.no === thing?.no ? { ...old.values } : {};
      for (const { property, ts, value } of mine)
        values[property] = { value, ts: typeof ts === "number" ? new Date(ts).toISOString() : ts };
      return { no: thing?.no, values };
    });
  });
  const latest: Record<string, Latest> = { ...thing?.latest, ...(live.no === thing?.no ? live.values : {}) };

  const rows: Row[] = attributes(entity).map(([name, instance]) => {
    const reading = instance.datasetId === undefined && instance.type === "Property" ? latest[name] : undefined;
    const fresher = reading && (!instance.observedAt || reading.ts >= instance.observedAt);
    return fresher
      ? { name, instance: { ...instance, value: reading.value, observedAt: reading.ts }, latest: reading }
      : { name, instance };
  });
  // What a device has just sent may be in the readings a moment before it is in the document.
  for (const [name, reading] of Object.entries(latest))
    if (!rows.some((row) => row.name === name))
      rows.push({ name, instance: { type: "Property", value: reading.value, observedAt: reading.ts }, latest: reading });
  if (rows.length === 0) return <Nothing title={text.entity.noAttributes} />;

  return (
    <table className="plain-table attributes" data-testid="latest">
      <thead>
        <tr>
          <th scope="col">{text.entity.attribute}</th>
          <th scope="col">{text.things.value}</th>
          <th scope="col">{text.entity.time}</th>
          <th scope="col" aria-label={text.entity.tabs.chart} />
        </tr>
      </thead>
      <tbody>
        {rows.map(({ name, instance, latest: reading }) => {
          const own = attributeLabel(name);
          const unit = reading?.unit ?? thing?.latest[name]?.unit ?? instance.unitCode;
          const quality = thing?.latest[name]?.quality;
          const kind = text.entity.kinds[instance.type] ?? instance.type;
          return (
            <tr key={`${name} ${instance.datasetId ?? ""}`} data-attribute={name}>
              <th scope="row">
                {own || name}
                <span className="attribute-sub muted">
                  {own && <span className="mono">{name}</span>}
                  {instance.type !== "Property" && <span className="kind-tag">{kind}</span>}
                  {instance.datasetId && <span className="mono">{instance.datasetId}</span>}
                </span>
              </th>
              <td className="attribute-value">
                <span className="attribute-main">
                  {reading && <QualityTag quality={quality} />}
                  <AttributeValue instance={instance} org={org} unit={unit} />
                </span>
                <SubAttributes instance={instance} org={org} known={Boolean(reading)} />
              </td>
              <td className="attribute-time muted">
                {instance.observedAt || instance.modifiedAt ? (
                  <>
                    {format.moment(instance.observedAt ?? instance.modifiedAt)}
                    <span className="attribute-sub">
                      {instance.observedAt ? text.entity.observed : text.entity.modified}
                      {instance.expiresAt && ` · ${text.entity.expires(format.moment(instance.expiresAt))}`}
                    </span>
                  </>
                ) : (
                  "—"
                )}
              </td>
              <td className="attribute-history">
                <Link
                  to={entityPath(entity.id, org, { tab: "chart", attribute: name })}
                  aria-label={text.entity.history(own || name)}
                  title={text.entity.history(own || name)}
                >
                  <LineChartOutlined />
                </Link>
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

/** Attributes of an attribute; the quality of a reading is shown as its mark instead. */
function SubAttributes({ instance, org, known }: { instance: Instance; org: string | null; known: boolean }) {
  const found = attributes(instance).filter(([name]) => !(known && name === "quality"));
  if (found.length === 0) return null;
  return (
    <dl className="sub-attributes">
      {found.map(([name, item]) => (
        <div key={`${name} ${item.datasetId ?? ""}`}>
          <dt>{name}</dt>
          <dd>
            <AttributeValue instance={item} org={org} unit={item.unitCode} />
          </dd>
        </div>
      ))}
    </dl>
  );
}
