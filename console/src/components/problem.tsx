/** How a refusal is shown: in the reader's language, with the field, the value and the rule it names. */
import { Alert, App, Button, Result } from "antd";
import { useCallback, useState } from "react";
import { OFFLINE, Problem } from "../api/client.ts";
import { useSettings, useText, type Language } from "../settings.tsx";

/** One sentence in the reader's language. */
export function problemText(error: unknown, language: Language): string {
  if (error instanceof Problem) {
    const { detail_zh, detail_en, detail, title } = error.body;
    return (language === "zh" ? detail_zh : detail_en) || detail || title || `HTTP ${error.status}`;
  }
  return error instanceof Error ? error.message : String(error);
}

export function ProblemAlert({ error, retry }: { error: unknown; retry?: () => void }) {
  const { language, text } = useSettings();
  const body = error instanceof Problem ? error.body : {};
  const facts = [
    [text.error.field, body.field],
    [text.error.value, body.value],
    [text.error.rule, body.rule],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
  return (
    <Alert
      type="error"
      showIcon
      role="alert"
      title={problemText(error, language)}
      description={
        facts.length > 0 && (
          <dl className="facts">
            {facts.map(([label, value]) => (
              <div key={String(label)}>
                <dt>{String(label)}</dt>
                <dd>{typeof value === "object" ? JSON.stringify(value) : String(value)}</dd>
              </div>
            ))}
          </dl>
        )
      }
      action={
        retry && (
          <Button size="small" onClick={retry}>
            {text.actions.retry}
          </Button>
        )
      }
    />
  );
}

export function ProblemPage({ error, retry }: { error: unknown; retry?: () => void }) {
  const text = useText();
  const offline = error instanceof Problem && error.status === OFFLINE;
  return (
    <Result
      status={offline ? "warning" : "error"}
      title={offline ? text.error.offline : text.error.title}
      extra={
        <div style={{ maxWidth: 560, margin: "0 auto", textAlign: "start" }}>
          <ProblemAlert error={error} retry={retry} />
        </div>
      }
    />
  );
}

/** Show a refused action as a notification. */
export function useShowProblem(): (error: unknown) => void {
  const { notification } = App.useApp();
  const { language, text } = useSettings();
  return useCallback(
    (error) => {
      const body = error instanceof Problem ? error.body : {};
      const facts = [body.field, body.value, body.rule].filter((item) => item !== undefined && item !== null);
      notification.error({
        title: problemText(error, language),
        description: facts.length
          ? [
              body.field && `${text.error.field}: ${body.field}`,
              body.value !== undefined && body.value !== null && `${text.error.value}: ${String(body.value)}`,
              body.rule && `${text.error.rule}: ${body.rule}`,
            ]
              .filter(Boolean)
              .join(" · ")
          : undefined,
        placement: "topRight",
      });
    },
    [notification, language, text],
  );
}

/** Of a form: whether it is being sent, what was refused, and how to send it; `done` takes the answer to what was accepted. */
export function useSending() {
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const send = <T,>(asked: Promise<T>, done: (answer: T) => unknown): void => {
    setBusy(true);
    setError(null);
    void asked
      .then(done)
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return { error, busy, send };
}
