/** Small marks of state. Colour is never the only sign: each carries its word or shape. */
import { Tag } from "antd";
import type { TargetState, Thing } from "../api/types.ts";
import { useText } from "../settings.tsx";

const NAMES = ["ok", "alarm", "offline"] as const;
export type StateName = (typeof NAMES)[number];

export const stateName = (state: Thing["state"]): StateName =>
  typeof state === "number" ? (NAMES[state] ?? "offline") : (NAMES.find((name) => name === state) ?? "ok");

export function StateMark({ state, synthetic = false }: { state: Thing["state"]; synthetic?: boolean | number }) {
  const text = useText();
  const name = stateName(state);
  return (
    <span className="state-mark">
      <span className={`dot dot-${name}${synthetic ? " hollow" : ""}`} aria-hidden />
      {text.state[name]}
    </span>
  );
}

export function SyntheticTag() {
  const text = useText();
  return (
    <Tag className="synthetic-tag" variant="outlined">
      {text.synthetic.tag}
    </Tag>
  );
}

/** Marks a value that is not good. */
export function QualityTag({ quality }: { quality: number | undefined }) {
  const text = useText();
  if (!quality) return null;
  return <Tag color={quality === 2 ? "error" : "warning"}>{text.things.quality[quality] ?? quality}</Tag>;
}

export function TargetStateTag({ state }: { state: TargetState }) {
  const text = useText();
  const label = { measured: text.cockpit.measured, reported: text.cockpit.reported, no_data: text.cockpit.noData };
  const colour = { measured: "success", reported: "processing", no_data: "default" };
  return <Tag color={colour[state]}>{label[state]}</Tag>;
}

export function MetTag({ met, state }: { met: boolean | null; state: TargetState }) {
  const text = useText();
  if (state === "no_data" || met === null) return null;
  return met ? <Tag color="success">{text.plan.met}</Tag> : <Tag color="warning">{text.plan.notMet}</Tag>;
}
