"""`tulou card`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

CARD = ("no", "org", "tag", "status", "label", "expires_at")


@click.group()
def card() -> None:
    """充电卡：谁可以充电。Cards: who may charge."""


@card.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_cards(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """充电卡列表，最新在前。Cards, newest first."""
    session.output(session.call("GET", f"{API}/id-tags", params={"org": org, "limit": limit, "after": after}), CARD)


@card.command("put")
@click.argument("tag")
@click.option("--org", required=True, help="机构；其下级也认可 / organisation; those below it take the card too")
@click.option("--label", default="", help="说明 / what people read")
@click.option("--expires", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="到期，本地时间 / expiry, local time")
@click.option("--block", is_flag=True, help="停用 / block it")
@click.pass_obj
def put(session: Any, tag: str, org: str, label: str, expires: datetime | None, block: bool) -> None:
    """登记、修改或停用一张卡。Register, change or block a card."""
    session.output(session.call("PUT", f"{API}/id-tags", json={
        "org": org, "tag": tag, "label": label, "status": "blocked" if block else "accepted",
        "expires_at": expires.astimezone().isoformat() if expires else None,
    }), CARD)


@card.command("delete")
@click.argument("no", type=int)
@click.pass_obj
def delete(session: Any, no: int) -> None:
    """删除一张卡。Delete a card."""
    session.call("DELETE", f"{API}/id-tags/{no}")
