/** The parts that list pages share. */
import { Button, Empty } from "antd";
import { useEffect, useRef, useState, type ReactNode } from "react";
import { useText } from "../settings.tsx";

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
