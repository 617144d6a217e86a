/** Which page is shown: nobody signs in, a first password is changed, everybody else gets the shell. */
import { Spin } from "antd";
import { lazy, Suspense } from "react";
import { Navigate, Route, Routes } from "react-router";
import { ProblemPage } from "./components/problem.tsx";
import { NotFoundPage } from "./pages/not-found.tsx";
import { SignInPage } from "./pages/sign-in.tsx";
import { GROUPS } from "./navigation.tsx";
import { SessionProvider, useCan, useSessionQuery } from "./session.tsx";

const Shell = lazy(() => import("./shell.tsx"));
const Cockpit = lazy(() => import("./pages/cockpit.tsx"));
const Things = lazy(() => import("./pages/things.tsx"));
const Entity = lazy(() => import("./pages/entity.tsx"));
const Thing = lazy(() => import("./pages/thing.tsx"));
const Tasks = lazy(() => import("./pages/tasks.tsx"));
const Targets = lazy(() => import("./pages/targets.tsx"));
const Target = lazy(() => import("./pages/target.tsx"));
const Task = lazy(() => import("./pages/task.tsx"));
const Projects = lazy(() => import("./pages/projects.tsx"));
const Project = lazy(() => import("./pages/project.tsx"));
const Openings = lazy(() => import("./pages/openings.tsx"));
const Evaluations = lazy(() => import("./pages/evaluations.tsx"));
const Screen = lazy(() => import("./pages/screen.tsx"));
const Organisations = lazy(() => import("./pages/organisations.tsx"));
const People = lazy(() => import("./pages/people.tsx"));
const Tokens = lazy(() => import("./pages/tokens.tsx"));
const Alarms = lazy(() => import("./pages/alarms.tsx"));
const Rules = lazy(() => import("./pages/rules.tsx"));
const DeadLetters = lazy(() => import("./pages/dead-letters.tsx"));
const Audit = lazy(() => import("./pages/audit.tsx"));
const System = lazy(() => import("./pages/system.tsx"));
const Rollouts = lazy(() => import("./pages/rollouts.tsx"));
const Provisioning = lazy(() => import("./pages/provisioning.tsx"));
const Items = lazy(() => import("./pages/items.tsx"));
const Products = lazy(() => import("./pages/products.tsx"));
const ProductPage = lazy(() => import("./pages/product.tsx"));
const Edges = lazy(() => import("./pages/edges.tsx"));
const Pack = lazy(() => import("./pages/pack.tsx"));
const Indicators = lazy(() => import("./pages/indicators.tsx"));
const Jobs = lazy(() => import("./pages/jobs.tsx"));

function Waiting() {
  return (
    <div className="waiting">
      <Spin size="large" />
    </div>
  );
}

/** The cockpit, or the first page of the menu for who may not see it. */
function Home() {
  const can = useCan();
  const first = GROUPS.flatMap(({ entries }) => entries).find(({ needs }) => needs.length === 0 || can(...needs));
  return !first || first.path === "/" ? <Cockpit /> : <Navigate to={first.path} replace />;
}

export function App() {
  const { data, error, refetch } = useSessionQuery();
  if (error && !data) return <ProblemPage error={error} retry={() => void refetch()} />;
  if (!data) return <Waiting />;
  if (!data.session) return <SignInPage anonymous={data.anonymous} />;
  if (data.session.user.must_change_password) return <SignInPage changing={data.session} />;
  return (
    <SessionProvider session={data.session}>
      <Suspense fallback={<Waiting />}>
        <Routes>
          <Route path="screen" element={<Screen />} />
          <Route element={<Shell />}>
            <Route index element={<Home />} />
            <Route path="things" element={<Things />} />
            <Route path="things/:no" element={<Thing />} />
            <Route path="entities/*" element={<Entity />} />
            <Route path="plan" element={<Navigate to="/plan/targets" replace />} />
            <Route path="plan/tasks" element={<Tasks />} />
            <Route path="plan/tasks/:id" element={<Task />} />
            <Route path="plan/projects" element={<Projects />} />
            <Route path="plan/projects/:no" element={<Project />} />
            <Route path="plan/openings" element={<Openings />} />
            <Route path="plan/evaluations" element={<Evaluations />} />
            <Route path="plan/targets" element={<Targets />} />
            <Route path="plan/targets/:id" element={<Target />} />
            <Route path="organisations" element={<Organisations />} />
            <Route path="people" element={<People />} />
            <Route path="tokens" element={<Tokens />} />
            <Route path="alarms" element={<Alarms />} />
            <Route path="rules" element={<Rules />} />
            <Route path="dead-letters" element={<DeadLetters />} />
            <Route path="audit" element={<Audit />} />
            <Route path="system" element={<System />} />
            <Route path="rollouts" element={<Rollouts />} />
            <Route path="provisioning" element={<Provisioning />} />
            <Route path="items" element={<Items />} />
            <Route path="products" element={<Products />} />
            <Route path="products/:name" element={<ProductPage />} />
            <Route path="edges" element={<Edges />} />
            <Route path="jobs" element={<Jobs />} />
            <Route path="indicators" element={<Indicators />} />
            <Route path="packs/:pack/:id?" element={<Pack />} />
            <Route path="*" element={<NotFoundPage />} />
          </Route>
        </Routes>
      </Suspense>
    </SessionProvider>
  );
}
