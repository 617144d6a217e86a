/** Jobs: progress, cancel. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { App, Button, Progress, Tag } from "antd";
import { get, post } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { Job, JobDetail } from "../api/types.ts";
import { Nothing, PagedTable, PageHead } from "../components/page.tsx";
import { ProblemAlert, useShowProblem } from "../components/problem.tsx";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

const COLOURS: Record<string, string> = { running: "processing", failed: "error", done: "success", succeeded: "success", finished: "success" };

export default function Jobs() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const { modal } = App.useApp();
  const show = useShowProblem();
  const client = useQueryClient();
  const jobs = usePages<Job>("/jobs", {}, { refetch: 3000 });
  const mayCancel = can("jobs.job.manage");

  return (
    <div className="page">
      <PageHead title={text.jobs.title} />
      <PagedTable<Job>
        pages={jobs}
        testid="jobs"
        rowKey="id"
        scroll={{ x: 900 }}
        expandable={{ expandedRowRender: (job) => <Detail id={job.id} /> }}
        empty={<Nothing title={text.empty.jobs} />}
        columns={[
          { title: "#", dataIndex: "id", width: 70 },
          { title: text.jobs.kind, dataIndex: "kind", width: 160 },
          {
            title: text.jobs.state,
            dataIndex: "state",
            width: 100,
            render: (state: string) => <Tag color={COLOURS[state]}>{text.jobs.states[state] ?? state}</Tag>,
          },
          {
            title: text.jobs.progress,
            key: "progress",
            width: 220,
            render: (_: unknown, job) =>
              job.total ? (
                <Progress
                  size="small"
                  percent={Math.floor((job.progress / job.total) * 100)}
                  status={job.state === "failed" ? "exception" : job.state === "running" ? "active" : undefined}
                />
              ) : (
                format.integer(job.progress ?? 0)
              ),
          },
          { title: text.jobs.started, dataIndex: "started_at", width: 170, render: format.moment },
          { title: text.jobs.ended, dataIndex: "ended_at", width: 170, render: format.moment },
          { title: text.jobs.error, dataIndex: "error", ellipsis: true, render: (error: string | null) => error ?? "" },
          {
            key: "actions",
            width: 110,
            align: "right",
            render: (_: unknown, job) =>
              mayCancel &&
              (job.state === "failed" || job.state === "cancelled" ? (
                <Button
                  size="small"
                  onClick={() =>
                    post(`/jobs/${job.id}/resume`).then(() => client.invalidateQueries({ queryKey: ["/jobs"] }), show)
                  }
                >
                  {text.jobs.resume}
                </Button>
              ) : job.state === "running" || job.state === "queued" ? (
                <Button
                  size="small"
                  onClick={() =>
                    void modal.confirm({
                      title: text.jobs.cancel,
                      content: text.jobs.cancelConfirm,
                      onOk: () =>
                        post(`/jobs/${job.id}/cancel`).then(
                          () => client.invalidateQueries({ queryKey: ["/jobs"] }),
                          show,
                        ),
                    })
                  }
                >
                  {text.jobs.cancel}
                </Button>
              ) : null),
          },
        ]}
      />
    </div>
  );
}

function Detail({ id }: { id: Job["id"] }) {
  const format = useFormat();
  const job = useQuery({
    queryKey: ["/jobs", "one", id],
    queryFn: ({ signal }) => get<JobDetail>(`/jobs/${id}`, undefined, signal),
    refetchInterval: 3000,
  });
  if (job.error) return <ProblemAlert error={job.error} />;
  const { arguments: given, result, log } = job.data ?? {};
  const lines = (log ?? []).map(({ at, line }) => `${format.time(at)}  ${line}`);
  return (
    <pre className="raw">
      {[JSON.stringify(given ?? {}), ...lines, ...(result ? [JSON.stringify(result, null, 2)] : [])].join("\n")}
    </pre>
  );
}
