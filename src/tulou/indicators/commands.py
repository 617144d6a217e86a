"""`tulou indicators`: definitions and values, through the same HTTP routes as everyone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.settings import API


@click.group()
def indicators() -> None:
    """指标：口径与数值。Indicators: what is counted, and the figures."""


@indicators.command("list")
@click.pass_obj
def list_(session: Any) -> None:
    """全部指标。Every indicator."""
    items = session.call("GET", f"{API}/indicators")["items"]
    if session.json:
        session.output(items)
        return
    session.output([
        {
            "id": f"{one['pack']}/{one['id']}", "indicator": session.text(one["label"]["zh"], one["label"]["en"]), "unit": one["unit"],
            "statistic": one["statistic"], "owner": session.text(one["owner_name"], one["owner_name_en"]), "version": one["version"],
        }
        for one in items
    ], ["id", "indicator", "unit", "statistic", "owner", "version"])


@indicators.command()
@click.argument("indicator")
@click.option("--from", "start", help="起始日 / first day (YYYY-MM-DD)")
@click.option("--to", "end", help="截止日，不含 / the day after the last")
@click.option("--grain", help="hour | day | month | year")
@click.option("--group", help="province | city | county | thing")
@click.option("--org", help="组织 / organisation")
@click.option("--synthetic", is_flag=True, help="计入合成数据 / count what is synthetic, too")
@click.option("--limit", default=20, show_default=True, help="排名条数 / things of a ranking")
@click.option("--csv", "file", type=click.Path(dir_okay=False, path_type=Path), help="写入文件 / write to this file")
@click.pass_obj
def show(
    session: Any, indicator: str, start: str | None, end: str | None, grain: str | None, group: str | None, org: str | None,
    synthetic: bool, limit: int, file: Path | None,
) -> None:
    """一项指标（包/编号）的数值与由来。The figures of an indicator (pack/id), and what is behind them."""
    asked = {"from": start, "to": end, "grain": grain, "group": group, "org": org, "synthetic": int(synthetic), "limit": limit}
    params = {name: value for name, value in asked.items() if value is not None}
    if file is not None:
        response = session.request("GET", f"{API}/indicators/{indicator}", params={**params, "format": "csv"})
        if response.status_code >= 400:
            session.fail(response)
        file.write_bytes(response.content)
        return
    answer = session.call("GET", f"{API}/indicators/{indicator}", params=params)
    if session.json:
        session.output(answer)
        return
    one, made = answer["indicator"], answer["provenance"]
    session.output({
        "indicator": f"{session.text(one['label']['zh'], one['label']['en'])} v{one['version']}",
        "definition": session.text(one["definition"]["zh"], one["definition"]["en"]),
        "value": _text(answer["value"], one["unit"]), "from": answer["from"], "to": answer["to"],
        "things": f"{made['reporting']} / {made['known']}", "capture": _text(made["capture"], "%"), "newest": made["newest"],
        "synthetic": made["synthetic"],
    })
    if answer["ranking"]:
        session.output([{**item, "value": _text(item["value"], one["unit"])} for item in answer["ranking"]], ["no", "name", "org", "value", "synthetic"])
    elif answer["groups"]:
        session.output([
            {"id": group["id"], "group": session.text(group["label_zh"], group["label_en"]), "value": _text(group["value"], one["unit"]),
             "things": group.get("known")}
            for group in answer["groups"]
        ], ["id", "group", "value", "things"])


def _text(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.6g} {unit}".rstrip()


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou indicators`."""
    return [indicators]
