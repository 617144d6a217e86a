"""`tulou status | doctor | config | backup | restore`."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tulou.kernel.errors import TulouError
from tulou.kernel.settings import API


@click.command("status")
@click.pass_obj
def status_command(obj: Any) -> None:
    """运行中的土楼的状况。State of the running house; exit code 3 when none runs."""
    if obj.running() is None:
        if obj.json:
            obj.output({"running": False})
            sys.exit(3)
        obj.stop("没有运行中的土楼", "no house is running", 3)
    state = obj.call("GET", f"{API}/system")
    if obj.json:
        obj.output({"running": True, **state})
        return
    obj.output({"version": state["version"], "uptime_s": state["uptime_s"], "roles": ", ".join(state["roles"])})
    obj.output(state["processes"], ("name", "pid", "rss", "restarts"))
    obj.output(state["checks"], ("name", "ok", "zh" if obj.language == "zh" else "en"))


@click.command("doctor")
@click.pass_obj
def doctor_command(obj: Any) -> None:
    """体检：机器、设置与运行中的服务。Examine machine, settings and the running house; exit code 1 on a finding."""
    from tulou.kernel.system import examine

    running = obj.running() is not None
    found = list(examine(obj.settings, running=running))
    if running:
        found += obj.call("GET", f"{API}/system")["checks"]
    obj.output(found, ("name", "ok", "zh" if obj.language == "zh" else "en"))
    if not all(f["ok"] for f in found):
        sys.exit(1)


@click.group("config")
def config_group() -> None:
    """设置。Settings."""


@config_group.command("show")
@click.pass_obj
def config_show(obj: Any) -> None:
    """每项设置的值与来源，密钥不显示。Every setting with its value and source; secrets are masked."""
    obj.output(obj.settings.show(), ("name", "value", "source", "env", "zh" if obj.language == "zh" else "en"))


def _show(obj: Any, step: str, done: int, total: int) -> None:
    if not obj.json and sys.stderr.isatty():
        click.echo(f"\r\x1b[K{step} {done}/{total}" if total else f"\r\x1b[K{step}", err=True, nl=False)


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def backup_command(obj: Any, file: Path) -> None:
    """备份全部内容到一个文件，运行中亦可。Back up everything into one file, while the house runs."""
    if file.exists():
        raise click.ClickException(f"{file} 已存在 / exists")
    state = obj.call("POST", f"{API}/backups")
    while state["state"] == "running":
        state = obj.call("GET", f"{API}/backups/{state['name']}?wait=1")
        _show(obj, state["step"], state["done"], state["total"])
    if state["state"] != "done":
        raise click.ClickException(str(state["error"]))
    shutil.move(obj.settings.home / "backups" / state["name"], file)
    obj.output({"file": str(file), "size": state["size"], "members": state["members"]})


@click.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--home", required=True, type=click.Path(path_type=Path), help="空目录 / an empty folder")
@click.option("--check", is_flag=True, help="只校验 / only verify the digests")
@click.pass_obj
def restore_command(obj: Any, file: Path, home: Path, check: bool) -> None:
    """校验后恢复到空目录。Verify a backup and restore it into an empty home."""
    from tulou.kernel.backup import restore, verify
    from tulou.kernel.house import House

    try:
        if check:
            found = verify(file, lambda *a: _show(obj, *a))
        else:
            settings = dataclasses.replace(obj.settings, home=home)
            found = restore(file, settings, House, lambda *a: _show(obj, *a))
    except TulouError as error:
        raise click.ClickException(f"{error.zh} / {error.en}") from error
    keys: Sequence[str] = ("made_at", "tulou", "sql", "audit", "secrets_to_set")
    obj.output({"home": str(home), "members": len(found["members"]), **{k: found[k] for k in keys if k in found}})
