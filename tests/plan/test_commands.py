"""`tulou plan` against a whole house in this process: the tables, the JSON, and two people with tokens of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tulou.cli import Session, main
from tulou.kernel.bus import free_port
from tulou.kernel.settings import Settings

LEAD = "fujian.txglj"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs `tulou <arguments>`; one house serves all of them."""
    session = Session(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0), True, "en")
    group = click.Group(commands=_commands())

    def invoke(*arguments: str, language: str = "", **environment: str) -> Result:
        session.json = not language
        session.language = language or "en"
        return CliRunner().invoke(group, list(arguments), obj=session, env=environment)

    yield invoke
    session.close()


def _commands() -> dict[str, click.Command]:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in ("plan", "user", "token", "ledger")}
    return {name: command for name, command in found.items() if command is not None}


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_plan_from_the_command_line(run: Run, tmp_path: Path) -> None:
    assert len(answer(run("plan", "tasks"))) == 25
    assert len(answer(run("plan", "targets"))) == 21
    assert answer(run("plan", "targets", "5g-stations"))["state"] == "no_data"
    assert {row["target"] for row in answer(run("plan", "measure"))} >= {"5g-stations", "racks-in-use"}
    assert [row["target"] for row in answer(run("plan", "measure", "racks-in-use"))] == ["racks-in-use"]

    def token(name: str, role: str) -> str:
        answer(run("user", "create", name, "--org", LEAD, "--role", f"{LEAD}:{role}"))
        made = answer(run("token", "create", "desk", "--org", LEAD, "--scope", "plan.*", "--user", name))
        secret: str = made["token"]
        return secret

    li, chen = token("li", "reporter"), token("chen", "approver")
    evidence = tmp_path / "evidence.txt"
    evidence.write_text("64000")
    figures = ["5g-stations", "64000", "--as-of", "2022-06-30T00:00:00Z", "--evidence", "sheet 3", "--file", str(evidence)]
    nobody = run("plan", "report", *figures)
    assert nobody.exit_code == 1, "the machine's own key is nobody"
    report = answer(run("plan", "report", *figures, TULOU_TOKEN=li))
    assert (report["value"], report["evidence_name"]) == (64000, "evidence.txt")
    refused = run("plan", "approve", str(report["id"]), "--token", li)
    assert refused.exit_code == 1
    assert answer(run("plan", "approve", str(report["id"]), "--token", chen))["state"] == "approved"
    assert answer(run("plan", "targets", "5g-stations"))["state"] == "reported"
    assert run("plan", "reject", str(report["id"]), "--note", "late", "--token", chen).exit_code == 1

    score = answer(run("plan", "score", "--file"))
    assert answer(run("plan", "score", "--as-of", score["as_of"]))["digest"] == score["digest"]
    assert sum(answer(run("plan", "systems"))["counts"].values()) == 121

    table = tmp_path / "projects.csv"
    lines = [f"{LEAD},N1-1,N1,5G 三期,2021-01-01,2022-12-31", f"{LEAD},N1-2,Z1,没有这项任务,2021-01-01,2022-12-31"]
    table.write_text("\n".join(["org,code,task,title,starts,ends", *lines]), "utf-8")
    brought = run("plan", "import", "projects", str(table), TULOU_TOKEN=li)
    assert brought.exit_code == 1, "a line was refused"
    assert json.loads(brought.stdout)["counts"] == {"created": 1, "changed": 0, "unchanged": 0, "error": 1}
    assert "没有任务 Z1" in run("plan", "import", "projects", str(table), language="zh", TULOU_TOKEN=li).output
    (found,) = answer(run("plan", "projects", "--task", "N1"))["items"]
    assert found["title"] == "5G 三期"
    assert answer(run("plan", "projects", str(found["no"])))["movements"] == []
    assert run("plan", "evaluation", "2025", "--draft").exit_code == 1, "the machine's own key is nobody"
    assert answer(run("plan", "evaluation")) == []
    assert answer(run("ledger", "verify")) == {"ok": True, "entries": 0, "accounts": 0, "wrong": []}
    assert answer(run("ledger", "accounts")) == answer(run("ledger", "entries")) == []

    for arguments in (["tasks"], ["targets"], ["targets", "5g-stations"], ["score"], ["systems"], ["projects"]):
        for language, word in (("zh", "5G"), ("en", "5G")):
            shown = run("plan", *arguments, language=language)
            assert shown.exit_code == 0, shown.output
            assert word in shown.output or arguments == ["score"]
