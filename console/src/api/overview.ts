import { useQuery, useQueryClient } from "@tanstack/react-query";
import { get } from "./client.ts";
import { useLive } from "./live.ts";
import type { Overview } from "./types.ts";

/** The overview, kept current by the live counters; asked again now and then for what the stream does not carry. */
export function useOverview() {
  const client = useQueryClient();
  const query = useQuery({
    queryKey: ["overview"],
    queryFn: ({ signal }) => get<Overview>("/overview", undefined, signal),
    refetchInterval: 15_000,
  });
  useLive("counters", (counters) => {
    client.setQueryData<Overview>(["overview"], (old) => {
      if (!old) return old;
      const rate = [...old.rate, [Date.now(), counters.readings_per_second] as [number, number]].slice(-120);
      return { ...old, counters: { ...old.counters, ...counters }, rate };
    });
  });
  return query;
}

/** The samples of the last 60 seconds before the newest. */
export function lastMinute(rate: [number, number][] | undefined): [number, number][] {
  const newest = rate?.at(-1)?.[0] ?? 0;
  return (rate ?? []).filter(([ms]) => ms > newest - 60_000);
}
