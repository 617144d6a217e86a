/** Sign in, or change the first password before anything else. */
import { LockOutlined, SafetyCertificateOutlined, UserOutlined } from "@ant-design/icons";
import { Alert, Button, Divider, Form, Input } from "antd";
import { useEffect, useState } from "react";
import { path, post, Problem } from "../api/client.ts";
import type { Anonymous, Session } from "../api/types.ts";
import { LanguageButton, ThemeButton } from "../components/choosers.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { useSessionControl } from "../session.tsx";
import { useText } from "../settings.tsx";

type Props = { anonymous: Anonymous; changing?: undefined } | { anonymous?: undefined; changing: Session };

export function SignInPage({ anonymous, changing }: Props) {
  const text = useText();
  const title = changing ? text.signIn.changeTitle : text.signIn.title;
  useEffect(() => {
    document.title = `${title} · ${text.product}`;
  }, [title, text]);
  return (
    <div className="sign-in">
      <div className="sign-in-tools">
        <LanguageButton />
        <ThemeButton />
      </div>
      <main className="sign-in-card">
        <div className="sign-in-brand">
          <img src="/tulou.svg" alt="" width="52" height="52" />
          <div>
            <div className="sign-in-name">
              土楼 <span>Tulou</span>
            </div>
            <div className="muted">{text.productLine}</div>
          </div>
        </div>
        <h1>{title}</h1>
        {changing ? <ChangePassword session={changing} /> : <SignIn oidc={anonymous.oidc} />}
        {anonymous?.version && <div className="sign-in-version muted">v{anonymous.version}</div>}
      </main>
    </div>
  );
}

function SignIn({ oidc }: { oidc: boolean }) {
  const text = useText();
  const { signedIn } = useSessionControl();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);

  const submit = async (values: { name: string; password: string }): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      signedIn(await post<Session>("/session", values));
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  return (
    <>
      {error !== null && (
        <div className="gap-below">
          {error instanceof Problem && error.retryAfter ? (
            <Alert type="warning" showIcon role="alert" title={text.signIn.retryAfter(error.retryAfter)} />
          ) : (
            <ProblemAlert error={error} />
          )}
        </div>
      )}
      <Form layout="vertical" size="large" requiredMark={false} onFinish={(values) => void submit(values)}>
        <Form.Item name="name" label={text.signIn.name} rules={[{ required: true, message: text.signIn.needName }]}>
          <Input prefix={<UserOutlined aria-hidden />} autoComplete="username" autoFocus spellCheck={false} />
        </Form.Item>
        <Form.Item
          name="password"
          label={text.signIn.password}
          rules={[{ required: true, message: text.signIn.needPassword }]}
        >
          <Input.Password prefix={<LockOutlined aria-hidden />} autoComplete="current-password" />
        </Form.Item>
        <Button type="primary" htmlType="submit" block loading={busy}>
          {text.signIn.submit}
        </Button>
      </Form>
      {oidc && (
        <>
          <Divider plain>{text.signIn.or}</Divider>
          <Button block size="large" icon={<SafetyCertificateOutlined aria-hidden />} href={path("/oidc/login")}>
            {text.signIn.oidc}
          </Button>
        </>
      )}
      <p className="muted sign-in-hint">{text.signIn.first}</p>
    </>
  );
}

/** The form that changes one's own password; also used in the account menu. */
export function ChangePassword({ session, done }: { session: Session; done?: () => void }) {
  const text = useText();
  const { refresh } = useSessionControl();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);

  const submit = async (values: { old: string; new: string }): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await post("/session/password", { old: values.old, new: values.new });
      await refresh();
      done?.();
    } catch (refused) {
      setError(refused);
    } finally {
      setBusy(false);
    }
  };

  return (
    <>
      {session.user.must_change_password && (
        <Alert className="gap-below" type="info" showIcon title={text.signIn.changeFirst} />
      )}
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      <Form layout="vertical" size="large" requiredMark={false} onFinish={(values) => void submit(values)}>
        <input type="text" autoComplete="username" defaultValue={session.user.name} hidden readOnly />
        <Form.Item name="old" label={text.signIn.old} rules={[{ required: true, message: text.signIn.needPassword }]}>
          <Input.Password autoComplete="current-password" autoFocus />
        </Form.Item>
        <Form.Item
          name="new"
          label={text.signIn.new}
          rules={[{ required: true, min: 8, message: text.signIn.short }]}
        >
          <Input.Password autoComplete="new-password" />
        </Form.Item>
        <Form.Item
          name="again"
          label={text.signIn.again}
          dependencies={["new"]}
          rules={[
            ({ getFieldValue }) => ({
              validator: (_rule, value) =>
                value === getFieldValue("new") ? Promise.resolve() : Promise.reject(new Error(text.signIn.mismatch)),
            }),
          ]}
        >
          <Input.Password autoComplete="new-password" />
        </Form.Item>
        <Button type="primary" htmlType="submit" block loading={busy}>
          {text.signIn.changeTitle}
        </Button>
      </Form>
    </>
  );
}
