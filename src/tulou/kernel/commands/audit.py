"""`tulou audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from tulou.kernel.settings import API


@click.group("audit")
def audit_commands() -> None:
    """审计。The audit: list, verify, export."""


@audit_commands.command("list")
@click.option("--actor")
@click.option("--action")
@click.option("--org")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.pass_obj
def list_command(obj: Any, /, **filters: Any) -> None:
    """列出审计记录，新的在前。List audit rows, newest first."""
    query = urlencode({k: v for k, v in filters.items() if v is not None})
    obj.output(
        obj.call("GET", f"{API}/audit?{query}")["items"],
        ("seq", "at", "actor", "action", "org", "subject", "outcome"),
    )


@audit_commands.command("verify")
@click.option("--expect", help="SEQ:HASH，此前记下的链头 / a head noted earlier")
@click.pass_obj
def verify_command(obj: Any, expect: str | None) -> None:
    """校验整条哈希链；断裂时退出码为 1。Verify the whole chain; exit code 1 when it is broken."""
    path = f"{API}/audit/verify" + (f"?expect={expect}" if expect else "")
    verdict = obj.call("GET", path)
    obj.output(verdict)
    if not verdict["ok"]:
        sys.exit(1)


@audit_commands.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def export_command(obj: Any, file: Path) -> None:
    """导出为 JSON 行，可离线复核。Export as JSON lines that anyone can verify offline."""
    response = obj.request("GET", f"{API}/audit/export")
    if response.status_code >= 400:
        obj.fail(response)
    file.write_bytes(response.content)
    obj.output({"file": str(file), "bytes": len(response.content)})
