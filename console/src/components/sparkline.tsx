/** A line of a few dozen points as plain SVG; the area below it is faint. */
import { useId } from "react";

interface Props {
  points: [number, number | null][];
  height?: number;
  colour?: string;
  label: string;
  /** Start the scale at zero (rates), not at the smallest value (trends). */
  zero?: boolean;
  goal?: number | null;
}

const WIDTH = 300;

export function Sparkline({ points, height = 48, colour = "var(--primary)", label, zero = false, goal }: Props) {
  const id = useId();
  const known = points.filter((point): point is [number, number] => point[1] !== null && Number.isFinite(point[1]));
  if (known.length < 2) return <div className="sparkline" style={{ height }} role="img" aria-label={label} />;
  const values = known.map(([, value]) => value);
  const all = goal === undefined || goal === null ? values : [...values, goal];
  const low = zero ? 0 : Math.min(...all);
  const high = Math.max(...all, low + 1e-9);
  const from = known[0]![0];
  const span = Math.max(known[known.length - 1]![0] - from, 1);
  const x = (ms: number): number => ((ms - from) / span) * WIDTH;
  const y = (value: number): number => height - 2 - ((value - low) / (high - low)) * (height - 5);
  const line = known.map(([ms, value], i) => `${i ? "L" : "M"}${x(ms).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return (
    <svg
      className="sparkline"
      viewBox={`0 0 ${WIDTH} ${height}`}
      preserveAspectRatio="none"
      style={{ height, color: colour }}
      role="img"
      aria-label={label}
    >
      <defs>
        <linearGradient id={id} x1="0" y1="0" x2="0" y2="1">
          <stop offset="0" stopColor="currentColor" stopOpacity="0.22" />
          <stop offset="1" stopColor="currentColor" stopOpacity="0.02" />
        </linearGradient>
      </defs>
      <path d={`${line}L${WIDTH} ${height}L0 ${height}Z`} fill={`url(#${id})`} />
      {goal !== undefined && goal !== null && (
        <path d={`M0 ${y(goal)}H${WIDTH}`} stroke="var(--muted)" strokeDasharray="3 4" vectorEffect="non-scaling-stroke" />
      )}
      <path d={line} fill="none" stroke="currentColor" strokeWidth="1.6" vectorEffect="non-scaling-stroke" />
    </svg>
  );
}
