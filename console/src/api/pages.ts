/** A keyset-paged list that grows as the reader asks for more. */
import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { get } from "./client.ts";
import type { Page } from "./types.ts";

type Query = Record<string, string | number | boolean | null | undefined>;

export function usePages<T>(endpoint: string, query: Query = {}, options: { limit?: number; refetch?: number } = {}) {
  const limit = options.limit ?? 100;
  const result = useInfiniteQuery({
    queryKey: [endpoint, query, limit],
    queryFn: ({ pageParam, signal }) => get<Page<T>>(endpoint, { ...query, limit, after: pageParam }, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    placeholderData: keepPreviousData,
    refetchInterval: options.refetch,
  });
  const items = useMemo(() => result.data?.pages.flatMap((page) => page.items) ?? [], [result.data]);
  return { ...result, items, count: result.data?.pages[0]?.count };
}
