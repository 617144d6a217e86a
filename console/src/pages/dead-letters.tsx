/** What could not be decoded, with its raw frame and the reason; replay. */
import { ReloadOutlined } from "@ant-design/icons";
import { useQueryClient } from "@tanstack/react-query";
import { App, Button, Table } from "antd";
import { useState } from "react";
import { Link } from "react-router";
import { post, Problem, type ProblemBody } from "../api/client.ts";
import { usePages } from "../api/pages.ts";
import type { DeadLetter } from "../api/types.ts";
import { More, Nothing, PageHead } from "../components/page.tsx";
import { ProblemAlert, useShowProblem } from "../components/problem.tsx";
import { Raw } from "../components/raw.tsx";
import { useFormat } from "../format.ts";
import { useCan } from "../session.tsx";
import { useText } from "../settings.tsx";

export default function DeadLetters() {
  const text = useText();
  const format = useFormat();
  const can = useCan();
  const { message } = App.useApp();
  const show = useShowProblem();
  const client = useQueryClient();
  const letters = usePages<DeadLetter>("/dead-letters");
  const [chosen, setChosen] = useState<React.Key[]>([]);
  const [busy, setBusy] = useState(false);
  const mayReplay = can("access.deadletter.write");

  const replay = async (): Promise<void> => {
    setBusy(true);
    try {
      const { items } = await post<{ items: { id: number; ok?: boolean; error?: ProblemBody }[] }>("/dead-letters/replay", {
        ids: chosen,
      });
      const failed = items.filter(({ error }) => error);
      if (failed.length < items.length) void message.success(text.dead.replayed(items.length - failed.length));
      if (failed[0]?.error) {
        void message.warning(text.dead.failed(failed.length));
        show(new Problem(failed[0].error.status ?? 400, failed[0].error));
      }
      setChosen([]);
      await client.invalidateQueries({ queryKey: ["/dead-letters"] });
    } catch (refused) {
      show(refused);
    } finally {
      setBusy(false);
    }
  };

  return (
    <div className="page">
      <PageHead title={text.dead.title} note={text.dead.help}>
        {mayReplay && (
          <Button type="primary" icon={<ReloadOutlined />} disabled={!chosen.length} loading={busy} onClick={() => void replay()}>
            {text.dead.replaySelected(chosen.length)}
          </Button>
        )}
      </PageHead>
      {letters.error && <ProblemAlert error={letters.error} retry={() => void letters.refetch()} />}
      <div className="panel table-wrap" data-testid="dead-letters">
        <Table<DeadLetter>
          size="middle"
          rowKey="id"
          loading={letters.isLoading}
          dataSource={letters.items}
          pagination={false}
          scroll={{ x: 1000 }}
          rowSelection={mayReplay ? { selectedRowKeys: chosen, onChange: setChosen } : undefined}
          expandable={{ expandedRowRender: (letter) => <Raw raw={letter.raw} encoding={letter.encoding} />, expandRowByClick: true }}
          locale={{ emptyText: <Nothing title={text.empty.deadLetters} hint={text.empty.deadLettersHint} /> }}
          columns={[
            { title: text.dead.when, dataIndex: "ts", width: 170, render: format.moment },
            {
              title: text.dead.entity,
              dataIndex: "entity",
              width: 110,
              render: (entity: DeadLetter["entity"]) =>
                entity === null || entity === "" || entity === 0 ? (
                  "—"
                ) : /^\d+$/.test(String(entity)) ? (
                  <Link to={`/things/${entity}`}>{entity}</Link>
                ) : (
                  <span className="mono">{entity}</span>
                ),
            },
            {
              title: text.dead.reason,
              dataIndex: "reason",
              width: 300,
              render: (reason: string, letter) => (
                <>
                  {reason}
                  {letter.replayed_at && (
                    <div className="muted">{text.dead.replayedAt(format.moment(letter.replayed_at))}</div>
                  )}
                </>
              ),
            },
            { title: text.dead.field, dataIndex: "field", width: 130, render: (field: string | null) => field ?? "—" },
            { title: text.things.protocol, dataIndex: "protocol", width: 90 },
            {
              title: text.dead.raw,
              dataIndex: "raw",
              ellipsis: true,
              render: (raw: string) => <span className="mono muted">{raw.slice(0, 120)}</span>,
            },
          ]}
        />
        <More {...letters} />
      </div>
    </div>
  );
}
