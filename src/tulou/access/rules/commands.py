"""`tulou rule`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

from typing import Any

import click
import orjson

from tulou.access.commands import paged
from tulou.kernel.settings import API

RULES = f"{API}/rules"
SHOWN = ("id", "org", "name", "type", "severity", "enabled", "version")


@click.group()
def rule() -> None:
    """规则：何时告警。Rules: when to raise an alarm."""


@rule.command("list")
@click.option("--org", help="机构 / organisation")
@click.option("--type", "kind", help="实体类型 / entity type")
@paged
@click.pass_obj
def list_rules(session: Any, org: str | None, kind: str | None, limit: int, after: str | None) -> None:
    """机构的规则。Rules of organisations."""
    query = {"org": org, "type": kind, "limit": limit, "after": after}
    session.output(session.call("GET", RULES, params=query), SHOWN)


@rule.command("create")
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--name", required=True, help="名称 / name")
@click.option("--type", "kind", required=True, help="实体类型 / entity type")
@click.option("--condition", required=True, help='JSON，如 / such as {"kind":"threshold","property":"pm25","above":75}')
@click.option("--severity", default="major", show_default=True,
              type=click.Choice(["critical", "major", "minor", "warning"]))
@click.option("--escalate", "escalate_s", type=int, help="无人确认则升级的秒数 / seconds unacknowledged until it escalates")
@click.option("--entity", "entities", multiple=True, help="只限此实体（可重复）/ only this entity; may be repeated")
@click.pass_obj
def create(
    session: Any, org: str, name: str, kind: str, condition: str, severity: str, escalate_s: int | None,
    entities: tuple[str, ...],
) -> None:
    """新建规则。Make a rule."""
    try:
        parsed = orjson.loads(condition)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(str(error), param_hint="--condition") from None
    session.output(session.call("POST", RULES, json={
        "org": org, "name": name, "type": kind, "condition": parsed, "severity": severity, "escalate_s": escalate_s,
        "entities": list(entities) or None,
    }))


@rule.command("test")
@click.argument("rule_id", type=int)
@click.option("--from", "start", required=True, help="RFC 3339")
@click.option("--to", "end", required=True, help="RFC 3339")
@click.pass_obj
def test(session: Any, rule_id: int, start: str, end: str) -> None:
    """在历史读数上试运行，不产生告警。What it would have raised; nothing is raised."""
    session.output(session.call("POST", f"{RULES}/{rule_id}/test", json={"start": start, "end": end}))


@rule.command("delete")
@click.argument("rule_id", type=int)
@click.pass_obj
def delete(session: Any, rule_id: int) -> None:
    """删除规则，其告警随之解除。Delete a rule; what it had raised is cleared."""
    session.call("DELETE", f"{RULES}/{rule_id}")
