/** The answers of `/api/v1`, as docs/api.md states them. Times are RFC 3339 UTC; `ms` is Unix milliseconds. */

export interface Binding {
  org: string;
  role: string;
  subtree: boolean;
}

export interface Session {
  user: {
    id: string | number;
    name: string;
    display: string;
    org: string;
    org_name: string;
    must_change_password: boolean;
  };
  roles: Binding[];
  can: string[];
  oidc: boolean;
  version: string;
}

/** What the session endpoint says to nobody (401). */
export interface Anonymous {
  oidc: boolean;
  version: string;
}

export interface Page<T> {
  items: T[];
  next: string | null;
  count?: number;
}

export interface Counters {
  entities: number;
  devices: number;
  online: number;
  readings_total: number;
  readings_per_second: number;
  alarms_open: number;
  dead_letters: number;
}

export interface Overview {
  counters: Counters;
  synthetic: { entities: number; devices: number };
  by_type: { type: string; label_zh: string; label_en: string; count: number }[];
  targets: { measured: number; reported: number; no_data: number; met: number; total: number };
  rate: [number, number][];
  systems: { works: number; partial: number; none: number };
}

/** Columns of equal length, one row an entity. */
export interface MapColumns {
  no: number[];
  id: string[];
  name: string[];
  org: string[];
  type: number[];
  types: string[];
  lon: number[];
  lat: number[];
  /** 0 ok, 1 alarm, 2 offline */
  state: number[];
  synthetic: number[];
}

export type Scalar = number | string | boolean | null;

export interface Latest {
  value: Scalar;
  ts: string;
  unit?: string | null;
  /** 0 good, 1 uncertain, 2 bad */
  quality?: number;
}

export interface LiveReading {
  no: number;
  property: string;
  ts: string | number;
  value: Scalar;
}

export interface ModelProperty {
  name: string;
  kind: string;
  unit: string | null;
  label_zh: string;
  label_en: string;
  min: number | null;
  max: number | null;
}

export interface Model {
  type: string;
  label_zh: string;
  label_en: string;
  icon: string | null;
  pack: string;
  /** The organisation that declared it; null where a pack did. */
  org: string | null;
  properties: ModelProperty[];
}

/** A text in both languages. */
export interface Words {
  zh: string;
  en: string;
}

export interface ProductProperty {
  kind: string;
  label: Words;
  unit?: string;
  symbol?: string;
  min?: number | null;
  max?: number | null;
  lwm2m?: string;
  codes?: Record<string, string>;
  scale?: number;
  offset?: number;
}

export interface ProductCommand {
  label: Words;
  params?: Record<string, ProductProperty>;
  optional?: string[];
  answer?: boolean;
  expires_s?: number;
}

export interface ProductModel {
  label: Words;
  icon?: string;
  open?: boolean;
  offline_after_s?: number;
  retention_days?: number | null;
  properties?: Record<string, ProductProperty>;
  commands?: Record<string, ProductCommand>;
}

export interface Product {
  name: string;
  org: string;
  version: number;
  label_zh: string;
  label_en: string;
  open: boolean;
  properties: number;
  commands: number;
  entities: number;
  writable: boolean;
  updated_at: string;
  updated_by: string;
}

export interface ProductDetail extends Product {
  model: ProductModel;
}

export type ThingState = "ok" | "alarm" | "offline" | (string & {});

export interface Thing {
  no: number;
  id: string;
  name: string;
  type: string;
  org: string;
  org_name: string;
  org_name_en?: string;
  state: ThingState | number;
  synthetic: boolean | number;
  last_seen: string | null;
  lon: number | null;
  lat: number | null;
  latest: Record<string, Latest>;
}

export interface Device {
  id: string;
  token_prefix?: string | null;
  status?: string;
  created_at?: string | null;
  created_by?: string | null;
  rotated_at?: string | null;
  identities: Identity[];
}

/** A certificate of a device; the private key only in the answer that made it. */
export interface Certificate {
  no: number;
  status: string;
  subject: string;
  fingerprint: string;
  not_after: string;
  used_at: string | null;
  certificate: string;
  authority_certificate?: string;
  private_key?: string;
}

/** Who issues certificates of devices; `code` while it is not proven. */
export interface Authority {
  no: number;
  org: string;
  name: string;
  own: boolean;
  status: string;
  subject: string;
  not_after: string;
  code?: string;
}

export interface ProvisionKey {
  no: number;
  org: string;
  type: string;
  name: string;
  key: string;
  secret?: string;
  strategy: string;
  most: number | null;
  made: number;
  expires_at: string | null;
  enabled: boolean;
}

export interface Edge {
  no: number;
  org: string;
  name: string;
  state: "new" | "connected" | "away" | "revoked";
  token?: string;
  contact_at: string | null;
  lag: number;
  lag_s: number;
  missed: number;
  left_out: number;
  devices: number;
}

export interface DeviceGroup {
  no: number;
  org: string;
  name: string;
  note: string;
  devices: number;
}

