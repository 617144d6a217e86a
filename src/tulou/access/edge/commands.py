"""`tulou edges`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

EDGE = ("no", "org", "name", "state", "contact_at", "lag", "lag_s", "devices", "missed", "left_out")


@click.group()
def edges() -> None:
    """中心侧：接入的边缘节点。At the hub: edges that are let in (`tulou edge` runs one)."""


@edges.command("create")
@click.argument("name")
@click.option("--org", required=True, help="机构，含其下级 / organisation, with those below it")
@click.pass_obj
def create(session: Any, name: str, org: str) -> None:
    """登记一个边缘节点；令牌只显示这一次。Let an edge in; its token is shown only now."""
    session.output(session.call("POST", f"{API}/edges", json={"org": org, "name": name}), ("no", "org", "name", "token"))


@edges.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_edges(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """边缘节点：状态、上次联系、待上传。Edges: state, last contact, what is still to come."""
    session.output(session.call("GET", f"{API}/edges", params={"org": org, "limit": limit, "after": after}), EDGE)


@edges.command("show")
@click.argument("no", type=int)
@click.pass_obj
def show(session: Any, no: int) -> None:
    """一个边缘节点。One edge."""
    session.output(session.call("GET", f"{API}/edges/{no}"))


@edges.command("revoke")
@click.argument("no", type=int)
@click.pass_obj
def revoke(session: Any, no: int) -> None:
    """吊销令牌；已上传的数据保留。Let it in no more; what it brought stays."""
    session.output(session.call("DELETE", f"{API}/edges/{no}"), EDGE)
