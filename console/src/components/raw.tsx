/** A raw frame: as text where it is text, else as a hex dump. */
export function rawBytes(raw: string, encoding: string): Uint8Array {
  return encoding === "base64"
    ? Uint8Array.from(atob(raw), (character) => character.charCodeAt(0))
    : new TextEncoder().encode(raw);
}

function hexDump(bytes: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < Math.min(bytes.length, 4096); at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const ascii = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex.padEnd(47)}  ${ascii}`);
  }
  return lines.join("\n");
}

export function Raw({ raw, encoding }: { raw: string; encoding: string }) {
  if (encoding === "base64") return <pre className="raw">{hexDump(rawBytes(raw, encoding))}</pre>;
  let shown = raw;
  try {
    shown = JSON.stringify(JSON.parse(raw), null, 2);
  } catch {
    // Not JSON: shown as it came.
  }
  return <pre className="raw">{shown.slice(0, 16_384)}</pre>;
}

