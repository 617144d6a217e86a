/** An entity as NGSI-LD tells it, and what is read out of it. Names are those of the house's context. */
import { useQuery } from "@tanstack/react-query";
import type { Geometry, Position } from "geojson";
import { useMemo } from "react";
import { get, getNgsi } from "./client.ts";
import type { Named, Scalar } from "./types.ts";

/** One instance of an attribute, normalised (CIM 009, 4.5). */
export interface Instance {
  type: string;
  observedAt?: string;
  createdAt?: string;
  modifiedAt?: string;
  expiresAt?: string;
  unitCode?: string;
  datasetId?: string;
  instanceId?: string;
  [member: string]: unknown;
}

export interface Entity {
  id: string;
  type: string | string[];
  createdAt?: string;
  modifiedAt?: string;
  expiresAt?: string;
  scope?: string | string[];
  [name: string]: unknown;
}

/** Most identifiers of which the names are asked for. */
const NAMES = 100;
const MEMBERS = new Set(["id", "type", "@context", "createdAt", "modifiedAt", "deletedAt", "expiresAt", "scope"]);
const VALUES: Record<string, string> = {
  Property: "value",
  GeoProperty: "value",
  Relationship: "object",
  LanguageProperty: "languageMap",
  VocabProperty: "vocab",
  JsonProperty: "json",
  ListProperty: "valueList",
  ListRelationship: "objectList",
};

const isInstance = (value: unknown): value is Instance =>
  typeof value === "object" && value !== null && String((value as Instance).type) in VALUES;

/** [name, instance] of every attribute, or of every attribute of an attribute, in the order of the document. */
export function attributes(holder: Entity | Instance): [string, Instance][] {
  return Object.entries(holder).flatMap(([name, value]) =>
    MEMBERS.has(name) || Object.values(VALUES).includes(name)
      ? []
      : (Array.isArray(value) ? value : [value]).filter(isInstance).map((item): [string, Instance] => [name, item]),
  );
}

/** What an instance holds, whatever its kind. */
export const held = (instance: Instance): unknown => instance[VALUES[instance.type] ?? "value"];

/** The identifiers that a relationship points to. */
export function objects(instance: Instance): string[] {
  const found = instance.type === "Relationship" || instance.type === "ListRelationship" ? held(instance) : [];
  return (Array.isArray(found) ? found : [found]).map((item) =>
    typeof item === "object" && item !== null ? String((item as { object?: unknown }).object) : String(item),
  );
}

/** Every relationship of an entity, those of its attributes too, by path. */
export function relationships(entity: Entity): { path: string; id: string }[] {
  const walk = (holder: Entity | Instance, above: string): { path: string; id: string }[] =>
    attributes(holder).flatMap(([name, instance]) => {
      const path = above ? `${above}.${name}` : name;
      return [...objects(instance).map((id) => ({ path, id })), ...walk(instance, path)];
    });
  return walk(entity, "");
}

/** Where an entity is: its `location`, else the first place that it has. */
export function placeOf(entity: Entity): Geometry | null {
  const places = attributes(entity).filter(([, { type }]) => type === "GeoProperty");
  const chosen = places.find(([name]) => name === "location") ?? places[0];
  return chosen ? (held(chosen[1]) as Geometry) : null;
}

/** Every position of a geometry. */
export function positions(geometry: Geometry): Position[] {
  if (geometry.type === "GeometryCollection") return geometry.geometries.flatMap(positions);
  const flat = (value: unknown): Position[] =>
    Array.isArray(value) ? (typeof value[0] === "number" ? [value as Position] : value.flatMap(flat)) : [];
  return flat(geometry.coordinates);
}

/** A single value where it is one, for a number's format or a word. */
export const scalarOf = (value: unknown): Scalar | undefined =>
  value === null || ["number", "string", "boolean"].includes(typeof value) ? (value as Scalar) : undefined;

/** The entity with its system attributes: the house's part and that of its context sources. */
export function useEntity(id: string, org: string | null, enabled: boolean) {
  return useQuery({
    queryKey: ["entity", id, org],
    queryFn: ({ signal }) =>
      getNgsi<Entity>(`/entities/${encodeURIComponent(id)}`, { options: "sysAttrs" }, org, signal),
    enabled,
  });
}

/** What the house knows of some identifiers that the reader may see; undefined until it is known. */
export function useNames(ids: string[]): Map<string, Named> | undefined {
  const wanted = [...new Set(ids)].sort().slice(0, NAMES);
  const { data } = useQuery({
    queryKey: ["names", wanted],
    queryFn: ({ signal }) => get<{ items: Named[] }>("/entities", { id: wanted }, signal),
    enabled: wanted.length > 0,
  });
  return useMemo(() => data && new Map([...data.items].reverse().map((item) => [item.id, item])), [data]);
}
