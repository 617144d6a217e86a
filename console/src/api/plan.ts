/** Projects, evaluations and the screen of the plan, as the house tells them. */
import { useQuery } from "@tanstack/react-query";
import { get } from "./client.ts";
import type { Item } from "./items.ts";
import type { PlanTask, TargetState } from "./types.ts";

export type Stage = "planned" | "committed" | "received" | "spent";

export interface Funds {
  sources: ({ source: string } & Record<Stage, number>)[];
  uses: { use: string; spent: number }[];
  total: Record<Stage, number>;
  quotas: { resource: "land" | "energy"; unit: "m2" | "tce"; granted: number; used: number }[];
}

export interface Counts {
  milestones: number;
  done: number;
  late: number;
  finished: number;
}

export interface Project extends Counts {
  no: number;
  org: string;
  code: string;
  task: string;
  title: string;
  summary: string;
  target: string | null;
  place: string;
  lon: number | null;
  lat: number | null;
  starts: string;
  ends: string;
  synthetic: boolean;
  funds: Funds;
}

export interface Paper {
  evidence_text: string | null;
  evidence_name: string | null;
  submitted_name: string | null;
  submitted_at: string | null;
  decided_name: string | null;
  decided_at: string | null;
  note: string | null;
}

export interface Milestone extends Paper {
  no: number;
  title: string;
  due: string;
  final: boolean;
  state: "planned" | "reported" | "done";
  done_on: string | null;
  late: boolean;
}

export interface LateMilestone extends Milestone {
  org: string;
  project: number;
  project_title: string;
}

export interface Movement extends Paper {
  no: number;
  kind: Stage | "granted" | "used";
  source: string | null;
  use: string | null;
  resource: string | null;
  unit: "CNY" | "m2" | "tce";
  amount: number;
  at: string;
  state: "submitted" | "approved" | "rejected";
  reverses: number | null;
  entry: number | null;
}

export interface ProjectDetail extends Omit<Project, "milestones"> {
  milestones: Milestone[];
  movements: Movement[];
  months: { month: string; received: number; spent: number }[];
  may_write: boolean;
  may_decide: boolean;
}

export interface ProjectsTogether extends Counts {
  projects: number;
  synthetic: number;
  funds: Funds;
}

export interface TaskDetail extends PlanTask {
  score: number | null;
  items: Item[] | null;
  projects: (Counts & { projects: number; funds: Funds }) | null;
}

export interface EvaluationHead {
  year: number;
  version: number;
  state: "draft" | "dropped" | "published" | "superseded" | "final";
  method: string;
  digest: string;
  appeal: number | null;
  made_name: string;
  made_at: string;
  published_name: string | null;
  published_at: string | null;
  score: number | null;
}

export type Criterion = "targets" | "milestones" | "funds" | "items";

export interface EvaluationRow {
  id: string;
  targets: { id: string; goal: number; value: number | null; state: TargetState }[];
  milestones: { no: number; project: number; due: string; done_on: string | null }[];
  funds: { project: number; planned: number; spent: number }[];
  items: { no: number; late: boolean }[];
  criteria: Record<Criterion, number | null>;
  score: number | null;
  grade: { zh: string; en: string } | null;
}

export interface Appeal extends Paper {
  no: number;
  version: number;
  org: string;
  corrections: { criterion: Criterion; subject: string; field: string; value: unknown }[];
  state: "submitted" | "upheld" | "rejected";
  made: number | null;
}

export interface Evaluation extends EvaluationHead {
  document: {
    as_of: string;
    formula: { weights: Record<Criterion, number> };
    agencies: EvaluationRow[];
    tasks: EvaluationRow[];
    score: number | null;
    adjustments: { appeal: number; org: string; criterion: Criterion; subject: string; field: string; was: unknown; is: unknown }[];
  };
  recomputes: boolean;
  appeals: Appeal[];
  appeal_until: string | null;
}

export interface Wall {
  at: string;
  score: number | null;
  counts: Record<TargetState, number>;
  met: number;
  systems: Record<"works" | "partial" | "none", number>;
  tasks: { id: string; title_zh: string; title_en: string; score: number | null; projects: number; late: number }[];
  targets: {
    id: string;
    title_zh: string;
    title_en: string;
    unit_zh: string;
    unit_en: string;
    goal: number;
    value: number | null;
    state: TargetState;
    achievement: number;
    met: boolean;
  }[];
  projects: ProjectsTogether | null;
  late_milestones: LateMilestone[] | null;
  late_items: Item[] | null;
  evaluation: { year: number; version: number; state: string } | null;
}

export function useTasks() {
  return useQuery({
    queryKey: ["plan", "tasks"],
    queryFn: ({ signal }) => get<PlanTask[]>("/plan/tasks", undefined, signal),
    staleTime: 60_000,
  });
}
