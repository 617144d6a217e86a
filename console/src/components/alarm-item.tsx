import type { Alarm } from "../api/types.ts";
import { useModels } from "../api/queries.ts";
import { useFormat, useLabel } from "../format.ts";
import { useText } from "../settings.tsx";
import { SyntheticTag } from "./tags.tsx";

const URGENT = new Set(["critical", "major", "alarm", "error"]);

export function SeverityMark({ severity }: { severity: string }) {
  const text = useText();
  return (
    <span className={`severity ${URGENT.has(severity) ? "urgent" : "mild"}`}>
      {text.alarms.severities[severity] ?? severity}
    </span>
  );
}

/** What an alarm says: which property broke which bound. */
export function useAlarmRule(): (alarm: Alarm) => string {
  const text = useText();
  const label = useLabel();
  const { data } = useModels();
  return ({ rule, title, property, type }) => {
    if (title) return title;
    if (rule === "offline") return text.alarms.offline;
    const model = data?.find((candidate) => candidate.type === type);
    const found = model?.properties.find(({ name }) => name === property);
    const what = (found && label(found as never)) || property;
    return rule === "above" ? text.alarms.above(what) : rule === "below" ? text.alarms.below(what) : rule;
  };
}

/** Unit of an alarm's value. */
export function useAlarmUnit(): (alarm: Alarm) => string {
  const { data } = useModels();
  return ({ property, type }) =>
    data?.find((candidate) => candidate.type === type)?.properties.find(({ name }) => name === property)?.unit ?? "";
}

/** An alarm in two lines. */
export function AlarmItem({ alarm }: { alarm: Alarm }) {
  const format = useFormat();
  const rule = useAlarmRule();
  const unit = useAlarmUnit();
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
        {rule(alarm)}
        {alarm.value !== null && alarm.value !== undefined && (
          <>
            {" "}
            · {format.scalar(alarm.value)} {unit(alarm)}
          </>
        )}
        {alarm.synthetic && (
          <>
            {" "}
            <SyntheticTag />
          </>
        )}
      </span>
    </span>
  );
}
