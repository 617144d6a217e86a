/** The page of a pack: its dashboards, made of what it declares. */
import { Alert, Button, Skeleton, Tabs } from "antd";
import { useState } from "react";
import { Link, useParams, useSearchParams } from "react-router";
import { useDashboard, useDashboards } from "../api/indicators.ts";
import { useOverview } from "../api/overview.ts";
import { changed } from "../api/search.ts";
import { PageHead } from "../components/page.tsx";
import { PeriodBar, usePeriod } from "../components/period-bar.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { ThingDrawer } from "../components/thing-drawer.tsx";
import { WidgetView } from "../components/widgets.tsx";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useSettings } from "../settings.tsx";
import { NotFoundPage } from "./not-found.tsx";

export default function PackPage() {
  const { pack = "", id } = useParams();
  const { text, language } = useSettings();
  const period = usePeriod();
  const [params] = useSearchParams();
  const [picked, setPicked] = useState<number | null>(null);
  const entries = useDashboards();
  const own = (entries.data ?? []).filter((entry) => entry.pack === pack);
  const shown = id ?? own[0]?.id;
  const dashboard = useDashboard(pack, shown);
  if (entries.data && !own.some((entry) => entry.id === shown)) return <NotFoundPage />;
  if (dashboard.error) return <ProblemAlert error={dashboard.error} retry={() => void dashboard.refetch()} />;
  const page = dashboard.data;
  return (
    <div className="page dashboard" data-testid="dashboard">
      <PageHead title={page?.title[language] ?? own[0]?.pack_label[language] ?? ""} note={page?.note?.[language]} />
      {own.length > 1 && (
        <Tabs
          activeKey={shown}
          items={own.map((entry) => ({
            key: entry.id,
            label: <Link to={{ pathname: `/packs/${pack}/${entry.id}`, search: changed(params, {}).toString() }}>{entry.title[language]}</Link>,
          }))}
        />
      )}
      <PeriodBar period={period} />
      <SyntheticNote on={period.synthetic} />
      {!page ? (
        <Skeleton active paragraph={{ rows: 12 }} />
      ) : (
        page.sections.map((section, s) => (
          <section key={s} className="dashboard-section">
            {section.title && <h2>{section.title[language]}</h2>}
            {[true, false].map((tiles) => (
              <div key={String(tiles)} className="widgets">
                {section.widgets
                  .filter(({ kind }) => (kind === "tile") === tiles)
                  .map((widget, w) => (
                    <WidgetView key={w} widget={widget} page={page} period={period} onPick={setPicked} />
                  ))}
              </div>
            ))}
          </section>
        ))
      )}
      <p className="muted widget-foot">{text.packs.byDays}</p>
      <ThingDrawer no={picked} onClose={() => setPicked(null)} />
    </div>
  );
}

/** That what is synthetic is counted here, or that there is some which is not. */
export function SyntheticNote({ on }: { on: boolean }) {
  const { text } = useSettings();
  const format = useFormat();
  const can = useCan();
  const [, setParams] = useSearchParams();
  const overview = useOverview();
  const made = (can("access.thing.read") && overview.data?.synthetic.entities) || 0;
  if (!on && !made) return null;
  return (
    <Alert
      className="gap-below synthetic-note"
      type={on ? "warning" : "info"}
      showIcon
      title={on ? text.packs.syntheticOn : text.packs.syntheticOff(format.integer(made))}
      data-testid="synthetic-note"
      action={
        !on && (
          <Button size="small" onClick={() => setParams((now) => changed(now, { synthetic: "1" }), { replace: true })}>
            {text.packs.showSynthetic}
          </Button>
        )
      }
    />
  );
}
