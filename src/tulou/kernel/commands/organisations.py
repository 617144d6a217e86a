"""`tulou org | user | token`."""

from __future__ import annotations

from typing import Any

import click

from tulou.kernel.settings import API

ORG = ("id", "name_zh", "name_en", "kind", "parent", "state")
USER = ("id", "name", "display", "org", "state", "roles")
TOKEN = ("id", "prefix", "name", "org", "user", "scopes", "expires_at", "used_at", "revoked_at")


def pages(obj: Any, path: str) -> list[dict[str, Any]]:
    """Every item of a paged list."""
    items: list[dict[str, Any]] = []
    after = ""
    mark = "&" if "?" in path else "?"
    while True:
        page = obj.call("GET", f"{path}{mark}limit=1000{after}")
        items.extend(page["items"])
        if not page["next"]:
            return items
        after = f"&after={page['next']}"


@click.group()
def org() -> None:
    """组织。Organisations: list, apply, approve, reject, suspend, resume."""


@org.command("list")
@click.option("--state", type=click.Choice(["applied", "approved", "suspended", "rejected"]))
@click.pass_obj
def org_list(obj: Any, state: str | None) -> None:
    """列出组织。List organisations."""
    obj.output(pages(obj, f"{API}/orgs" + (f"?state={state}" if state else "")), ORG)


@org.command("apply")
@click.argument("id")
@click.option("--name-zh", required=True)
@click.option("--name-en", required=True)
@click.option(
    "--kind", required=True, type=click.Choice(["province", "city", "county", "department", "enterprise"])
)
@click.option("--parent", default="house", show_default=True)
@click.option("--code", default="")
@click.pass_obj
def org_apply(obj: Any, /, id: str, **fields: Any) -> None:
    """申请加入。Apply for an organisation."""
    obj.output(obj.call("POST", f"{API}/orgs", {"id": id, **fields}), ORG)


def _decision(verb: str, zh: str, en: str) -> None:
    @org.command(verb, help=f"{zh}。{en}.")
    @click.argument("id")
    @click.option("--reason", default="", help="理由 / reason")
    @click.pass_obj
    def decide(obj: Any, id: str, reason: str) -> None:
        obj.output(obj.call("POST", f"{API}/orgs/{id}/{verb}", {"reason": reason}), ORG)


_decision("approve", "批准申请", "Admit an applicant")
_decision("reject", "驳回申请", "Refuse an applicant")
_decision("suspend", "停用组织及其下级", "Suspend an organisation and all below it")
_decision("resume", "恢复组织", "Lift a suspension")


@click.group()
def user() -> None:
    """人员与角色。People and roles."""


def _grant(text: str) -> dict[str, Any]:
    place, _, role = text.partition(":")
    if not role:
        raise click.BadParameter(f"{text}: ORG:ROLE 或 ORG/:ROLE（含下级）/ ORG:ROLE or ORG/:ROLE (with all below)")
    return {"org": place.rstrip("/"), "role": role, "subtree": place.endswith("/")}


ROLE_HELP = "ORG:ROLE，ORG/:ROLE 含下级 / with all below"


@user.command("list")
@click.option("--org")
@click.pass_obj
def user_list(obj: Any, org: str | None) -> None:
    """列出人员。List people."""
    obj.output(pages(obj, f"{API}/users" + (f"?org={org}" if org else "")), USER)


@user.command("create")
@click.argument("name")
@click.option("--display")
@click.option("--org", required=True)
@click.option("--email")
@click.option("--role", "roles", multiple=True, help=ROLE_HELP)
@click.pass_obj
def user_create(obj: Any, name: str, display: str | None, org: str, email: str | None, roles: tuple[str, ...]) -> None:
    """新建人员，口令随机且只显示一次。Create a person; the random password is shown once."""
    body = {"name": name, "display": display or name, "org": org, "email": email, "roles": [_grant(r) for r in roles]}
    obj.output(obj.call("POST", f"{API}/users", body))


@user.command("roles")
@click.argument("id", type=int)
@click.argument("roles", nargs=-1)
@click.pass_obj
def user_roles(obj: Any, id: int, roles: tuple[str, ...]) -> None:
    """设置全部角色（ORG:ROLE）。Replace all roles of a person."""
    obj.output(obj.call("PUT", f"{API}/users/{id}/roles", {"roles": [_grant(r) for r in roles]}))


@user.command("disable")
@click.argument("id", type=int)
@click.pass_obj
def user_disable(obj: Any, id: int) -> None:
    """停用：会话与令牌立即失效。Disable: sessions and tokens end at once."""
    obj.call("POST", f"{API}/users/{id}/disable")


@user.command("enable")
@click.argument("id", type=int)
@click.pass_obj
def user_enable(obj: Any, id: int) -> None:
    """启用或开通。Let a disabled or pending person sign in."""
    obj.call("POST", f"{API}/users/{id}/enable")


@user.command("password")
@click.argument("id", type=int)
@click.pass_obj
def user_password(obj: Any, id: int) -> None:
    """重置为随机口令，只显示一次。Reset to a random password, shown once."""
    obj.output(obj.call("POST", f"{API}/users/{id}/password"))


@click.group()
def token() -> None:
    """API 令牌。API tokens."""


@token.command("list")
@click.option("--org")
@click.pass_obj
def token_list(obj: Any, org: str | None) -> None:
    """列出令牌（不含密文）。List tokens, without secrets."""
    obj.output(pages(obj, f"{API}/tokens" + (f"?org={org}" if org else "")), TOKEN)


@token.command("create")
@click.argument("name")
@click.option("--org", required=True)
@click.option("--scope", "scopes", multiple=True, required=True, help="动作模式，如 context.* / pattern of actions")
@click.option("--expires", help="到期时间 RFC 3339 / expiry")
@click.option("--user", help="以谁的权限（默认 admin）/ whose rights (default: admin)")
@click.pass_obj
def token_create(
    obj: Any, name: str, org: str, scopes: tuple[str, ...], expires: str | None, user: str | None
) -> None:
    """新建令牌，密文只显示一次。Create a token; its secret is shown once."""
    body = {"name": name, "org": org, "scopes": list(scopes), "expires_at": expires, "user": user}
    obj.output(obj.call("POST", f"{API}/tokens", body), ("id", "prefix", "secret"))


@token.command("revoke")
@click.argument("id", type=int)
@click.pass_obj
def token_revoke(obj: Any, id: int) -> None:
    """吊销令牌，立即全部生效。Revoke a token, everywhere at once."""
    obj.call("DELETE", f"{API}/tokens/{id}")
