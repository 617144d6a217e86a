"""A test fixture: enough of ClickHouse's HTTP interface over chDB to drive the remote driver without a server.

Run as `python -m tests.readings.clickhouse_http FOLDER`; prints its port. Queries and formats pass through to the
engine; settings in the address are set on a handle of the request's own, as a server would. It stands for the
protocol between driver and server, not for a cluster: Replicated* engines are not tested by it.
"""

from __future__ import annotations

import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb
import lz4.frame

INSERT = re.compile(r"^\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\s*$", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
TRANSPORT = {
    "query", "database", "session_id", "session_timeout", "session_check", "query_id", "quota_key", "compress",
    "decompress", "wait_end_of_query", "buffer_size", "client_protocol_version", "role", "enable_http_compression",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms",
}


class Handler(BaseHTTPRequestHandler):
    """One request, one engine handle."""

    protocol_version = "HTTP/1.1"
    path_of_data = ""
    seen: set[str]

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n", {})
        else:
            self.do_POST()

    def do_POST(self) -> None:
        body = self._body()
        arguments = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            body = self._form(body, kind, arguments)
        query = arguments.get("query", "")
        parameters = {key[6:]: value for key, value in arguments.items() if key.startswith("param_")}
        settings = {k: v for k, v in arguments.items() if k not in TRANSPORT and not k.startswith("param_")}
        connection = chdb.connect(self.path_of_data)
        try:
            readonly = settings.pop("readonly", None)
            for name, value in [*settings.items(), *([("readonly", readonly)] if readonly else [])]:
                connection.query(f"SET {name} = '{value}'")
            inserted = INSERT.match(query)
            if inserted and body:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(body)
                    file.flush()
                    connection.query(f"{inserted[1]} FROM INFILE '{file.name}' FORMAT {inserted[2]}")
                self._answer(200, b"", {})
                return
            sql = query + ("\n" if query else "") + body.decode()
            named = FORMAT.search(sql)
            result = connection.query(sql, "TabSeparated", params=parameters)
            self._answer(200, result.bytes() or b"", {"X-ClickHouse-Format": named[1] if named else "TabSeparated"})
        except RuntimeError as error:
            text = str(error)
            code = re.search(r"Code: (\d+)", text)
            self._answer(500, text.encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1000"})
        finally:
            connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            raw = b"".join(parts)
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return bytes(lz4.frame.decompress(raw)) if self.headers.get("Content-Encoding") == "lz4" else raw

    @staticmethod
    def _form(body: bytes, kind: str, arguments: dict[str, str]) -> bytes:
        boundary = b"--" + kind.split("boundary=")[1].strip('"').encode()
        for part in body.split(boundary)[1:-1]:
            head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]+)"', head)
            if name:
                arguments[name[1].decode()] = value.decode()
        return b""

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"X-ClickHouse-Timezone": "UTC", "X-ClickHouse-Summary": "{}", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    """Serve until standard input closes."""
    Handler.path_of_data = sys.argv[1]
    engine = chdb.connect(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    server.shutdown()
    engine.close()


if __name__ == "__main__":
    main()
