/** What several pages ask for. */
import { useQuery } from "@tanstack/react-query";
import { useCallback } from "react";
import { useLabel } from "../format.ts";
import { get } from "./client.ts";
import type { Model, Organisation, Page, ThingDetail } from "./types.ts";

export function useModels() {
  return useQuery({
    queryKey: ["models"],
    queryFn: ({ signal }) => get<Model[]>("/models", undefined, signal),
    staleTime: 60_000,
  });
}

/** The label of a type in the reader's language; the type's own name where no model says. */
export function useTypeLabel(): (type: string) => string {
  const { data } = useModels();
  const label = useLabel();
  return useCallback(
    (type) => {
      const model = data?.find((candidate) => candidate.type === type);
      return (model && label(model as never)) || type;
    },
    [data, label],
  );
}

export function useOrganisations(enabled = true) {
  return useQuery({
    queryKey: ["orgs"],
    queryFn: async ({ signal }) => {
      const items: Organisation[] = [];
      let after: string | null = null;
      do {
        const page: Page<Organisation> = await get("/orgs", { limit: 500, after }, signal);
        items.push(...page.items);
        after = page.next;
      } while (after);
      return items;
    },
    staleTime: 60_000,
    enabled,
  });
}

export function useThing(no: number | null) {
  return useQuery({
    queryKey: ["thing", no],
    queryFn: ({ signal }) => get<ThingDetail>(`/things/${no}`, undefined, signal),
    enabled: no !== null,
  });
}
