/** Papers: what one person submits with evidence and another decides. */
import { Button, Form, Input, Modal, Upload } from "antd";
import { useState, type ReactNode } from "react";
import type { Paper } from "../api/plan.ts";
import { useFormat } from "../format.ts";
import { useText } from "../settings.tsx";
import { ProblemAlert, useSending } from "./problem.tsx";

const MAX_FILE = 5 << 20;

/** A chosen file as the API takes it. */
export async function evidenceOf(file: File | null): Promise<{ evidence_name?: string; evidence_base64?: string }> {
  if (!file) return {};
  const url = await new Promise<string>((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result as string);
    reader.onerror = () => reject(reader.error ?? new Error("read"));
    reader.readAsDataURL(file);
  });
  return { evidence_name: file.name, evidence_base64: url.slice(url.indexOf(",") + 1) };
}

interface FileProps {
  file: File | null;
  onChoose(file: File | null): void;
}

function FileField({ file, onChoose }: FileProps) {
  const text = useText();
  return (
    <>
      <Upload
        maxCount={1}
        beforeUpload={(chosen) => {
          onChoose(chosen);
          return false;
        }}
        onRemove={() => onChoose(null)}
      >
        <Button>{text.plan.chooseFile}</Button>
      </Upload>
      {file && file.size > MAX_FILE && <span className="tone-alarm">{text.plan.evidenceFile}</span>}
    </>
  );
}

/** The part of a form that asks for evidence: in words (`evidence_text`), and a file. */
export function EvidenceFields({ label, rows, placeholder, ...file }: FileProps & { label?: string; rows: number; placeholder?: string }) {
  const text = useText();
  return (
    <>
      <Form.Item name="evidence_text" label={label ?? text.plan.evidence} rules={[{ required: true, whitespace: true }]}>
        <Input.TextArea rows={rows} maxLength={20_000} placeholder={placeholder} />
      </Form.Item>
      <Form.Item label={text.plan.evidenceFile}>
        <FileField {...file} />
      </Form.Item>
    </>
  );
}

/** Who submitted and who decided. */
export function Signatures({ paper }: { paper: Paper }) {
  const text = useText();
  const format = useFormat();
  return (
    <>
      {paper.submitted_name && (
        <div title={format.moment(paper.submitted_at)}>
          {text.plan.submittedBy} {paper.submitted_name}
        </div>
      )}
      {paper.decided_name && (
        <div title={format.moment(paper.decided_at)}>
          {text.plan.decidedBy} {paper.decided_name}
        </div>
      )}
      {paper.note && <div className="muted">{paper.note}</div>}
    </>
  );
}

interface DecideProps {
  title: string;
  danger?: boolean;
  /** A refusal says why. */
  needsNote?: boolean;
  children?: ReactNode;
  onDecide(note: string): Promise<unknown>;
  onClose(): void;
}

/** A dialog in which the second person decides. */
export function Decide({ title, danger = false, needsNote = false, children, onDecide, onClose }: DecideProps) {
  const text = useText();
  const [note, setNote] = useState("");
  const { error, busy, send } = useSending();
  return (
    <Modal
      open
      title={title}
      okText={title}
      okButtonProps={{ danger, disabled: needsNote && !note.trim() }}
      confirmLoading={busy}
      onCancel={onClose}
      onOk={() => send(onDecide(note), onClose)}
    >
      {error !== null && (
        <div className="gap-below">
          <ProblemAlert error={error} />
        </div>
      )}
      {children && <div className="gap-below">{children}</div>}
      <Input.TextArea rows={3} value={note} maxLength={4000} placeholder={text.plan.note} aria-label={text.plan.note} onChange={(event) => setNote(event.target.value)} />
    </Modal>
  );
}
