/** The catalogue of indicators: what is counted, how, by whom, where it is shown, and its course. */
import { Drawer, Input, Skeleton, Table, type TableColumnsType } from "antd";
import { useState } from "react";
import { Link, useSearchParams } from "react-router";
import { useIndicators, type Indicator } from "../api/indicators.ts";
import { useTypeLabel } from "../api/queries.ts";
import { changed } from "../api/search.ts";
import { Facts, Nothing, PageHead } from "../components/page.tsx";
import { PeriodBar, usePeriod } from "../components/period-bar.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { LevelMark, WidgetView } from "../components/widgets.tsx";
import { useFormat } from "../format.ts";
import { useSettings, type Language } from "../settings.tsx";
import { SyntheticNote } from "./pack.tsx";

const key = ({ pack, id }: Indicator): string => `${pack}/${id}`;
const owner = (one: Indicator, language: Language): string => (language === "zh" ? one.owner_name : one.owner_name_en);

export default function Indicators() {
  const { text, language } = useSettings();
  const [params, setParams] = useSearchParams();
  const indicators = useIndicators();
  const [search, setSearch] = useState("");
  const show = params.get("show");
  const wanted = search.trim().toLowerCase();
  const items = (indicators.data ?? []).filter((one) =>
    [key(one), one.label.zh, one.label.en, one.definition.zh, one.definition.en].some((part) => part.toLowerCase().includes(wanted)),
  );
  const chosen = indicators.data?.find((one) => key(one) === show);
  const columns: TableColumnsType<Indicator> = [
    {
      title: text.packs.indicator,
      key: "name",
      width: 260,
      render: (_: unknown, one) => (
        <>
          <Link to={{ search: changed(params, { show: key(one) }).toString() }}>{one.label[language]}</Link>
          <div className="muted mono">{key(one)}</div>
        </>
      ),
    },
    { title: text.packs.definition, key: "definition", render: (_: unknown, one) => <span className="muted">{one.definition[language]}</span> },
    { title: text.packs.unit, dataIndex: "unit", width: 90 },
    { title: text.packs.owner, key: "owner", width: 190, render: (_: unknown, one) => owner(one, language) },
    { title: text.packs.version, dataIndex: "version", width: 70, align: "right" },
  ];
  return (
    <div className="page">
      <PageHead title={text.packs.catalogue} note={text.packs.catalogueNote}>
        <Input.Search
          data-search
          allowClear
          className="filter-wide"
          placeholder={text.actions.search}
          aria-label={text.actions.search}
          value={search}
          onChange={(event) => setSearch(event.target.value)}
        />
      </PageHead>
      {indicators.error && <ProblemAlert error={indicators.error} retry={() => void indicators.refetch()} />}
      <div className="panel table-wrap" data-testid="indicators">
        <Table<Indicator>
          size="middle"
          rowKey={key}
          loading={indicators.isLoading}
          columns={columns}
          dataSource={items}
          pagination={false}
          scroll={{ x: 1000 }}
          locale={{ emptyText: <Nothing title={text.packs.noIndicators} hint={text.packs.noIndicatorsHint} /> }}
        />
      </div>
      <Drawer
        open={show !== null}
        onClose={() => setParams((now) => changed(now, { show: null }))}
        size={760}
        title={chosen?.label[language] ?? show ?? ""}
        destroyOnHidden
      >
        {chosen ? <One indicator={chosen} /> : indicators.data ? <Nothing title={text.packs.noSuch} /> : <Skeleton active />}
      </Drawer>
    </div>
  );
}

function One({ indicator }: { indicator: Indicator }) {
  const { text, language } = useSettings();
  const format = useFormat();
  const typeLabel = useTypeLabel();
  const period = usePeriod(indicator.days === 30 ? 30 : indicator.days);
  const page = { indicators: { [key(indicator)]: indicator }, layers: {} };
  const common = { page, period, onPick: () => undefined };
  const chart = { indicator: key(indicator), wide: true, title: null } as const;
  return (
    <div data-testid="indicator">
      <p className="page-note">{indicator.definition[language]}</p>
      <Facts
        facts={[
          [text.packs.owner, owner(indicator, language)],
          [text.packs.version, String(indicator.version)],
          [text.packs.computed, text.packs.statistics[indicator.statistic]?.(indicator.bound === null ? "" : format.decimal(indicator.bound)) ?? indicator.statistic],
          [text.packs.of, `${indicator.types.map(typeLabel).join(text.comma)} · ${indicator.property}`],
          [text.packs.origins, indicator.origins.map((origin) => text.packs.originNames[origin] ?? origin).join(text.comma)],
          [text.packs.goal, indicator.goal === null ? "" : `${format.decimal(indicator.goal)} ${indicator.unit} · ${indicator.better === "higher" ? text.packs.higher : text.packs.lower}`],
          [text.packs.usedIn, indicator.used_in.length > 0 && indicator.used_in.map((page, i) => (
            <span key={`${page.pack}/${page.id}`}>
              {i > 0 && text.comma}
              <Link to={`/packs/${page.pack}/${page.id}`}>{page.title[language]}</Link>
            </span>
          ))],
          [text.packs.scale, indicator.levels.length > 0 && (
            <span className="legend">
              {indicator.levels.map((level, i) => (
                <span key={i}>
                  <LevelMark levels={indicator.levels} better={indicator.better} value={below(indicator, i)} />
                  {level.below !== null && <span className="muted"> &lt; {format.decimal(level.below)}</span>}
                </span>
              ))}
            </span>
          )],
        ]}
      />
      <PeriodBar period={period} />
      <SyntheticNote on={period.synthetic} />
      <div className="widgets">
        <WidgetView widget={{ kind: "tile", indicator: key(indicator) }} {...common} />
        {indicator.statistic !== "last" && <WidgetView widget={{ ...chart, kind: "line", by: "time", area: null }} {...common} />}
        {indicator.areas.includes("city") && <WidgetView widget={{ ...chart, kind: "bar", by: "area", area: "city" }} {...common} />}
        {indicator.ranking && <WidgetView widget={{ ...chart, kind: "ranking", most: 10 }} {...common} />}
      </div>
    </div>
  );
}

/** A value of a step of the scale. */
const below = ({ levels }: Indicator, step: number): number => (step === 0 ? (levels[0]!.below ?? 0) - 1e-9 : levels[step - 1]!.below!);
