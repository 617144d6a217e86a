"""`tulou firmware` and `tulou rollout`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

FIRMWARE = ("no", "org", "type", "title", "version", "size", "sha256", "created_at")
ROLLOUT = ("no", "org", "name", "title", "version", "state", "stage", "reason")
STAGE = ("stage", "percent", "waiting", "told", "updated", "failed", "withdrawn", "silent")
DEVICES = ("device", "stage", "state", "attempts", "told_at", "ended_at", "error")
CHUNK = 1 << 20


@click.group()
def firmware() -> None:
    """固件：上传、查看、删除。Firmware: upload, look, delete."""


@firmware.command("upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--type", "kind", required=True, help="实体类型 / entity type")
@click.option("--title", required=True, help="名称，即 fw_title / its name, fw_title")
@click.option("--version", required=True, help="版本，即 fw_version / its version, fw_version")
@click.pass_obj
def upload(session: Any, file: Path, org: str, kind: str, title: str, version: str) -> None:
    """上传固件，并核对 SHA-256。Upload a package; its SHA-256 is compared."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()

    async def parts() -> AsyncIterator[bytes]:
        with file.open("rb") as opened:
            while part := opened.read(CHUNK):
                yield part

    query = {"org": org, "type": kind, "title": title, "version": version, "sha256": digest}
    session.output(session.call("POST", f"{API}/firmware", params=query, content=parts()), FIRMWARE)


@firmware.command("list")
@click.option("--org", help="机构 / organisation")
@click.option("--type", "kind", help="实体类型 / entity type")
@paged
@click.pass_obj
def list_firmware(session: Any, org: str | None, kind: str | None, limit: int, after: str | None) -> None:
    """固件列表。Packages."""
    query = {"org": org, "type": kind, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/firmware", params=query), FIRMWARE)


@firmware.command("show")
@click.argument("no", type=int)
@click.pass_obj
def show_firmware(session: Any, no: int) -> None:
    """一个固件。One package."""
    session.output(session.call("GET", f"{API}/firmware/{no}"))


@firmware.command("delete")
@click.argument("no", type=int)
@click.pass_obj
def delete_firmware(session: Any, no: int) -> None:
    """删除固件；尚有发布使用时拒绝。Delete a package; refused while a roll-out uses it."""
    session.call("DELETE", f"{API}/firmware/{no}")


@click.group()
def rollout() -> None:
    """固件发布：分阶段、门槛、自动中止。Roll-outs of firmware: stages, gates, automatic abort."""


@rollout.command("create")
@click.argument("firmware_no", type=int, metavar="FIRMWARE")
@click.option("--name", required=True, help="名称 / name")
@click.option("--device", "devices", multiple=True, help="只给这些设备；可重复 / these devices only; may be repeated")
@click.option("--q", default="", help="只给标识或名称含此的设备 / devices with this part of id or name only")
@click.option("--group", type=click.IntRange(1), help="只给此分组的设备 / devices of this group only")
@click.option("--stages", default="1,10,50,100", show_default=True, help="各阶段的累计百分比 / percent up to each stage")
@click.option("--wait", "wait_s", default=600.0, show_default=True, help="阶段间至少等待的秒数 / seconds to wait in a stage")
@click.option("--updated", "updated_min", default=95.0, show_default=True, help="至少 % 已升级 / at least % updated")
@click.option("--failed", "failed_max", default=5.0, show_default=True, help="失败超过 % 即中止 / more than % failed abort")
@click.option("--silent", "silent_max", default=5.0, show_default=True, help="至多 % 失联 / at most % fallen silent")
@click.option("--device-limit", "device_s", default=86_400.0, show_default=True,
              help="单台设备的时限，秒 / seconds that a device has")
@click.option("--start", "starts", is_flag=True, help="立即开始 / begin at once")
@click.pass_obj
def create(
    session: Any, firmware_no: int, name: str, devices: tuple[str, ...], q: str, group: int | None, stages: str, wait_s: float,
    updated_min: float, failed_max: float, silent_max: float, device_s: float, starts: bool,
) -> None:
    """准备发布；加 --start 立即开始。Prepare a roll-out, and begin with --start."""
    from tulou.access.ota.engine import Stage

    try:
        percents = [float(part) for part in stages.split(",")]
        parts = [Stage(percent=percent, wait_s=wait_s, updated_min=updated_min, failed_max=failed_max, silent_max=silent_max)
                 for percent in percents]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--stages") from None
    made = session.call("POST", f"{API}/rollouts", json={
        "firmware": firmware_no, "name": name, "devices": list(devices) or None, "q": q, "group": group, "device_s": device_s,
        "stages": [stage.model_dump() for stage in parts],
    })
    _show(session, session.call("POST", f"{API}/rollouts/{made['no']}/start") if starts else made)


@rollout.command("list")
@click.option("--org", help="机构 / organisation")
@click.option("--state", type=click.Choice(["draft", "running", "paused", "aborted", "done"]))
@paged
@click.pass_obj
def list_rollouts(session: Any, org: str | None, state: str | None, limit: int, after: str | None) -> None:
    """发布列表，最新在前。Roll-outs, newest first."""
    query = {"org": org, "state": state, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/rollouts", params=query), ROLLOUT)


@rollout.command("show")
@click.argument("no", type=int)
@click.pass_obj
def show(session: Any, no: int) -> None:
    """一次发布及各阶段的设备数。A roll-out with the devices of each stage."""
    _show(session, session.call("GET", f"{API}/rollouts/{no}"))


@rollout.command("devices")
@click.argument("no", type=int)
@click.option("--state", type=click.Choice(["waiting", "told", "updated", "failed", "withdrawn"]))
@click.option("--stage", type=click.IntRange(1), help="阶段 / stage")
@paged
@click.pass_obj
def list_devices(session: Any, no: int, state: str | None, stage: int | None, limit: int, after: str | None) -> None:
    """发布中的设备。The devices of a roll-out."""
    query = {"state": state, "stage": stage, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/rollouts/{no}/devices", params=query), DEVICES)


def _steer(name: str, help_: str) -> None:
    @rollout.command(name, help=help_)
    @click.argument("no", type=int)
    @click.pass_obj
    def steer(session: Any, no: int) -> None:
        _show(session, session.call("POST", f"{API}/rollouts/{no}/{name}"))


for _name, _help in (
    ("start", "冻结所选设备并开始。Freeze the selection and begin."),
    ("pause", "不再通知设备。Tell no more devices."),
    ("resume", "继续。Go on."),
    ("abort", "中止，并收回未升级设备的期望值。End it; devices that are not updated are to be what they were to be."),
    ("retry", "重新通知失败的设备。Tell the failed devices again."),
):
    _steer(_name, _help)


def _show(session: Any, answer: dict[str, Any]) -> None:
    session.output(answer, (*ROLLOUT, "started_at", "ended_at"))
    if not session.json:
        session.output([{"stage": number, **stage} for number, stage in enumerate(answer["stages"], 1)], STAGE)