export interface Limits {
  devices: number | null;
  messages_s: number | null;
  readings: number | null;
}

export interface Quota {
  org: string;
  limits: Limits;
  above: (Limits & { org: string })[];
  use: { devices: number; messages_s: number | null; readings: number; refused: number | null };
  updated_at: string | null;
}

/** How a device is named in a field protocol; whether it has a password there. */
export interface Identity {
  protocol: string;
  identity: string;
  password: boolean;
}

export type CommandState = "waiting" | "sent" | "delivered" | "done" | "failed" | "expired" | "cancelled";

/** What a device was told, and what became of it. */
export interface Command {
  no: number;
  device: string;
  method: string;
  params: unknown;
  bearer: string;
  answer: boolean;
  state: CommandState;
  attempts: number;
  created_at: string;
  created_by: string;
  expires_at: string;
  sent_at: string | null;
  delivered_at: string | null;
  ended_at: string | null;
  result: unknown;
  error: string | null;
}

/** What a device is to be, says it is, and the difference. */
export interface Shadow {
  desired: Record<string, unknown>;
  reported: Record<string, unknown>;
  delta: Record<string, unknown>;
  version: number;
  changed_at: string | null;
  changed_by: string | null;
}

export interface Schema {
  type?: string;
  title?: string;
  title_en?: string;
  description?: string;
  unit?: string;
  minimum?: number;
  maximum?: number;
  default?: unknown;
  enum?: string[];
  anyOf?: Schema[];
  properties?: Record<string, Schema>;
  required?: string[];
}

/** By bearer, by name; null: any method, any parameters. */
export type Methods = Record<string, Record<string, { label: { zh: string; en: string }; schema: Schema }> | null>;

export interface ThingDetail extends Thing {
  doc: Record<string, unknown>;
  device: Device | null;
  model: Model | null;
}

export interface Series {
  property: string;
  unit: string | null;
  resolution: "raw" | "hour" | "day";
  /** [ms, average, minimum, maximum] */
  points: [number, number | null, number | null, number | null][];
  count: number;
}

export interface Frame {
  ts: string;
  protocol: string;
  raw: string;
  encoding: string;
  seq: number;
  frame: number;
}

export interface Alarm {
  id: number | string;
  no: number;
  org?: string;
  entity_id: string | null;
  name: string | null;
  type?: string | null;
  synthetic?: boolean;
  property: string;
  rule: string;
  severity: string;
  value: Scalar;
  raised_at: string;
  cleared_at: string | null;
  acknowledged_by: string | null;
  title?: string;
  cleared_by?: string | null;
  assigned_to?: string | null;
  silenced_until?: string | null;
  group_id?: number | null;
  group_size?: number;
  history?: { at: string; actor: string; action: string; text: string }[];
}

export type Condition =
  | { kind: "threshold" | "rate"; property: string; above?: number; below?: number; clear?: number; for_s?: number; per_s?: number }
  | { kind: "absence"; property: string; after_s: number }
  | { kind: "geofence"; area: unknown; when?: "inside" | "outside"; longitude?: string; latitude?: string; for_s?: number }
  | { kind: "expression"; raise_if: string; clear_if?: string; for_s?: number };

/** A rule of a pack; `key` is what its alarms carry. */
export interface DeclaredRule {
  key: string;
  name: string;
  type: string;
  severity: string;
  condition: Condition;
}

export interface Rule extends DeclaredRule {
  id: number;
  org: string;
  entities: string[] | null;
  escalate_s: number | null;
  enabled: boolean;
  version: number;
}

export interface Channel {
  id: number;
  org: string;
  name: string;
  address: { kind: "webhook"; url: string } | { kind: "email" | "sms"; to: string[] };
  least: string;
  types: string[] | null;
  last_success: string | null;
  last_failure: string | null;
  last_error: string;
  /** Only in the answer that made it. */
  secret?: string;
}

export interface RuleTest {
  readings: number;
  raised: number;
  cleared: number;
  changes: { kind: "raised" | "cleared"; no: number; name: string | null; entity_id: string | null; value: Scalar; at: number }[];
}

export interface DeadLetter {
  id: number | string;
  ts: string;
  org: string;
  entity: number | string | null;
  protocol: string;
  topic: string | null;
  raw: string;
  encoding: string;
  reason: string;
  field: string | null;
  replayed_at?: string | null;
}

export type SystemState = "works" | "partial" | "none" | (string & {});

export interface Agency {
  id: string;
  name_zh: string;
  name_en: string;
}

export interface PlanTask {
  id: string;
  no: string | number;
  section: string;
  section_zh?: string;
  section_en?: string;
  title_zh: string;
  title_en: string;
  summary_zh?: string;
  summary_en?: string;
  agencies: (string | Agency)[];
  targets?: string[];
  systems: { id: string; title_zh: string; title_en: string; state: SystemState }[];
}

export type TargetState = "measured" | "reported" | "no_data";

