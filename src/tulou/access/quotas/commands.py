"""`tulou quota`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from tulou.kernel.settings import API


@click.group()
def quota() -> None:
    """机构配额：设备数、每秒消息数、存储读数。Quotas of organisations: devices, messages a second, stored readings."""


@quota.command("show")
@click.argument("org")
@click.pass_obj
def show(session: Any, org: str) -> None:
    """限额与用量。Limits and what is used."""
    session.output(session.call("GET", f"{API}/orgs/{quote(org, safe='')}/quota"))


@quota.command("set")
@click.argument("org")
@click.option("--devices", type=click.IntRange(0), help="设备数上限；不给为不限 / most devices; none if absent")
@click.option("--messages", type=click.FloatRange(0.01), help="每秒消息数上限；不给为不限 / most messages a second; none if absent")
@click.option("--readings", type=click.IntRange(0), help="存储读数上限；不给为不限 / most stored readings; none if absent")
@click.pass_obj
def set_quota(session: Any, org: str, devices: int | None, messages: float | None, readings: int | None) -> None:
    """设定限额（由上级机构）。Set the limits (by the organisation above)."""
    body = {"devices": devices, "messages_s": messages, "readings": readings}
    session.output(session.call("PUT", f"{API}/orgs/{quote(org, safe='')}/quota", json=body))
