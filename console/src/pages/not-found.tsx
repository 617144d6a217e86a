import { Button, Result } from "antd";
import { Link } from "react-router";
import { useText } from "../settings.tsx";

export function NotFoundPage() {
  const text = useText();
  return (
    <Result
      status="404"
      title={text.error.notFound}
      subTitle={text.error.notFoundHint}
      extra={
        <Link to="/">
          <Button type="primary">{text.nav.cockpit}</Button>
        </Link>
      }
    />
  );
}
