/** A thing by its number: its page is that of the entity, by identifier. */
import { Skeleton } from "antd";
import { Link, Navigate, useParams, useSearchParams } from "react-router";
import { useThing } from "../api/queries.ts";
import { entityPath } from "../components/entity-link.tsx";
import { PageHead } from "../components/page.tsx";
import { ProblemAlert } from "../components/problem.tsx";
import { useText } from "../settings.tsx";

export default function ThingPage() {
  const text = useText();
  const no = Number(useParams()["no"]);
  const [params] = useSearchParams();
  const thing = useThing(Number.isInteger(no) ? no : null);
  if (thing.data) return <Navigate to={entityPath(thing.data.id, thing.data.org, Object.fromEntries(params))} replace />;
  if (!thing.error && Number.isInteger(no)) return <Skeleton active className="page" paragraph={{ rows: 10 }} />;
  return (
    <div className="page">
      <PageHead title={text.things.title} />
      {thing.error && <ProblemAlert error={thing.error} retry={() => void thing.refetch()} />}
      <p className="page-note">
        <Link to="/things">{text.things.title}</Link>
      </p>
    </div>
  );
}
