"""`tulou lorawan`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from tulou.kernel.settings import API


@click.command("lorawan")
@click.argument("org")
@click.option("--url", help="ChirpStack MQTT 集成的代理，mqtt:// 或 mqtts:// / the broker of ChirpStack's MQTT integration")
@click.option("--user", help="用户名 / user name")
@click.option("--ask-password", is_flag=True, help="询问口令 / ask for the password")
@click.option("--remove", is_flag=True, help="不再下行 / send no downlinks any more")
@click.pass_obj
def lorawan(session: Any, org: str, url: str | None, user: str | None, ask_password: bool, remove: bool) -> None:
    """机构的 LoRaWAN 网络服务器：给出地址则设置，不给则显示。The network server of an organisation: set with an address, shown without."""
    path = f"{API}/orgs/{quote(org, safe='')}/lorawan"
    if remove:
        session.call("DELETE", path)
    elif url is None:
        session.output(session.call("GET", path))
    else:
        password = click.prompt("口令 / password", hide_input=True) if ask_password else None
        session.output(session.call("PUT", path, json={"url": url, "user": user, "password": password}))
