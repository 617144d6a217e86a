/** The menu, and which actions make each entry appear. */
import {
  AimOutlined,
  AlertOutlined,
  ApartmentOutlined,
  AppstoreOutlined,
  AuditOutlined,
  CarryOutOutlined,
  CloudUploadOutlined,
  ClusterOutlined,
  DashboardOutlined,
  DatabaseOutlined,
  FlagOutlined,
  FunctionOutlined,
  FundOutlined,
  HeartOutlined,
  InboxOutlined,
  KeyOutlined,
  LineChartOutlined,
  ProjectOutlined,
  SafetyCertificateOutlined,
  ScheduleOutlined,
  ShareAltOutlined,
  TeamOutlined,
  TrophyOutlined,
} from "@ant-design/icons";
import type { ReactNode } from "react";
import type { DashboardEntry } from "./api/indicators.ts";
import type { Dict } from "./i18n/zh.ts";
import type { Language } from "./settings.tsx";

export interface Entry {
  path: string;
  /** Second key after `g`. */
  key: string;
  icon: ReactNode;
  label(text: Dict): string;
  /** Any one of these is enough; none: everybody. */
  needs: string[];
}

export interface Group {
  id: "main" | "packs" | "plan" | "access" | "operations";
  entries: Entry[];
}

export const GROUPS: Group[] = [
  {
    id: "main",
    entries: [
      { path: "/", key: "c", icon: <DashboardOutlined />, label: (t) => t.nav.cockpit, needs: ["access.thing.read"] },
      { path: "/things", key: "t", icon: <DatabaseOutlined />, label: (t) => t.nav.things, needs: ["access.thing.read"] },
    ],
  },
  {
    id: "packs",
    entries: [
      { path: "/indicators", key: "x", icon: <FundOutlined />, label: (t) => t.nav.indicators, needs: ["indicators.indicator.read"] },
    ],
  },
  {
    id: "plan",
    entries: [
      { path: "/plan/targets", key: "p", icon: <AimOutlined />, label: (t) => t.nav.targets, needs: ["plan.*.read"] },
      { path: "/items", key: "i", icon: <CarryOutOutlined />, label: (t) => t.nav.items, needs: ["workflow.item.read"] },
      { path: "/plan/tasks", key: "k", icon: <FlagOutlined />, label: (t) => t.nav.tasks, needs: ["plan.*.read"] },
      { path: "/plan/projects", key: "w", icon: <ProjectOutlined />, label: (t) => t.nav.projects, needs: ["plan.project.read"] },
      { path: "/plan/openings", key: "h", icon: <ShareAltOutlined />, label: (t) => t.nav.openings, needs: ["plan.*.read"] },
      { path: "/plan/evaluations", key: "y", icon: <TrophyOutlined />, label: (t) => t.nav.evaluations, needs: ["plan.*.read"] },
    ],
  },
  {
    id: "access",
    entries: [
      {
        path: "/organisations",
        key: "o",
        icon: <ApartmentOutlined />,
        label: (t) => t.nav.organisations,
        needs: ["organisations.org.read"],
      },
      { path: "/people", key: "u", icon: <TeamOutlined />, label: (t) => t.nav.people, needs: ["organisations.user.read"] },
      { path: "/tokens", key: "n", icon: <KeyOutlined />, label: (t) => t.nav.tokens, needs: ["organisations.token.read"] },
    ],
  },
  {
    id: "operations",
    entries: [
      { path: "/alarms", key: "a", icon: <AlertOutlined />, label: (t) => t.nav.alarms, needs: ["access.alarm.read"] },
      { path: "/rules", key: "r", icon: <FunctionOutlined />, label: (t) => t.nav.rules, needs: ["access.rule.read"] },
      {
        path: "/dead-letters",
        key: "d",
        icon: <InboxOutlined />,
        label: (t) => t.nav.deadLetters,
        needs: ["access.deadletter.read"],
      },
      { path: "/rollouts", key: "f", icon: <CloudUploadOutlined />, label: (t) => t.nav.rollouts, needs: ["access.rollout.read"] },
      { path: "/products", key: "m", icon: <AppstoreOutlined />, label: (t) => t.nav.products, needs: ["access.product.read"] },
      {
        path: "/provisioning",
        key: "v",
        icon: <SafetyCertificateOutlined />,
        label: (t) => t.nav.provisioning,
        needs: ["access.provision.read"],
      },
      { path: "/edges", key: "e", icon: <ClusterOutlined />, label: (t) => t.nav.edges, needs: ["access.edge.read"] },
      { path: "/jobs", key: "j", icon: <ScheduleOutlined />, label: (t) => t.nav.jobs, needs: ["jobs.job.read"] },
      { path: "/audit", key: "l", icon: <AuditOutlined />, label: (t) => t.nav.audit, needs: ["audit.record.read"] },
      { path: "/system", key: "s", icon: <HeartOutlined />, label: (t) => t.nav.system, needs: ["house.*.read"] },
    ],
  },
];

/** The entries of packs that have pages, one for each. */
export function packEntries(pages: DashboardEntry[], language: Language): Entry[] {
  return pages
    .filter(({ pack }, i) => pages.findIndex((page) => page.pack === pack) === i)
    .map(({ pack, pack_label }) => ({
      path: `/packs/${pack}`, key: "", icon: <LineChartOutlined />, label: () => pack_label[language], needs: ["indicators.dashboard.read"],
    }));
}
