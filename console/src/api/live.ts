/**
 * The one event stream of a signed-in page (`GET /live`), shared by everything that listens.
 *
 * Only a page that is seen has one: a browser has six connections for a house, and the seventh tab, or page kept for "back",
 * would wait for ever. What a hidden page missed is asked again when it is seen (TanStack Query does).
 */
import { useEffect, useRef, useSyncExternalStore } from "react";
import { path } from "./client.ts";
import type { Alarm, Counters, LiveReading } from "./types.ts";

interface Events {
  counters: Counters;
  latest: LiveReading[];
  alarm: Alarm;
}
type Kind = keyof Events;
type Listener = (data: never) => void;

const KINDS: Kind[] = ["counters", "latest", "alarm"];
const listeners: Record<Kind, Set<Listener>> = { counters: new Set(), latest: new Set(), alarm: new Set() };
const statusListeners = new Set<() => void>();
let source: EventSource | null = null;
let connected = false;
let retry: ReturnType<typeof setTimeout> | undefined;
let users = 0;

function setConnected(value: boolean): void {
  if (connected === value) return;
  connected = value;
  statusListeners.forEach((listener) => listener());
}

function open(): void {
  if (source || users === 0 || document.visibilityState === "hidden") return;
  source = new EventSource(path("/live"));
  source.onopen = () => setConnected(true);
  source.onerror = () => {
    setConnected(false);
    // The browser itself retries a broken stream; one that was refused is closed and asked for again later.
    if (source?.readyState === EventSource.CLOSED) {
      close();
      retry = setTimeout(open, 5000);
    }
  };
  for (const kind of KINDS)
    source.addEventListener(kind, (event: MessageEvent<string>) => {
      const data = JSON.parse(event.data) as never;
      listeners[kind].forEach((listener) => listener(data));
    });
}

function close(): void {
  clearTimeout(retry);
  source?.close();
  source = null;
  setConnected(false);
}

document.addEventListener("visibilitychange", () => (document.visibilityState === "hidden" ? close() : open()));
addEventListener("pagehide", close);
addEventListener("pageshow", open);

/** Call `listener` with every event of a kind while the component is mounted. */
export function useLive<K extends Kind>(kind: K, listener: (data: Events[K]) => void): void {
  const current = useRef(listener);
  useEffect(() => {
    current.current = listener;
  });
  useEffect(() => {
    const call = (data: Events[K]): void => current.current(data);
    listeners[kind].add(call as Listener);
    if (users++ === 0) open();
    return () => {
      listeners[kind].delete(call as Listener);
      if (--users === 0) close();
    };
  }, [kind]);
}

/** Whether the stream is open now. */
export function useLiveStatus(): boolean {
  return useSyncExternalStore(
    (changed) => {
      statusListeners.add(changed);
      return () => statusListeners.delete(changed);
    },
    () => connected,
  );
}
