"""The command line, on a house that is not running: it opens the house itself and asks the same routes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tulou.cli import main
from tulou.kernel.bus import free_port


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(home: Path, *words: str) -> Result:
    env = {
        "TULOU_HOME": str(home), "TULOU_HTTP_PORT": str(free_port()), "TULOU_MQTT_PORT": "0", "TULOU_LANG": "en",
        "TULOU_OIDC_CLIENT_SECRET": "hush-hush",
    }
    return CliRunner().invoke(main, ["--json", *words], env=env)


def answer(home: Path, *words: str) -> Any:
    result = run(home, *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if result.stdout.strip() else None


def test_config_shows_sources_and_masks_secrets(home: Path) -> None:
    result = run(home, "config", "show")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["home"]["value"] == str(home)
    assert (rows["bind"]["source"], rows["http_port"]["source"]) == ("default", "env")
    assert rows["oidc_client_secret"]["source"] == "env"
    assert "hush" not in result.output


def test_status_says_that_nothing_runs(home: Path) -> None:
    result = run(home, "status")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"running": False}


@pytest.mark.slow
def test_the_doctor_finds_what_is_wrong(home: Path, tmp_path: Path) -> None:
    found = {f["name"]: f for f in answer(home, "doctor")}
    assert {"python", "sqlite", "disk", "ports", "nats-server", "chdb", "clock", "files", "write"} <= found.keys()
    bad = CliRunner().invoke(
        main, ["--json", "doctor"],
        env={"TULOU_HOME": str(home), "TULOU_NATS_SERVER": str(tmp_path / "none"), "TULOU_DATABASE_URL": "postgresql://127.0.0.1:1/x"},
    )
    assert bad.exit_code == 1
    wrong = {f["name"] for f in json.loads(bad.stdout) if not f["ok"]}
    assert wrong >= {"nats-server", "services"}
    assert all(f["zh"] and f["en"] for f in json.loads(bad.stdout))


@pytest.mark.slow
def test_organisations_people_tokens_and_audit_by_command(home: Path) -> None:
    assert len(answer(home, "org", "list")) >= 28
    names = ("--name-zh", "福州市发改委", "--name-en", "Fuzhou DRC", "--kind", "department", "--parent", "fuzhou")
    assert answer(home, "org", "apply", "fuzhou.fgw", *names)["state"] == "applied"
    made = answer(home, "user", "create", "lin", "--org", "fuzhou", "--role", "fuzhou/:admin")
    assert made["roles"] == [{"org": "fuzhou", "role": "admin", "subtree": True}]
    assert len(made["password"]) >= 16
    token = answer(home, "token", "create", "robot", "--org", "fuzhou", "--scope", "context.*", "--user", "lin")
    assert token["secret"].startswith("tulou_")
    assert [t["user"] for t in answer(home, "token", "list")] == ["lin"]
    answer(home, "token", "revoke", str(token["id"]))
    assert answer(home, "token", "list")[0]["revoked_at"]
    actions = [row["action"] for row in answer(home, "audit", "list", "--actor", "system:cli")]
    assert actions[:2] == ["organisations.token.delete", "organisations.token.create"]
    assert answer(home, "audit", "verify")["ok"] is True
    assert run(home, "audit", "verify", "--expect", "1:" + "0" * 64).exit_code == 1
    refused = run(home, "user", "disable", "1")
    assert refused.exit_code == 1
    assert "administrator" in refused.output


def test_help_imports_no_store_and_warns_of_nothing() -> None:
    """What is slow to import is imported by the commands that need it."""
    code = (
        "import sys; from click.testing import CliRunner; from tulou.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "print([m for m in ('alembic', 'chdb', 'clickhouse_connect', 'granian', 'authlib.integrations') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "Authlib" not in done.stderr
