/** The frame around every page: navigation, header, skip link, keyboard. */
import {
  DownOutlined,
  LockOutlined,
  LogoutOutlined,
  MenuFoldOutlined,
  MenuOutlined,
  MenuUnfoldOutlined,
} from "@ant-design/icons";
import { App, Button, Drawer, Dropdown, Grid, Layout, Menu, Modal, Skeleton, Tooltip } from "antd";
import { Suspense, useEffect, useMemo, useState } from "react";
import { Link, Outlet, useLocation, useNavigate } from "react-router";
import { del } from "./api/client.ts";
import { useLive, useLiveStatus } from "./api/live.ts";
import { LanguageButton, ThemeButton } from "./components/choosers.tsx";
import { ErrorBoundary } from "./components/error-boundary.tsx";
import { useShowProblem } from "./components/problem.tsx";
import { useDashboards } from "./api/indicators.ts";
import { GROUPS, packEntries } from "./navigation.tsx";
import { ChangePassword } from "./pages/sign-in.tsx";
import { useCan, useSession, useSessionControl } from "./session.tsx";
import { useSettings, useText } from "./settings.tsx";

const COLLAPSED = "tulou.collapsed";

export default function Shell() {
  const { text, language } = useSettings();
  const can = useCan();
  const { data: pages } = useDashboards(can("indicators.dashboard.read"));
  const location = useLocation();
  const navigate = useNavigate();
  const screens = Grid.useBreakpoint();
  const narrow = screens.lg === false;
  const [collapsed, setCollapsed] = useState(() => localStorage.getItem(COLLAPSED) === "1");
  const [open, setOpen] = useState(false);

  const groups = useMemo(
    () =>
      GROUPS.map((group) => ({
        ...group,
        entries: [...(group.id === "packs" ? packEntries(pages ?? [], language) : []), ...group.entries].filter(({ needs }) => needs.length === 0 || can(...needs)),
      })).filter(({ entries }) => entries.length > 0),
    [can, pages, language],
  );
  const current = groups
    .flatMap(({ entries }) => entries)
    .filter(({ path }) => (path === "/" ? location.pathname === "/" : location.pathname.startsWith(path)))
    .pop();
  const title = current?.label(text) ?? text.product;

  useEffect(() => {
    document.title = `${title} · ${text.product}`;
  }, [title, text]);
  useEffect(() => setOpen(false), [location.pathname]);
  useKeyboard((path) => void navigate(path));

  const menu = (
    <Menu
      mode="inline"
      inlineCollapsed={!narrow && collapsed}
      selectedKeys={current ? [current.path] : []}
      items={groups.map((group) => {
        const items = group.entries.map(({ path, icon, label }) => ({
          key: path,
          icon,
          label: <Link to={path}>{label(text)}</Link>,
          title: label(text),
        }));
        if (group.id === "main") return { type: "group" as const, key: group.id, children: items };
        return { type: "group" as const, key: group.id, label: collapsed && !narrow ? " " : text.nav[group.id], children: items };
      })}
    />
  );

  return (
    <Layout className="shell">
      <a className="skip" href="#content">
        {text.skip}
      </a>
      {!narrow && (
        <Layout.Sider width={208} collapsedWidth={60} collapsed={collapsed} className="sider" theme="light">
          <Brand small={collapsed} />
          <nav aria-label={text.nav.label} className="sider-menu">
            {menu}
          </nav>
          <Button
            type="text"
            className="sider-fold"
            icon={collapsed ? <MenuUnfoldOutlined /> : <MenuFoldOutlined />}
            aria-label={collapsed ? text.nav.expand : text.nav.collapse}
            onClick={() => {
              localStorage.setItem(COLLAPSED, collapsed ? "0" : "1");
              setCollapsed(!collapsed);
            }}
          />
        </Layout.Sider>
      )}
      <Layout className="shell-body">
        <header className="header">
          {narrow && (
            <Button type="text" icon={<MenuOutlined />} aria-label={text.nav.menu} onClick={() => setOpen(true)} />
          )}
          {location.pathname === "/" ? (
            <div className="header-title">{title}</div>
          ) : (
            <div className="header-title quiet">{narrow ? text.product : text.productLine}</div>
          )}
          {can("access.thing.read") && <LiveMark />}
          <LanguageButton />
          <ThemeButton />
          <Account />
        </header>
        <main id="content" tabIndex={-1} className="content">
          <ErrorBoundary key={location.pathname}>
            <Suspense fallback={<Skeleton active className="page" paragraph={{ rows: 10 }} />}>
              <Outlet />
            </Suspense>
          </ErrorBoundary>
        </main>
      </Layout>
      {narrow && (
        <Drawer placement="left" size={264} open={open} onClose={() => setOpen(false)} title={<Brand />} className="nav-drawer">
          <nav aria-label={text.nav.label}>{menu}</nav>
        </Drawer>
      )}
    </Layout>
  );
}

