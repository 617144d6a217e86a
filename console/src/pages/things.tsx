/** Search among all things; a table that draws only the rows in view. */
import { PlusOutlined, SearchOutlined } from "@ant-design/icons";
import { Button, Grid, Input, Select, Skeleton, Table, type TableColumnsType } from "antd";
import { useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import { Link, useNavigate, useSearchParams } from "react-router";
import { get } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import { useModels, useTypeLabel } from "../api/queries.ts";
import { changed } from "../api/search.ts";
import type { Page, Thing } from "../api/types.ts";
import { entityPath } from "../components/entity-link.tsx";
import { ClaimDevice } from "../components/claim-device.tsx";
import { GroupSelect } from "../components/group-select.tsx";
import { OrgSelect } from "../components/org-select.tsx";
import { Nothing, PageHead, useHeight, useRested } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { StateMark, SyntheticTag } from "../components/tags.tsx";
import { NewDevice } from "../components/new-device.tsx";
import { useFormat, useLabel } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

const FILTERS = ["q", "type", "org", "state", "synthetic", "group"] as const;

export default function Things() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const label = useLabel();
  const models = useModels();
  const typeLabel = useTypeLabel();
  const navigate = useNavigate();
  const screens = Grid.useBreakpoint();
  const [params, setParams] = useSearchParams();
  const [typed, setTyped] = useState(params.get("q") ?? "");
  const q = useRested(typed.trim());
  const [holder, height] = useHeight<HTMLDivElement>();
  const [creating, setCreating] = useState(false);
  const [claiming, setClaiming] = useState(false);

  const filters = useMemo(
    () => ({ ...Object.fromEntries(FILTERS.map((name) => [name, params.get(name) ?? undefined])), q: q || undefined }),
    [params, q],
  ) as Partial<Record<(typeof FILTERS)[number], string>>;
  const things = usePages<Thing>("/things", filters, { limit: 100 });
  // The count needs its own question, so that rows never wait for it.
  const count = useQuery({
    queryKey: ["/things", "count", filters],
    queryFn: ({ signal }) => get<Page<Thing>>("/things", { ...filters, limit: 1, count: 1 }, signal),
    select: (page) => page.count,
  });

  const set = (name: (typeof FILTERS)[number], value: string | undefined): void => {
    setParams((old) => changed(old, { [name]: value }), { replace: true });
  };

  const narrow = screens.md === false;
  const columns: TableColumnsType<Thing> = [
    {
      title: text.things.name,
      dataIndex: "name",
      width: narrow ? 220 : 260,
      render: (name: string, thing) => (
        <span className="name-cell">
          <Link to={entityPath(thing.id, thing.org)} className="ellipsis">
            {name || thing.id}
          </Link>
          {thing.synthetic ? <SyntheticTag /> : null}
        </span>
      ),
    },
    {
      title: text.things.state,
      dataIndex: "state",
      width: 96,
      render: (state: Thing["state"], thing) => <StateMark state={state} synthetic={thing.synthetic} />,
    },
  ];
  if (!narrow)
    columns.push(
      { title: text.things.type, dataIndex: "type", width: 150, ellipsis: true, render: typeLabel },
      {
        title: text.things.org,
        dataIndex: "org_name",
        width: 150,
        ellipsis: true,
        render: (_: string, thing) => label({ org_zh: thing.org_name, org_en: thing.org_name_en }, "org") || thing.org,
      },
      {
        title: text.things.latest,
        key: "latest",
        width: 340,
        render: (_: unknown, thing) => <LatestCell thing={thing} />,
      },
      {
        title: text.things.lastSeen,
        dataIndex: "last_seen",
        width: 120,
        render: (at: string | null) => (
          <span className="muted" title={format.moment(at)}>
            {at ? format.ago(at) : text.things.never}
          </span>
        ),
      },
    );

  return (
    <div className="page fill">
      <PageHead
        title={text.things.title}
        note={count.data === undefined ? undefined : text.things.count(format.integer(count.data))}
      >
        {can("access.device.create") && <Button onClick={() => setClaiming(true)}>{text.life.claim}</Button>}
        {can("access.device.create") && (
          <Button icon={<PlusOutlined />} onClick={() => setCreating(true)}>
            {text.things.newDevice}
          </Button>
        )}
      </PageHead>
      <div className="filters" role="search">
        <Input
          data-search
          allowClear
          className="things-search"
          prefix={<SearchOutlined aria-hidden />}
          placeholder={text.things.search}
          aria-label={text.things.search}
          value={typed}
          onChange={(event) => {
            setTyped(event.target.value);
            set("q", event.target.value.trim() || undefined);
          }}
        />
        <Select
          className="filter"
          allowClear
          showSearch={{ optionFilterProp: "label" }}
          placeholder={text.things.type}
          aria-label={text.things.type}
          value={filters.type}
          onChange={(value?: string) => set("type", value)}
          options={(models.data ?? []).map((model) => ({ value: model.type, label: label(model as never) }))}
        />
        <OrgSelect
          className="filter"
          allowClear
          placeholder={text.things.org}
          label={text.things.org}
          value={filters.org}
          onChange={(value) => set("org", value)}
        />
        <Select
          className="filter"
          allowClear
          placeholder={text.things.state}
          aria-label={text.things.state}
          value={filters.state}
          onChange={(value?: string) => set("state", value)}
          options={(["ok", "alarm", "offline"] as const).map((value) => ({ value, label: text.state[value] }))}
        />
        <Select
          className="filter"
          allowClear
          placeholder={text.synthetic.all}
          aria-label={text.things.source}
          value={filters.synthetic}
          onChange={(value?: string) => set("synthetic", value)}
          options={[
            { value: "0", label: text.synthetic.real },
            { value: "1", label: text.synthetic.only },
          ]}
        />
        <GroupSelect
          className="filter"
          value={filters.group ? Number(filters.group) : undefined}
          onChange={(value) => set("group", value?.toString())}
        />
        {FILTERS.some((name) => params.get(name)) && (
          <Button
            type="link"
            onClick={() => {
              setTyped("");
              setParams({}, { replace: true });
            }}
          >
            {text.actions.reset}
          </Button>
        )}
      </div>
      {things.error && <ProblemAlert error={things.error} retry={() => void things.refetch()} />}
      <div ref={holder} className="table-box panel" data-testid="things">
        {things.isLoading ? (
          <Skeleton active className="box" title={false} paragraph={{ rows: 12, width: "100%" }} />
        ) : (
          height > 0 && (
            <Table<Thing>
              virtual
              size="middle"
              rowKey="no"
              columns={columns}
              dataSource={things.items}
              pagination={false}
              scroll={{ x: narrow ? 316 : 1116, y: height - 42 }}
              locale={{ emptyText: <Nothing title={text.empty.things} hint={text.empty.thingsHint} /> }}
              onRow={(thing) => ({ onDoubleClick: () => void navigate(entityPath(thing.id, thing.org)) })}
              onScroll={(event) => {
                const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
                if (scrollHeight - scrollTop - clientHeight < 800 && things.hasNextPage && !things.isFetchingNextPage)
                  void things.fetchNextPage();
              }}
            />
          )
        )}
      </div>
      {claiming && <ClaimDevice onClose={() => setClaiming(false)} />}
      {creating && <NewDevice onClose={() => setCreating(false)} />}
    </div>
  );
}

function LatestCell({ thing }: { thing: Thing }) {
  const format = useFormat();
  const label = useLabel();
  const { data } = useModels();
  const model = data?.find(({ type }) => type === thing.type);
  const names = Object.keys(thing.latest);
  const order = model?.properties.map(({ name }) => name).filter((name) => name in thing.latest) ?? names;
  return (
    <span className="latest-cell">
      {(order.length ? order : names).slice(0, 3).map((name) => {
        const property = model?.properties.find((candidate) => candidate.name === name);
        return (
          <span key={name}>
            <span className="muted">{(property && label(property as never)) || name}</span>{" "}
            {format.scalar(thing.latest[name]!.value)}
            <span className="muted"> {thing.latest[name]!.unit ?? property?.unit ?? ""}</span>
          </span>
        );
      })}
    </span>
  );
}
