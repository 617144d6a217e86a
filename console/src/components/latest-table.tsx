/** Latest value of each property, live. */
import { useState } from "react";
import { useLive } from "../api/live.ts";
import type { Latest, ThingDetail } from "../api/types.ts";
import { useFormat, useLabel } from "../format.ts";
import { useText } from "../settings.tsx";
import { QualityTag } from "./tags.tsx";

export function LatestTable({ thing }: { thing: ThingDetail }) {
  const text = useText();
  const format = useFormat();
  const label = useLabel();
  const [live, setLive] = useState<{ no: number; values: Record<string, Latest> }>({ no: thing.no, values: {} });
  useLive("latest", (readings) => {
    const mine = readings.filter(({ no }) => no === thing.no);
    if (!mine.length) return;
    setLive((old) => {
      const values = old.no === thing.no ? { ...old.values } : {};
      for (const { property, ts, value } of mine)
        values[property] = { value, ts: typeof ts === "number" ? new Date(ts).toISOString() : ts };
      return { no: thing.no, values };
    });
  });
  const latest = live.no === thing.no ? { ...thing.latest, ...live.values } : thing.latest;
  const names = Object.keys(latest);
  if (names.length === 0) return <p className="muted">{text.empty.latest}</p>;
  return (
    <table className="plain-table" data-testid="latest">
      <thead>
        <tr>
          <th scope="col">{text.things.property}</th>
          <th scope="col" className="number">
            {text.things.value}
          </th>
          <th scope="col">{text.things.observedAt}</th>
        </tr>
      </thead>
      <tbody>
        {names.map((name) => {
          const property = thing.model?.properties.find((candidate) => candidate.name === name);
          const own = property && label(property as never);
          const unit = thing.latest[name]?.unit ?? property?.unit;
          return (
            <tr key={name}>
              <th scope="row">
                {own || name}
                {own && own !== name && <span className="muted mono"> {name}</span>}
              </th>
              <td className="number">
                <QualityTag quality={latest[name]!.quality} /> {format.scalar(latest[name]!.value)}
                {unit && <span className="muted"> {unit}</span>}
              </td>
              <td className="muted" title={format.moment(latest[name]!.ts)}>
                {format.moment(latest[name]!.ts)}
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
