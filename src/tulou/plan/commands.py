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


@plan.command()
@click.option("--task", help="任务编号 / task")
@click.option("--org")
@click.option("--late", is_flag=True, help="只看有逾期里程碑的 / only with late milestones")
@click.argument("project", type=int, required=False)
@click.pass_obj
def projects(session: Any, task: str | None, org: str | None, late: bool, project: int | None) -> None:
    """项目；给出编号则看一个。Projects, or one of them. Money in fen."""
    if project is not None:
        answer = session.call("GET", f"{API}/plan/projects/{project}")
        if session.json:
            session.output(answer)
            return
        session.output(answer, ["no", "org", "code", "task", "title", "starts", "ends", "synthetic"])
        session.output(answer["milestones"], ["no", "title", "due", "state", "done_on", "late", "submitted_name", "decided_name"])
        session.output(answer["funds"]["sources"], ["source", "planned", "committed", "received", "spent"])
        session.output(answer["movements"], ["no", "at", "kind", "source", "use", "resource", "amount", "unit", "state", "entry"])
        return
    answer = session.call("GET", f"{API}/plan/projects", params={"task": task, "org": org, "late": 1 if late else None, "limit": 1000})
    if session.json:
        session.output(answer)
        return
    rows = [{**one, **one["funds"]["total"]} for one in answer["items"]]
    session.output(rows, ["no", "org", "code", "task", "title", "milestones", "done", "late", "planned", "received", "spent"])


@plan.command("import")
@click.argument("what", type=click.Choice(["projects", "milestones", "movements"]))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_token
@click.pass_obj
def import_command(session: Any, what: str, file: Path, token: str | None) -> None:
    """导入 CSV 表；有错的行逐行说明，退出码为 1。Bring a CSV table; lines with errors are told, and the exit code is 1."""
    headers = {"authorization": f"Bearer {token}"} if token else None
    response = session.request("POST", f"{API}/plan/import/{what}", content=file.read_bytes(), headers=headers)
    if response.status_code >= 400:
        session.fail(response)
    answer = orjson.loads(response.content)
    bad = [line for line in answer["lines"] if "error" in line]
    if session.json:
        session.output(answer)
    else:
        session.output(answer["counts"])
        rows = [{"line": one["line"], "error": session.text(one["error"]["detail_zh"], one["error"]["detail_en"])} for one in bad]
        if rows:
            session.output(rows, ["line", "error"])
    if bad:
        raise SystemExit(1)


@plan.command()
@click.argument("year", type=int, required=False)
@click.option("--draft", is_flag=True, help="起草 / make a draft")
@click.option("--publish", type=int, metavar="VERSION", help="公布（须为第二人）/ publish; by a second person")
@click.option("--finish", type=int, metavar="VERSION", help="终审 / make final")
@_token
@click.pass_obj
def evaluation(session: Any, year: int | None, draft: bool, publish: int | None, finish: int | None, token: str | None) -> None:
    """年度考评：查看、起草、公布、终审。The annual evaluation: look, draft, publish, make final."""
    base = f"{API}/plan/evaluations"
    if year is None:
        session.output(session.call("GET", base)["items"], ["year", "version", "state", "score", "method", "digest", "made_name", "published_name"])
        return
    if draft:
        session.output(_ask(session, "POST", base, token, {"year": year}))
        return
    for verb, version in (("publish", publish), ("finish", finish)):
        if version is not None:
            session.output(_ask(session, "POST", f"{base}/{year}/{version}/{verb}", token, {}))
            return
    answer = session.call("GET", f"{base}/{year}")
    if session.json:
        session.output(answer)
        return
    rows = [{"agency": row["id"], **row["criteria"], "score": row["score"]} for row in answer["document"]["agencies"]]
    session.output(rows, ["agency", "targets", "milestones", "funds", "items", "score"])
    session.output({key: answer[key] for key in ("year", "version", "state", "digest", "recomputes", "appeal_until")})


@plan.command("write-report")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--language", type=click.Choice(["zh", "en"]), default="zh", show_default=True)
@click.option("--year", type=int, help="年度 / of a year")
@click.option("--as-of", help="截至时间 / as of (RFC 3339)")
@click.pass_obj
def report_file(session: Any, file: Path, language: str, year: int | None, as_of: str | None) -> None:
    """生成报告，按扩展名为 Word（.docx）或 PDF。Write the report, in Word (.docx) or PDF by the file's name."""
    form = file.suffix.lstrip(".").lower()
    response = session.request("GET", f"{API}/plan/report", params={"format": form, "language": language, "year": year, "as_of": as_of})
    if response.status_code >= 400:
        session.fail(response)
    file.write_bytes(response.content)
    session.output({"file": str(file), "bytes": len(response.content)})


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
