/**
 * One door to the house: JSON over the cookie session. Every refusal becomes a `Problem` (RFC 9457), so
 * that a page can show the field, the value and the rule in the reader's language.
 */
export const API = "/api/v1";
export const NGSI = "/ngsi-ld/v1";

export interface ProblemBody {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  field?: string | null;
  value?: unknown;
  rule?: string | null;
  detail_zh?: string;
  detail_en?: string;
}

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly body: ProblemBody,
    readonly retryAfter: number | null = null,
  ) {
    super(body.detail ?? body.title ?? `HTTP ${status}`);
  }
}

/** The house could not be reached at all. */
export const OFFLINE = 0;

type Query = Record<string, string | number | boolean | string[] | null | undefined>;

function addressed(address: string, query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query))
    if (Array.isArray(value)) value.forEach((item) => search.append(key, item));
    else if (value !== undefined && value !== null && value !== "") search.set(key, String(value));
  const text = search.toString();
  return text ? `${address}?${text}` : address;
}

export const path = (endpoint: string, query?: Query): string => addressed(API + endpoint, query);

let onUnauthenticated: (() => void) | null = null;

/** Called when a session has ended under us. */
export function watchUnauthenticated(listener: () => void): void {
  onUnauthenticated = listener;
}

async function request<T>(
  method: string,
  url: string,
  body?: unknown,
  signal?: AbortSignal,
  more?: Record<string, string>,
): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json", ...more };
  if (method !== "GET") headers["X-Tulou"] = "1";
  if (body !== undefined) headers["Content-Type"] = body instanceof Blob ? "application/octet-stream" : "application/json";
  let response: Response;
  try {
    response = await fetch(url, {
      method,
      headers,
      body: body === undefined || body instanceof Blob ? body : JSON.stringify(body),
      credentials: "same-origin",
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(OFFLINE, {
      detail_zh: "无法连接到土楼服务，请检查网络或服务是否在运行。",
      detail_en: "The house cannot be reached: check the network, or whether it is running.",
    });
  }
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  let parsed: unknown;
  try {
    parsed = text ? JSON.parse(text) : undefined;
  } catch {
    throw new Problem(response.status, { title: response.statusText, detail: text.slice(0, 300) });
  }
  if (response.ok) return parsed as T;
  if (response.status === 401 && !url.startsWith(`${API}/session`)) onUnauthenticated?.();
  const retry = Number(response.headers.get("Retry-After"));
  throw new Problem(response.status, (parsed ?? {}) as ProblemBody, retry > 0 ? retry : null);
}

export const get = <T>(endpoint: string, query?: Query, signal?: AbortSignal): Promise<T> =>
  request<T>("GET", path(endpoint, query), undefined, signal);
/** Ask the NGSI-LD door, in one organisation (tenant), or in all that the reader may see. */
export const getNgsi = <T>(endpoint: string, query: Query, tenant: string | null, signal?: AbortSignal): Promise<T> =>
  request<T>("GET", addressed(NGSI + endpoint, query), undefined, signal, tenant === null ? {} : { "NGSILD-Tenant": tenant });
export const post = <T>(endpoint: string, body?: unknown): Promise<T> =>
  request<T>("POST", path(endpoint), body);
/** Send a file as it is. */
export const upload = <T>(endpoint: string, query: Query, file: Blob): Promise<T> =>
  request<T>("POST", path(endpoint, query), file);
export const put = <T>(endpoint: string, body?: unknown): Promise<T> =>
  request<T>("PUT", path(endpoint), body);
export const patch = <T>(endpoint: string, body?: unknown): Promise<T> =>
  request<T>("PATCH", path(endpoint), body);
export const del = <T>(endpoint: string): Promise<T> => request<T>("DELETE", path(endpoint));

/** Ask for a file and keep it under the name that the house gives it. */
export async function saveFile(endpoint: string, query: Query): Promise<void> {
  const response = await fetch(path(endpoint, query), { credentials: "same-origin" }).catch(() => {
    throw new Problem(OFFLINE, {
      detail_zh: "无法连接到土楼服务，请检查网络或服务是否在运行。",
      detail_en: "The house cannot be reached: check the network, or whether it is running.",
    });
  });
  if (!response.ok) throw new Problem(response.status, (await response.json().catch(() => ({}))) as ProblemBody);
  const name = /filename\*=UTF-8''([^;]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name ? decodeURIComponent(name) : "";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
