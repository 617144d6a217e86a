"""`tulou jobs`."""

from __future__ import annotations

from typing import Any

import click

from tulou.kernel.settings import API

COLUMNS = ("id", "kind", "org", "state", "progress", "total", "attempts", "started_at", "ended_at", "error")


@click.group("jobs")
def job_commands() -> None:
    """任务。Jobs: list, show, cancel, resume, logs."""


@job_commands.command("list")
@click.option("--state", type=click.Choice(["queued", "running", "done", "failed", "cancelled"]))
@click.option("--limit", default=50, show_default=True)
@click.pass_obj
def list_command(obj: Any, state: str | None, limit: int) -> None:
    """列出任务。List jobs, newest first."""
    path = f"{API}/jobs?limit={limit}" + (f"&state={state}" if state else "")
    obj.output(obj.call("GET", path)["items"], COLUMNS)


@job_commands.command("show")
@click.argument("id", type=int)
@click.pass_obj
def show_command(obj: Any, id: int) -> None:
    """查看任务。Show a job."""
    obj.output({k: v for k, v in obj.call("GET", f"{API}/jobs/{id}").items() if k != "log"})


@job_commands.command("logs")
@click.argument("id", type=int)
@click.pass_obj
def logs_command(obj: Any, id: int) -> None:
    """任务日志（末尾）。The tail of a job's log."""
    obj.output(obj.call("GET", f"{API}/jobs/{id}")["log"], ("at", "line"))


@job_commands.command("cancel")
@click.argument("id", type=int)
@click.pass_obj
def cancel_command(obj: Any, id: int) -> None:
    """取消任务。Cancel a job."""
    obj.output(obj.call("POST", f"{API}/jobs/{id}/cancel"), COLUMNS)


@job_commands.command("resume")
@click.argument("id", type=int)
@click.pass_obj
def resume_command(obj: Any, id: int) -> None:
    """从检查点继续失败或已取消的任务。Go on with a failed or cancelled job from its checkpoint."""
    obj.output(obj.call("POST", f"{API}/jobs/{id}/resume"), COLUMNS)