export interface Target {
  id: string;
  title_zh: string;
  title_en: string;
  task: string;
  systems: string[];
  unit: string;
  unit_zh?: string;
  unit_en?: string;
  lead?: Agency;
  compare?: string;
  note_zh?: string;
  note_en?: string;
  goal: number;
  deadline: string;
  value: number | null;
  state: TargetState;
  met: boolean | null;
  as_of: string | null;
  trend: [number, number | null][];
  why_zh: string;
  why_en: string;
  version: number;
  query: string;
}

export interface Report {
  id: number | string;
  state: "submitted" | "approved" | "rejected" | (string & {});
  value: number;
  as_of: string;
  evidence_text?: string | null;
  evidence_name?: string | null;
  evidence_sha256?: string | null;
  submitted_by?: string | null;
  submitted_name?: string | null;
  submitted_at?: string | null;
  decided_by?: string | null;
  decided_name?: string | null;
  decided_at?: string | null;
  note?: string | null;
  [key: string]: unknown;
}

export interface TargetDetail extends Target {
  definitions: { version: number; query: string; since: string; by: string }[];
  reports: Report[];
  measurements: Record<string, unknown>[];
}

export interface Score {
  as_of: string;
  score: number | null;
  tasks: { id: string; score: number | null; targets: unknown[] }[];
  digest: string;
}

export interface Organisation {
  id: string;
  name_zh: string;
  name_en: string;
  kind: string;
  parent: string | null;
  state: string;
  lon: number | null;
  lat: number | null;
}

export interface User {
  id: number | string;
  name: string;
  display: string;
  org: string;
  roles: Binding[];
  org_name?: string;
  state: string;
  email?: string | null;
  oidc?: boolean;
  signed_in_at?: string | null;
}

export interface Token {
  id: number | string;
  name: string;
  org: string;
  scopes: string[];
  expires_at: string | null;
  prefix?: string;
  user?: string;
  created_at?: string;
  used_at?: string | null;
  revoked_at?: string | null;
  secret?: string;
  token?: string;
}

export interface AuditEntry {
  seq: number;
  at: string;
  actor: string;
  action: string;
  org: string | null;
  subject: string | null;
  outcome: string;
  detail: unknown;
  hash: string;
}

export interface Job {
  id: number | string;
  kind: string;
  state: string;
  progress: number;
  total: number | null;
  started_at: string | null;
  ended_at: string | null;
  error: string | null;
}

export interface JobDetail extends Job {
  arguments?: unknown;
  result?: unknown;
  log?: { at: string; line: string }[];
}

export interface SystemReport {
  version: string;
  uptime_s: number;
  roles: string[];
  processes: { name: string; pid: number; rss: number; restarts: number }[];
  checks: { name: string; ok: boolean; zh: string; en: string }[];
  bus: Record<string, unknown>;
  readings: Record<string, unknown>;
  sql: Record<string, unknown>;
  ingest: { accepted: number; stored: number; lag_s: number | null; dead: number };
}

/** An entity as the list of those with one identifier names it. */
export interface Named {
  no: number;
  id: string;
  type: string;
  name: string;
  synthetic: boolean;
  org: string;
  org_name: string;
  org_name_en: string;
}

/** One that points to another, and the attributes that do. */
export interface Incoming extends Named {
  paths: string[];
}

export interface Watcher {
  /** Whether the entity meets the conditions (q, geoQ, scopeQ) now. */
  satisfied: boolean;
  subscription: {
    id: string;
    subscriptionName?: string;
    description?: string;
    status: string;
    statusReason?: string;
    q?: string;
    geoQ?: unknown;
    scopeQ?: string;
    watchedAttributes?: string[];
    timeInterval?: number;
    notificationTrigger?: string[];
    notification: { endpoint: { uri: string }; timesSent?: number; timesFailed?: number; lastNotification?: string; status?: string };
  };
}

/** What the audit says of one entity and its device. */
export interface AuditAbout {
  made: AuditEntry | null;
  items: AuditEntry[];
  since: string | null;
  created_at: string;
  modified_at: string;
}

export interface Firmware {
  no: number;
  org: string;
  type: string;
  title: string;
  version: string;
  size: number;
  sha256: string;
  created_at: string;
  created_by: string;
}

export interface Rollout {
  no: number;
  org: string;
  name: string;
  state: "draft" | "running" | "paused" | "aborted" | "done";
  /** From 1. */
  stage: number;
  reason: string | null;
  firmware: number;
  title: string | null;
  version: string | null;
  started_at: string | null;
  ended_at: string | null;
  /** Devices by state. */
  counts: Record<string, number>;
}

export interface RolloutDetail extends Omit<Rollout, "counts"> {
  stages: {
    percent: number;
    wait_s: number;
    updated_min: number;
    failed_max: number;
    silent_max: number;
    waiting: number;
    told: number;
    updated: number;
    failed: number;
    withdrawn: number;
    silent: number;
  }[];
}
