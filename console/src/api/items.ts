/** Workflows and their items, as the house tells them. */
import { useQuery } from "@tanstack/react-query";
import { get } from "./client.ts";

export interface Words {
  zh: string;
  en: string;
}

export interface Field {
  kind: "number" | "boolean" | "string" | "json";
  label: Words;
  symbol: string;
  min: number | null;
  max: number | null;
}

export interface Transition {
  label: Words;
  source: string[];
  target: string;
  roles: string[];
  asks: string[];
  needs: string[];
  comment: boolean;
}

export interface Workflow {
  name: string;
  label: Words;
  asks: string[];
  needs: string[];
  fields: Record<string, Field>;
  states: Record<string, { label: Words; final: boolean }>;
  transitions: Record<string, Transition>;
  may_create: boolean;
}

export interface Step {
  number: number;
  transition: string;
  target: string;
  actor: string;
  comment: string;
  fields: Record<string, unknown>;
  at: string;
}

export interface Item {
  no: number;
  workflow: string;
  org: string;
  title: string;
  subject: string;
  state: string;
  final: boolean;
  step: number;
  level: number;
  fields: Record<string, unknown>;
  assignee: string;
  created_by: string;
  created_at: string;
  due_at: string | null;
  steps?: Step[];
  may?: string[];
}

export function useWorkflows() {
  return useQuery({
    queryKey: ["workflows"],
    queryFn: async ({ signal }) => (await get<{ items: Workflow[] }>("/workflows", undefined, signal)).items,
    staleTime: 600_000,
  });
}
