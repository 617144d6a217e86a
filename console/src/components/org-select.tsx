/** Choose an organisation by name or id. */
import { Select } from "antd";
import { useOrganisations } from "../api/queries.ts";
import { useLabel } from "../format.ts";

interface Props {
  value?: string;
  onChange?(value: string | undefined): void;
  id?: string;
  placeholder?: string;
  allowClear?: boolean;
  className?: string;
  label?: string;
}

export function OrgSelect({ value, onChange, id, placeholder, allowClear, className, label }: Props) {
  const { data, isLoading } = useOrganisations();
  const name = useLabel();
  return (
    <Select
      id={id}
      className={className}
      value={value}
      onChange={onChange}
      loading={isLoading}
      allowClear={allowClear}
      placeholder={placeholder}
      aria-label={label}
      showSearch={{ optionFilterProp: "search" }}
      popupMatchSelectWidth={280}
      options={(data ?? []).map((org) => ({
        value: org.id,
        label: name(org as never, "name") || org.id,
        search: `${org.id} ${org.name_zh} ${org.name_en}`,
      }))}
    />
  );
}

/** Name of an organisation by its id, in the reader's language. */
export function useOrgName(): (id: string | null | undefined) => string {
  const { data } = useOrganisations();
  const name = useLabel();
  return (id) => {
    const org = id ? data?.find((candidate) => candidate.id === id) : undefined;
    return org ? name(org as never, "name") : (id ?? "");
  };
}
