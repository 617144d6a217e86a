/** The plan's report as a file: of a year, or of now. What hinders it is said here, and not on a page of its own. */
import { FilePdfOutlined, FileWordOutlined } from "@ant-design/icons";
import { Button, Space } from "antd";
import { useState } from "react";
import { saveFile } from "../api/client.ts";
import { useSettings } from "../settings.tsx";
import { useShowProblem } from "./problem.tsx";

export function ReportButtons({ year }: { year?: number }) {
  const { text, language } = useSettings();
  const show = useShowProblem();
  const [busy, setBusy] = useState<string | null>(null);
  const save = (format: "pdf" | "docx"): void => {
    setBusy(format);
    void saveFile("/plan/report", { format, language, year })
      .catch(show)
      .finally(() => setBusy(null));
  };
  return (
    <Space.Compact>
      <Button icon={<FilePdfOutlined />} loading={busy === "pdf"} onClick={() => save("pdf")}>
        {text.evaluation.pdf}
      </Button>
      <Button icon={<FileWordOutlined />} loading={busy === "docx"} onClick={() => save("docx")}>
        {text.evaluation.word}
      </Button>
    </Space.Compact>
  );
}
