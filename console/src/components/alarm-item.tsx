import type { Alarm } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";

const URGENT = new Set(["critical", "major", "alarm", "error"]);

export function SeverityMark({ severity }: { severity: string }) {
  const text = useText();
  return (
    <span className={`severity ${URGENT.has(severity) ? "urgent" : "mild"}`}>
      {text.alarms.severities[severity] ?? severity}
    </span>
  );
}

/** An alarm in two lines. */
export function AlarmItem({ alarm }: { alarm: Alarm }) {
  const format = useFormat();
  return (
    <span className="alarm-item">
      <span className="alarm-item-head">
        <SeverityMark severity={alarm.severity} />
        <span className="alarm-item-name">{alarm.name || alarm.entity_id}</span>
        <time className="muted" dateTime={alarm.raised_at} title={format.moment(alarm.raised_at)}>
          {format.ago(alarm.raised_at)}
        </time>
      </span>
      <span className="alarm-item-rule muted">
        {alarm.rule}
        {alarm.value !== null && alarm.value !== undefined && <> · {format.scalar(alarm.value)}</>}
      </span>
    </span>
  );
}
