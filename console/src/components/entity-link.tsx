import { Link } from "react-router";

/** The address of an entity's page; `org` says whose, where an identifier is used by several organisations. */
export function entityPath(id: string, org?: string | null, more: Record<string, string> = {}): string {
  const search = new URLSearchParams({ ...(org ? { org } : {}), ...more }).toString();
  return `/entities/${encodeURIComponent(id)}${search ? `?${search}` : ""}`;
}

export function EntityLink({ id, org, name }: { id: string; org?: string | null; name?: string | null }) {
  return (
    <Link to={entityPath(id, org)} className={name ? "" : "mono"} title={id}>
      {name || id}
    </Link>
  );
}