function Brand({ small = false }: { small?: boolean }) {
  const text = useText();
  return (
    <Link to="/" className="brand" aria-label={text.product}>
      <img src="/tulou.svg" alt="" width="30" height="30" />
      {!small && (
        <span>
          土楼 <span className="brand-latin">Tulou</span>
        </span>
      )}
    </Link>
  );
}

function LiveMark() {
  const text = useText();
  useLive("counters", () => undefined);
  const on = useLiveStatus();
  const label = on ? text.live.on : text.live.off;
  return (
    <Tooltip title={label}>
      <span className={`live-mark${on ? " on" : ""}`} role="status" aria-label={label}>
        <span className="live-dot" aria-hidden />
        <span className="live-word">{text.live.on}</span>
      </span>
    </Tooltip>
  );
}

function Account() {
  const text = useText();
  const session = useSession();
  const { signedOut } = useSessionControl();
  const { message } = App.useApp();
  const show = useShowProblem();
  const [changing, setChanging] = useState(false);
  return (
    <>
      <Dropdown
        trigger={["click"]}
        menu={{
          items: [
            {
              key: "who",
              type: "group",
              label: `${session.user.org_name || session.user.org} · ${session.user.name}`,
            },
            { key: "password", icon: <LockOutlined />, label: text.settings.changePassword },
            { key: "out", icon: <LogoutOutlined />, label: text.settings.signOut },
          ],
          onClick: ({ key }) => {
            if (key === "password") setChanging(true);
            else if (key === "out") del("/session").then(signedOut, show);
          },
        }}
      >
        <Button type="text" aria-label={text.settings.account} data-testid="account" className="account">
          <span className="account-name">{session.user.display || session.user.name}</span>
          <DownOutlined aria-hidden style={{ fontSize: 10 }} />
        </Button>
      </Dropdown>
      <Modal
        title={text.signIn.changeTitle}
        open={changing}
        onCancel={() => setChanging(false)}
        footer={null}
        destroyOnHidden
        width={420}
      >
        <ChangePassword
          session={session}
          done={() => {
            setChanging(false);
            void message.success(text.signIn.changed);
          }}
        />
      </Modal>
    </>
  );
}

/** `/` goes to the page's search field; `g` and a letter goes to a page. */
function useKeyboard(go: (path: string) => void): void {
  useEffect(() => {
    let leader = 0;
    const pressed = (event: KeyboardEvent): void => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.isContentEditable) return;
      if (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) return;
      if (event.key === "/") {
        const field = document.querySelector<HTMLInputElement>("[data-search] input, input[data-search]");
        if (field) {
          event.preventDefault();
          field.focus();
          field.select();
        }
      } else if (event.key === "g") {
        leader = event.timeStamp;
      } else if (leader && event.timeStamp - leader < 1200) {
        leader = 0;
        const entry = GROUPS.flatMap(({ entries }) => entries).find(({ key }) => key === event.key);
        if (entry) go(entry.path);
      }
    };
    document.addEventListener("keydown", pressed);
    return () => document.removeEventListener("keydown", pressed);
  }, [go]);
}
