/** Who is signed in, and what they may do. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useCallback, useContext, useEffect, useMemo, type ReactNode } from "react";
import { get, Problem, watchUnauthenticated } from "./api/client.ts";
import type { Anonymous, Session } from "./api/types.ts";

type State = { session: Session; anonymous: null } | { session: null; anonymous: Anonymous };

const KEY = ["session"];

async function fetchSession(): Promise<State> {
  try {
    return { session: await get<Session>("/session"), anonymous: null };
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      const body = error.body as unknown as Partial<Anonymous>;
      return { session: null, anonymous: { oidc: body.oidc ?? false, version: body.version ?? "" } };
    }
    throw error;
  }
}

export function useSessionQuery() {
  const client = useQueryClient();
  useEffect(() => watchUnauthenticated(() => void client.invalidateQueries({ queryKey: KEY })), [client]);
  return useQuery({ queryKey: KEY, queryFn: fetchSession, staleTime: 60_000, retry: 1 });
}

/** Set the session at once after sign-in, or ask again after a change. */
export function useSessionControl() {
  const client = useQueryClient();
  return useMemo(
    () => ({
      signedIn: (session: Session) => client.setQueryData<State>(KEY, { session, anonymous: null }),
      refresh: () => client.invalidateQueries({ queryKey: KEY }),
      signedOut: async () => {
        await client.cancelQueries();
        client.removeQueries({ predicate: (query) => query.queryKey[0] !== KEY[0] });
        await client.invalidateQueries({ queryKey: KEY });
      },
    }),
    [client],
  );
}

const Context = createContext<Session | null>(null);

export function SessionProvider({ session, children }: { session: Session; children: ReactNode }) {
  return <Context value={session}>{children}</Context>;
}

export function useSession(): Session {
  const session = useContext(Context);
  if (!session) throw new Error("useSession outside SessionProvider");
  return session;
}

/**
 * Whether the session's `can` covers an action. Either side may hold `*` for a part, so `can("plan.*.read")`
 * asks whether anything of the plan may be read.
 */
export function allowed(can: string[], action: string): boolean {
  const wanted = action.split(".");
  return can.some((granted) => {
    if (granted === "*") return true;
    const parts = granted.split(".");
    const count = Math.max(parts.length, wanted.length);
    for (let i = 0; i < count; i++) {
      const mine = parts[i] ?? parts[parts.length - 1];
      const theirs = wanted[i] ?? wanted[wanted.length - 1];
      if (mine !== "*" && theirs !== "*" && mine !== theirs) return false;
    }
    return true;
  });
}

export function useCan(): (...actions: string[]) => boolean {
  const { can } = useSession();
  return useCallback((...actions) => actions.some((action) => allowed(can, action)), [can]);
}
