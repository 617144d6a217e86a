/** A thing's messages as they came, newest first. */
import { Table } from "antd";
import { usePages } from "../api/pages.ts";
import type { Frame } from "../api/types.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { More, Nothing } from "./page.tsx";
import { ProblemAlert } from "./problem.tsx";
import { Raw, rawBytes } from "./raw.tsx";

export function ThingFrames({ no }: { no: number }) {
  const text = useText();
  const format = useFormat();
  const frames = usePages<Frame>(`/things/${no}/frames`, {}, { limit: 50 });
  if (frames.error) return <ProblemAlert error={frames.error} retry={() => void frames.refetch()} />;
  return (
    <div className="panel">
      <Table<Frame>
        size="middle"
        rowKey={(frame) => `${frame.seq}-${frame.frame}-${frame.ts}`}
        loading={frames.isLoading}
        dataSource={frames.items}
        pagination={false}
        scroll={{ x: 560 }}
        locale={{ emptyText: <Nothing title={text.empty.frames} /> }}
        expandable={{ expandedRowRender: (frame) => <Raw raw={frame.raw} encoding={frame.encoding} />, expandRowByClick: true }}
        columns={[
          { title: text.things.receivedAt, dataIndex: "ts", width: 180, render: format.moment },
          { title: text.things.protocol, dataIndex: "protocol", width: 90 },
          {
            title: text.things.raw,
            dataIndex: "raw",
            ellipsis: true,
            render: (raw: string) => <span className="mono">{raw.slice(0, 200)}</span>,
          },
          {
            title: text.things.bytes,
            key: "size",
            width: 100,
            align: "right",
            render: (_: unknown, frame) => format.integer(rawBytes(frame.raw, frame.encoding).length),
          },
          { title: text.things.seq, dataIndex: "seq", width: 100, align: "right" },
        ]}
      />
      <More {...frames} />
    </div>
  );
}
