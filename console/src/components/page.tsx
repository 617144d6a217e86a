/** The parts that list pages share. */
import { Alert, App, Button, Empty, Modal, Table, type TableProps } from "antd";
import { useEffect, useRef, useState, type ReactNode } from "react";
import { useText } from "../settings.tsx";
import { ProblemAlert } from "./problem.tsx";

export function PageHead({ title, note, children }: { title: string; note?: ReactNode; children?: ReactNode }) {
  return (
    <div className="page-head">
      <h1>{title}</h1>
      {note && <span className="muted">{note}</span>}
      <span className="spacer" />
      {children}
    </div>
  );
}

export function Nothing({ title, hint }: { title: string; hint?: string }) {
  return (
    <Empty image={Empty.PRESENTED_IMAGE_SIMPLE} description={title}>
      {hint && <span className="muted">{hint}</span>}
    </Empty>
  );
}

interface MoreProps {
  hasNextPage: boolean;
  isFetchingNextPage: boolean;
  fetchNextPage(): unknown;
}

export function More({ hasNextPage, isFetchingNextPage, fetchNextPage }: MoreProps) {
  const text = useText();
  if (!hasNextPage) return null;
  return (
    <div className="table-foot">
      <Button loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
        {text.actions.more}
      </Button>
    </div>
  );
}

interface PagedTableProps<T> extends TableProps<T> {
  /** What `usePages` gives. */
  pages: MoreProps & { items: T[]; isLoading: boolean; error: unknown; refetch(): unknown };
  testid?: string;
  empty: ReactNode;
}

/** A list that grows as the reader asks for more, as a table in a panel. */
export function PagedTable<T extends object>({ pages, testid, empty, ...table }: PagedTableProps<T>) {
  return (
    <>
      {pages.error != null && <ProblemAlert error={pages.error} retry={() => void pages.refetch()} />}
      <div className="panel table-wrap" data-testid={testid}>
        <Table<T>
          size="middle"
          loading={pages.isLoading}
          dataSource={pages.items}
          pagination={false}
          locale={{ emptyText: empty }}
          {...table}
        />
        <More {...pages} />
      </div>
    </>
  );
}

/** Height of an element in pixels, for a table that scrolls inside it. */
export function useHeight<E extends HTMLElement>(): [React.RefObject<E | null>, number] {
  const ref = useRef<E>(null);
  const [height, setHeight] = useState(0);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const watch = new ResizeObserver(() => setHeight(element.clientHeight));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  return [ref, height];
}

/** A value that follows another once it has rested. */
export function useRested<T>(value: T, ms = 250): T {
  const [rested, setRested] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setRested(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return rested;
}

/** A secret that is shown once, with a button to copy it. */
export function Secret({ value }: { value: string }) {
  const text = useText();
  const [copied, setCopied] = useState(false);
  return (
    <div className="secret">
      <code data-testid="secret">{value}</code>
      <Button onClick={() => void navigator.clipboard?.writeText(value).then(() => setCopied(true))}>
        {copied ? text.actions.copied : text.actions.copy}
      </Button>
    </div>
  );
}

/** Names and values; those without a value are left out. */
export function Facts({ facts }: { facts: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {facts
        .filter(([, value]) => value)
        .map(([key, value]) => (
          <div key={key}>
            <dt>{key}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

interface RemoveProps {
  /** What the button and the question say. */
  text: string;
  /** What is removed. */
  name: string;
  warning?: string;
  onRemove(): Promise<unknown>;
}

/** A quiet button that asks before it removes something. */
export function RemoveButton({ text, name, warning, onRemove }: RemoveProps) {
  const { modal } = App.useApp();
  return (
    <Button
      size="small"
      type="text"
      danger
      onClick={() =>
        void modal.confirm({
          title: `${text} · ${name}`,
          content: warning,
          okText: text,
          okButtonProps: { danger: true },
          onOk: onRemove,
        })
      }
    >
      {text}
    </Button>
  );
}

interface OnceProps {
  title: string;
  /** The secret, once there is one; then it alone is shown. */
  secret: string | null;
  once: string;
  error: unknown;
  busy: boolean;
  onOk(): void;
  onClose(): void;
  /** The form before. */
  children: ReactNode;
}

/** A dialog that makes something whose secret is shown once. */
export function OnceModal({ title, secret, once, error, busy, onOk, onClose, children }: OnceProps) {
  const text = useText();
  return (
    <Modal
      open
      title={title}
      onCancel={onClose}
      onOk={secret === null ? onOk : onClose}
      okText={secret === null ? text.actions.create : text.actions.close}
      cancelButtonProps={{ hidden: secret !== null }}
      confirmLoading={busy}
      mask={{ closable: secret === null }}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      {secret === null ? (
        children
      ) : (
        <>
          <Alert type="success" showIcon title={once} />
          <Secret value={secret} />
        </>
      )}
    </Modal>
  );
}
