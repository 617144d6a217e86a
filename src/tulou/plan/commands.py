"""`tulou plan`: the plan from the command line, through the same HTTP routes as everyone.

Reports are submitted and decided by people: `report`, `approve` and `reject` take a person's API token (`--token`, or
TULOU_TOKEN), because the machine's own key is nobody.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.settings import API

F = TypeVar("F", bound=Callable[..., Any])


def _token(command: F) -> F:
    return click.option("--token", envvar="TULOU_TOKEN", help="本人的 API 令牌 / your own API token")(command)


def _ask(session: Any, method: str, path: str, token: str | None, body: dict[str, Any]) -> Any:
    """As `session.call`, on behalf of the person whose token it is."""
    headers = {"authorization": f"Bearer {token}"} if token else None
    response = session.request(method, path, json=body, headers=headers)
    if response.status_code >= 400:
        session.fail(response)
    return orjson.loads(response.content)


@click.group()
def plan() -> None:
    """计划：任务、目标、上报、计分。The plan: tasks, targets, reports, scores."""


@plan.command()
@click.pass_obj
def tasks(session: Any) -> None:
    """25 项任务。The tasks with their agencies and systems."""
    answer = session.call("GET", f"{API}/plan/tasks")
    if session.json:
        session.output(answer)
        return
    rows = [
        {
            "id": task["id"],
            "task": session.text(task["title_zh"], task["title_en"]),
            "agencies": ", ".join(session.text(a["name_zh"], a["name_en"]) for a in task["agencies"]),
            "systems": len(task["systems"]),
            "targets": ", ".join(task["targets"]),
        }
        for task in answer
    ]
    session.output(rows, ["id", "task", "agencies", "systems", "targets"])


@plan.command()
@click.argument("target", required=False)
@click.pass_obj
def targets(session: Any, target: str | None) -> None:
    """目标的数值、状态与由来；给出编号则看一项。The targets, or one of them."""
    answer = session.call("GET", f"{API}/plan/targets" + (f"/{target}" if target else ""))
    if session.json:
        session.output(answer)
        return
    if target:
        both = {name: session.text(answer[f"{name}_zh"], answer[f"{name}_en"]) for name in ("title", "unit", "why", "note")}
        session.output({**answer, **both}, [
            "id", "title", "task", "goal", "unit", "value", "state", "met", "as_of", "why", "query", "note", "version",
        ])
        if answer["reports"]:
            session.output(answer["reports"], [
                "id", "value", "as_of", "state", "submitted_name", "decided_name", "evidence_text", "note",
            ])
        return
    rows = [
        {
            **one,
            "target": session.text(one["title_zh"], one["title_en"]),
            "goal": f"{one['compare']} {one['goal']}",
            "unit": session.text(one["unit_zh"], one["unit_en"]),
            "value": one["value"],
        }
        for one in answer
    ]
    session.output(rows, ["id", "target", "value", "goal", "unit", "state", "met", "as_of"])


@plan.command()
@click.argument("target", required=False)
@click.pass_obj
def measure(session: Any, target: str | None) -> None:
    """立即测量。Measure all targets, or one, now."""
    answer = session.call("POST", f"{API}/plan/measurements", params={"target": target})
    session.output(answer, None if session.json else ["target", "value", "known", "reported", "as_of", "version"])


@plan.command()
@click.argument("target")
@click.argument("value")
@click.option("--as-of", required=True, help="截至时间 / as of (RFC 3339)")
@click.option("--evidence", required=True, help="证据说明 / evidence in words")
@click.option("--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="证据附件 / evidence file")
@_token
@click.pass_obj
def report(session: Any, target: str, value: str, as_of: str, evidence: str, file: Path | None, token: str | None) -> None:
    """上报一个数值，附证据，待他人复核。Report a figure with evidence, for somebody else to approve."""
    body: dict[str, Any] = {"value": value, "as_of": as_of, "evidence_text": evidence}
    if file is not None:
        body |= {"evidence_name": file.name, "evidence_base64": base64.b64encode(file.read_bytes()).decode()}
    session.output(_ask(session, "POST", f"{API}/plan/targets/{target}/reports", token, body))


@plan.command()
@click.argument("report", type=int)
@click.option("--note", default="", help="意见 / note")
@_token
@click.pass_obj
def approve(session: Any, report: int, note: str, token: str | None) -> None:
    """复核通过（须为第二人）。Approve a report; by a second person."""
    session.output(_ask(session, "POST", f"{API}/plan/reports/{report}/approve", token, {"note": note}))


@plan.command()
@click.argument("report", type=int)
@click.option("--note", required=True, help="理由 / why")
@_token
@click.pass_obj
def reject(session: Any, report: int, note: str, token: str | None) -> None:
    """退回（须为第二人，并说明理由）。Reject a report, saying why; by a second person."""
    session.output(_ask(session, "POST", f"{API}/plan/reports/{report}/reject", token, {"note": note}))


@plan.command()
@click.option("--as-of", help="截至时间 / as of (RFC 3339)")
@click.option("--file", "keep", is_flag=True, help="存入记录 / keep it in the record")
@click.pass_obj
def score(session: Any, as_of: str | None, keep: bool) -> None:
    """计分；同样的输入得到同样的字节。The score; the same inputs give the same bytes."""
    answer = session.call("POST" if keep else "GET", f"{API}/plan/score", params={"as_of": as_of})
    if session.json:
        session.output(answer)
        return
    session.output([task for task in answer["tasks"] if task["score"] is not None], ["id", "score"])
    session.output({k: answer[k] for k in ("as_of", "score", "counts", "digest")})


@plan.command()
@click.option(
    "--write", type=click.Path(dir_okay=False, path_type=Path), help="生成 docs/systems.md / write the page to this file"
)
@click.pass_obj
def systems(session: Any, write: Path | None) -> None:
    """各系统今天能用到什么程度。What works of every system today."""
    if write is not None:
        write.write_text(systems_page(), "utf-8")
        return
    answer = session.call("GET", f"{API}/plan/systems")
    if session.json:
        session.output(answer)
        return
    rows = [
        {**one, "system": session.text(one["title_zh"], one["title_en"]), "rooms": ", ".join(one["rooms"])}
        for one in answer["items"]
    ]
    session.output(rows, ["id", "system", "rooms", "door", "state"])
    session.output(answer["counts"])


def systems_page() -> str:
    """`docs/systems.md` from the house's own plugins and packs; needs no running house."""
    from tulou.kernel.plugins import plugins, read_packs
    from tulou.plan.document import load_plan
    from tulou.plan.systems import collect, page

    manager = plugins()
    loaded = load_plan(read_packs(manager))
    return page(loaded, collect(loaded, reversed(manager.hook.systems())))


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou plan`."""
    return [plan]
