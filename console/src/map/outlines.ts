import { useQuery } from "@tanstack/react-query";
import url from "virtual:outlines";
import type { Outlines } from "../../scripts/outlines.ts";

/** The decoded outlines, fetched once. */
export function useOutlines() {
  return useQuery({
    queryKey: ["outlines"],
    queryFn: async () => (await (await fetch(url)).json()) as Outlines,
    staleTime: Infinity,
    gcTime: Infinity,
  });
}
