/** A product as the editor holds it: lists where the house has objects by name, so that a name can be written. */
import type { ProductCommand, ProductModel, ProductProperty } from "../api/types.ts";

export type PropertyValues = Omit<ProductProperty, "codes"> & { name: string; codes: { protocol?: string; code?: string }[] };
export type ParamValues = ProductProperty & { name: string; required: boolean };
export type CommandValues = Omit<ProductCommand, "params" | "optional"> & { name: string; params: ParamValues[] };
export type Values = Omit<ProductModel, "properties" | "commands"> & {
  name: string;
  org: string;
  properties: PropertyValues[];
  commands: CommandValues[];
};

export const NEW_PROPERTY: PropertyValues = { name: "", kind: "number", label: { zh: "", en: "" }, codes: [] };
export const NEW_COMMAND: CommandValues = { name: "", label: { zh: "", en: "" }, answer: true, expires_s: 60, params: [] };
export const NEW_PARAM: ParamValues = { name: "", kind: "number", label: { zh: "", en: "" }, required: true };

export function valuesOf(name: string, org: string, model: ProductModel): Values {
  const properties = Object.entries(model.properties ?? {}).map(([key, { codes, ...rest }]) => ({
    ...rest,
    name: key,
    codes: Object.entries(codes ?? {}).map(([protocol, code]) => ({ protocol, code })),
  }));
  const commands = Object.entries(model.commands ?? {}).map(([key, { params, optional, ...rest }]) => ({
    ...rest,
    name: key,
    params: Object.entries(params ?? {}).map(([param, of]) => ({ ...of, name: param, required: !optional?.includes(param) })),
  }));
  return { ...model, name, org, properties, commands };
}

const named = <T extends { name: string }, R>(list: T[] | undefined, rest: (item: Omit<T, "name">) => R): Record<string, R> =>
  Object.fromEntries((list ?? []).map(({ name, ...more }) => [name ?? "", rest(more)]));

/** A property's numbers that were taken away are what the house has where nothing is said. */
const cleared = <T extends { scale?: number | null; offset?: number | null }>({ scale, offset, ...rest }: T) => ({
  ...rest,
  ...(scale === null || scale === undefined ? {} : { scale }),
  ...(offset === null || offset === undefined ? {} : { offset }),
});

export function modelOf({ name: _name, org: _org, properties, commands, ...rest }: Values): ProductModel {
  return {
    ...rest,
    properties: named(properties, ({ codes, ...property }) => ({
      ...cleared(property),
      codes: Object.fromEntries((codes ?? []).filter(({ protocol }) => protocol).map(({ protocol, code }) => [protocol, code ?? ""])),
    })) as Record<string, ProductProperty>,
    commands: named(commands, ({ params, ...command }) => ({
      ...command,
      params: named(params, ({ required: _required, ...param }) => cleared(param)),
      optional: (params ?? []).filter(({ required }) => !required).map(({ name }) => name),
    })) as Record<string, ProductCommand>,
  };
}

/** Where in the form a field of the house is: `model.properties.flow.min` is the third property's minimum. */
export function placeOf(field: string, values: Values): (string | number)[] {
  if (!field.startsWith("model.")) return [field];
  const within = (place: string, list: { name: string }[] | undefined, prefix: string): [number, string] | null => {
    const at = (list ?? []).findIndex(({ name }) => place === prefix + name || place.startsWith(`${prefix}${name}.`));
    const name = list?.[at]?.name;
    return name === undefined ? null : [at, place.slice(prefix.length + name.length + 1)];
  };
  const rest = (left: string): (string | number)[] => (left === "" || left === "[key]" ? ["name"] : left.split("."));
  const place = field.slice("model.".length);
  const property = within(place, values.properties, "properties.");
  if (property) {
    const left = rest(property[1]);
    return ["properties", property[0], ...(left[0] === "codes" ? ["codes"] : left[0] === "iri" ? ["name"] : left)];
  }
  const command = within(place, values.commands, "commands.");
  if (!command) return place.split(".");
  const param = within(command[1], values.commands[command[0]]?.params, "params.");
  return ["commands", command[0], ...(param ? ["params", param[0], ...rest(param[1])] : rest(command[1]))];
}
