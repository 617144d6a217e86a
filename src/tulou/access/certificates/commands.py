"""`tulou certificate` and `tulou authority`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from tulou.access.commands import paged
from tulou.kernel.settings import API

CERTIFICATE = ("no", "status", "subject", "not_after", "used_at", "fingerprint")
EXPIRING = ("device", "no", "status", "not_after", "fingerprint")
AUTHORITY = ("no", "org", "name", "status", "subject", "not_after", "code")


def _path(device_id: str) -> str:
    return f"{API}/devices/{quote(device_id, safe='')}/certificates"


@click.group()
def certificate() -> None:
    """设备证书（X.509）。Certificates of devices (X.509)."""


@certificate.command("list")
@click.argument("device_id")
@click.pass_obj
def list_certificates(session: Any, device_id: str) -> None:
    """设备的证书，新的在前。The certificates of a device, newest first."""
    session.output(session.call("GET", _path(device_id)), CERTIFICATE)


@certificate.command("add")
@click.argument("device_id")
@click.option("--certificate", "own", type=click.File(), help="登记设备自有证书（PEM）/ register the device's own (PEM)")
@click.option("--csr", type=click.File(), help="按证书请求签发（PEM）/ issue one for a request (PEM)")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="写入 certificate.pem、authority.pem（及 key.pem）的目录 / folder for certificate.pem, authority.pem (and key.pem)")
@click.pass_obj
def add(session: Any, device_id: str, own: Any, csr: Any, out: Path | None) -> None:
    """登记或签发；两者都不给时密钥也由平台生成，只给一次（须有 --out）。

    Register a certificate, or issue one; with neither a certificate nor a request, the house makes the key too (needs --out).
    """
    if own is None and csr is None and out is None:
        raise click.UsageError(session.text("请用 --out 指定目录", "name a folder with --out"))
    body = {"certificate": own.read() if own else None, "csr": csr.read() if csr else None}
    made = session.call("POST", _path(device_id), json=body)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, field in (("key.pem", "private_key"), ("certificate.pem", "certificate"), ("authority.pem", "authority_certificate")):
            if field in made:
                with open(os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
                    file.write(made[field])
        made.pop("private_key", None)
    session.output(made, CERTIFICATE)


@certificate.command("revoke")
@click.argument("device_id")
@click.argument("no", type=int)
@click.pass_obj
def revoke(session: Any, device_id: str, no: int) -> None:
    """吊销，立即断开。Refuse it, and disconnect what uses it."""
    session.output(session.call("DELETE", f"{_path(device_id)}/{no}"), CERTIFICATE)


@certificate.command("expiring")
@click.option("--days", default=30, show_default=True, type=click.IntRange(0, 3650), help="多少天内 / within so many days")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def expiring(session: Any, days: int, org: str | None, limit: int, after: str | None) -> None:
    """将到期的证书。Certificates that expire soon."""
    query = {"days": days, "org": org, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/device-certificates", params=query), EXPIRING)


@click.group()
def authority() -> None:
    """签发设备证书的机构（CA）。Authorities whose certificates devices may use."""


@authority.command("list")
@click.option("--org", help="机构 / organisation")
@paged
@click.pass_obj
def list_authorities(session: Any, org: str | None, limit: int, after: str | None) -> None:
    """已登记的签发机构与平台自有的。Registered authorities, and the house's own."""
    query = {"org": org, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/device-authorities", params=query), AUTHORITY)


@authority.command("register")
@click.argument("file", type=click.File())
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--name", required=True, help="名称 / name")
@click.pass_obj
def register(session: Any, file: Any, org: str, name: str) -> None:
    """登记外部 CA（PEM）；返回的 code 须作 CN 签一张证书以证明持有私钥。

    Register an outside authority (PEM); prove that its key is at hand with a certificate whose CN is the code.
    """
    body = {"org": org, "name": name, "certificate": file.read()}
    session.output(session.call("POST", f"{API}/device-authorities", json=body), AUTHORITY)


@authority.command("prove")
@click.argument("no", type=int)
@click.argument("file", type=click.File())
@click.pass_obj
def prove(session: Any, no: int, file: Any) -> None:
    """出示以 code 为 CN 的证书，启用该机构。Show the certificate with the code as CN: the authority counts."""
    session.output(session.call("POST", f"{API}/device-authorities/{no}/prove", json={"certificate": file.read()}), AUTHORITY)


@authority.command("withdraw")
@click.argument("no", type=int)
@click.pass_obj
def withdraw(session: Any, no: int) -> None:
    """不再信任；其证书立即失效。Trust it no more: its certificates are refused at once."""
    session.output(session.call("DELETE", f"{API}/device-authorities/{no}"), AUTHORITY)
