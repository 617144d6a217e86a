"""`tulou group`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

GROUP = ("no", "org", "name", "devices", "note", "created_at")


@click.group()
def group() -> None:
    """设备分组。Groups of devices."""


@group.command("create")
@click.argument("name")
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--note", default="", help="备注 / note")
@click.pass_obj
def create(session: Any, name: str, org: str, note: str) -> None:
    """新建分组。Make a group."""
    session.output(session.call("POST", f"{API}/device-groups", json={"org": org, "name": name, "note": note}), GROUP)


@group.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_groups(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """分组列表。Groups."""
    query = {"org": org, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/device-groups", params=query), GROUP)


@group.command("rename")
@click.argument("no", type=int)
@click.argument("name")
@click.pass_obj
def rename(session: Any, no: int, name: str) -> None:
    """改名。Give it another name."""
    session.output(session.call("PATCH", f"{API}/device-groups/{no}", json={"name": name}), GROUP)


@group.command("delete")
@click.argument("no", type=int)
@click.pass_obj
def delete(session: Any, no: int) -> None:
    """删除分组；设备保留。Delete a group; its devices stay."""
    session.call("DELETE", f"{API}/device-groups/{no}")


def _regroup(session: Any, no: int, **change: Any) -> None:
    session.output(session.call("POST", f"{API}/device-groups/{no}/devices", json=change))


@group.command("add")
@click.argument("no", type=int)
@click.argument("devices", nargs=-1, required=True)
@click.pass_obj
def add(session: Any, no: int, devices: tuple[str, ...]) -> None:
    """把设备加入分组。Put devices into a group."""
    _regroup(session, no, add=list(devices))


@group.command("remove")
@click.argument("no", type=int)
@click.argument("devices", nargs=-1, required=True)
@click.pass_obj
def remove(session: Any, no: int, devices: tuple[str, ...]) -> None:
    """把设备移出分组。Take devices out of a group."""
    _regroup(session, no, remove=list(devices))
