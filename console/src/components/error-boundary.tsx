/** A page that fails must not take the console with it. */
import { Result } from "antd";
import { Component, type ReactNode } from "react";
import { useText } from "../settings.tsx";

function Crash({ error }: { error: Error }) {
  const text = useText();
  return <Result status="error" title={text.error.crash} subTitle={error.message} />;
}

export class ErrorBoundary extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render(): ReactNode {
    return this.state.error ? <Crash error={this.state.error} /> : this.props.children;
  }
}
