/** What an instance of an attribute holds, each kind in its own way. */
import type { Geometry } from "geojson";
import { held, objects, positions, scalarOf, type Instance } from "../api/entities.ts";
import { useFormat } from "../format.ts";
import { useSettings } from "../settings.tsx";
import { EntityLink } from "./entity-link.tsx";

export function AttributeValue({ instance, org, unit }: { instance: Instance; org: string | null; unit?: string | null }) {
  const { language, text } = useSettings();
  const format = useFormat();
  const value = held(instance);
  switch (instance.type) {
    case "Relationship":
    case "ListRelationship":
      return (
        <span className="value-list">
          {objects(instance).map((id) => (
            <EntityLink key={id} id={id} org={org} />
          ))}
        </span>
      );
    case "LanguageProperty": {
      const entries = Object.entries((value ?? {}) as Record<string, unknown>);
      const mine = (code: string): boolean => code.startsWith(language);
      entries.sort(([a], [b]) => Number(mine(b)) - Number(mine(a)));
      return (
        <span className="value-list">
          {entries.map(([code, words]) => (
            <span key={code} lang={code.startsWith("@") ? undefined : code}>
              {String(words)} <span className="muted">{text.entity.languages[code.split("-")[0]!] ?? code}</span>
            </span>
          ))}
        </span>
      );
    }
    case "GeoProperty": {
      const geometry = value as Geometry;
      if (geometry.type === "Point")
        return <span className="value-plain">{geometry.coordinates.map((n) => n.toFixed(5)).join(", ")}</span>;
      return (
        <span className="value-plain">
          {geometry.type} · {text.entity.vertices(positions(geometry).length)}
        </span>
      );
    }
    default: {
      const plain = scalarOf(value);
      if (plain === undefined) return <code className="value-json">{JSON.stringify(value)}</code>;
      return (
        <>
          {typeof plain === "boolean" ? (plain ? text.yes : text.no) : format.scalar(plain)}
          {unit && <span className="muted"> {unit}</span>}
        </>
      );
    }
  }
}
