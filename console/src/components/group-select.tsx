/** Choose a group of devices. */
import { Select } from "antd";
import { usePages } from "../api/pages.ts";
import type { DeviceGroup } from "../api/types.ts";
import { useText } from "../settings.tsx";

interface Props {
  value?: number;
  onChange?(value: number | undefined): void;
  id?: string;
  className?: string;
}

export function GroupSelect({ value, onChange, id, className }: Props) {
  const text = useText().life;
  const groups = usePages<DeviceGroup>("/device-groups", {}, { limit: 1000 });
  return (
    <Select
      id={id}
      className={className}
      allowClear
      showSearch={{ optionFilterProp: "label" }}
      placeholder={text.group}
      aria-label={text.group}
      value={value}
      onChange={onChange}
      popupMatchSelectWidth={240}
      options={groups.items.map((group) => ({ value: group.no, label: group.name }))}
    />
  );
}
