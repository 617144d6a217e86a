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

/** Whether the browser draws with WebGL; where it does not, maps are drawn on a plain canvas. */
export const hasWebgl = (): boolean => {
  try {
    return document.createElement("canvas").getContext("webgl2") !== null;
  } catch {
    return false;
  }
};
