"""`tulou provision`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

KEY = ("no", "org", "type", "name", "key", "strategy", "made", "most", "expires_at", "enabled")


@click.group()
def provision() -> None:
    """开通密钥：设备凭此自行领取凭证。Keys by which devices get their credential themselves."""


@provision.command("create")
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--type", "kind", required=True, help="实体类型 / entity type")
@click.option("--name", required=True, help="名称 / name")
@click.option("--strategy", type=click.Choice(["create", "known"]), default="create", show_default=True,
              help="create：新建设备；known：只给已登记、未上线过的设备 / create makes devices; known: those that are there and were never heard")
@click.option("--most", type=click.IntRange(1), help="最多台数 / at most so many devices")
@click.option("--expires", help="到期时间，RFC 3339 / when it ends, RFC 3339")
@click.pass_obj
def create(session: Any, org: str, kind: str, name: str, strategy: str, most: int | None, expires: str | None) -> None:
    """新建密钥；secret 只显示这一次。Make a key; its secret is shown only now."""
    body = {"org": org, "type": kind, "name": name, "strategy": strategy, "most": most, "expires_at": expires}
    session.output(session.call("POST", f"{API}/provision-keys", json=body), (*KEY, "secret"))


@provision.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_keys(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """密钥列表，新的在前。Keys, newest first."""
    query = {"org": org, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/provision-keys", params=query), KEY)


@provision.command("disable")
@click.argument("no", type=int)
@click.option("--undo", is_flag=True, help="恢复 / enable again")
@click.pass_obj
def disable(session: Any, no: int, undo: bool) -> None:
    """停用密钥。Disable a key."""
    session.output(session.call("PATCH", f"{API}/provision-keys/{no}", json={"enabled": undo}), KEY)


@provision.command("delete")
@click.argument("no", type=int)
@click.pass_obj
def delete(session: Any, no: int) -> None:
    """删除密钥；已开通的设备保留。Delete a key; devices that came by it stay."""
    session.call("DELETE", f"{API}/provision-keys/{no}")
