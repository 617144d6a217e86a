"""`tulou device`, `tulou readings`, `tulou firmware` and `tulou rollout` as a user types them, against a running house."""

from __future__ import annotations

import asyncio
import csv
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.access.conftest import Estate
from tulou.cli import main

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tulou = Callable[..., Awaitable[Any]]


@pytest.fixture
def tulou(estate: Estate, address: str, monkeypatch: pytest.MonkeyPatch) -> Tulou:
    """Runs a command in a thread; the answer is its JSON."""
    home = estate.house.settings.home
    run_file = {
        "pid": os.getpid(), "address": address.removesuffix("/api/v1"), "token": estate.house.local_token,
        "roles": ["api"], "version": "test", "started": 0,
    }
    (home / "run.json").write_text(json.dumps(run_file))
    monkeypatch.setenv("TULOU_HOME", str(home))

    async def run(*arguments: str, code: int = 0, stdin: str | None = None) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, main, ["--json", "--lang", "en", *arguments], stdin)
        assert result.exit_code == code, (result.output, result.exception)
        return json.loads(result.stdout) if result.stdout.strip() else None

    return run


async def test_a_device_from_the_command_line(tulou: Tulou) -> None:
    create = ("device", "create", "--org", "fuzhou", "--type", "Manhole", "--name", "井", "--id", "w-1")
    made = await tulou(*create)
    assert made["id"] == "fuzhou:w-1"
    assert len(made["token"]) == 30
    assert [d["id"] for d in (await tulou("device", "list", "--q", "w-1"))["items"]] == ["fuzhou:w-1"]
    assert (await tulou("device", "token", "fuzhou:w-1"))["token"] != made["token"]
    assert (await tulou("device", "disable", "fuzhou:w-1"))["status"] == "disabled"
    assert (await tulou("device", "disable", "--undo", "fuzhou:w-1"))["status"] == "active"
    assert (await tulou("device", "show", "fuzhou:w-1"))["no"] == made["no"]
    assert await tulou("readings", "latest", str(made["no"])) == []
    await tulou("device", "delete", "fuzhou:w-1")
    await tulou("device", "show", "fuzhou:w-1", code=1)


async def test_import_says_line_by_line_what_it_did(tulou: Tulou, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out)
        writer.writerow(["org", "type", "name", "id", "lon", "lat", "synthetic"])
        writer.writerow(["fuzhou", "Manhole", "井 1", "i-1", "119.3", "26.1", ""])
        writer.writerow(["fuzhou", "Manhole", "井 2", "i-2", "east", "26.1", ""])
        writer.writerow(["fuzhou", "Manhole", "井 3", "i-3", "", "", "1"])
    lines = await tulou("device", "import", str(file), code=1)
    assert [line["line"] for line in lines] == [1, 2, 3]
    assert lines[1]["error"]["field"] == "lon"
    assert [line.get("synthetic") for line in lines] == [False, None, True]
    again = await tulou("device", "import", str(file), code=1)
    assert not any("token" in line for line in again)
    rows = tmp_path / "devices.jsonl"
    rows.write_text('{"org": "fuzhou", "type": "Manhole", "name": "井 4", "id": "i-4"}\n')
    assert (await tulou("device", "import", str(rows)))[0]["created"]


async def test_an_import_of_many_writes_its_answers_to_a_file(tulou: Tulou, tmp_path: Path) -> None:
    rows = [{"org": "fuzhou", "type": "Manhole", "name": f"井 {n}", "id": f"m-{n}", "lon": 119.3, "lat": 26.1} for n in range(5000)]
    file, out = tmp_path / "many.parquet", tmp_path / "out.csv"
    pq.write_table(pa.Table.from_pylist([*rows, {**rows[0], "org": "atlantis"}]), file)
    told = await tulou("device", "import", str(file), "--out", str(out), code=1)
    assert (told["lines"], told["created"], told["known"], told["refused"]) == (5001, 5000, 0, 1)
    with out.open() as lines:
        answers = list(csv.DictReader(lines))
    assert [int(one["line"]) for one in answers] == list(range(1, 5002))
    assert len({one["token"] for one in answers}) == 5001
    assert "atlantis" in answers[-1]["error"]
    with out.open("a") as torn:
        torn.write("5002,half a r")
    again = await tulou("device", "import", str(file), "--out", str(out), code=1)
    assert (again["created"], again["known"]) == (0, 5000)
    with out.open() as lines:
        both = list(csv.DictReader(lines))
    assert both[:5001] == answers, "the tokens of the first run are kept"
    assert [int(one["line"]) for one in both[5002:]] == list(range(1, 5002))


async def test_what_was_answered_before_a_broken_line_is_told(tulou: Tulou, estate: Estate, lin: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "broken.jsonl", tmp_path / "out.csv"
    rows = [json.dumps({"org": "fuzhou", "type": "Manhole", "name": "x", "id": f"broken-{n}"}) for n in range(1500)]
    file.write_text("\n".join([*rows, "{", rows[0]]))
    await tulou("device", "import", str(file), "--out", str(out), code=1)
    with out.open() as lines:
        tokens = {one["id"]: one["token"] for one in csv.DictReader(lines)}
    made = (await lin.get("/devices", params={"q": "broken-", "count": 1})).json()["count"]
    assert made == len(tokens) == 1024
    assert all(tokens.values())


async def test_readings_from_the_command_line(estate: Estate, lin: Any, tulou: Tulou, tmp_path: Path) -> None:
    made = [await estate.device(lin, "fuzhou", f"exported-{i}", type="StreetLight") for i in range(30)]
    for device in made:
        await estate.say(device, voltage=221.5, powerState="on")
    for device in made:
        await estate.latest(lin, device, "powerState", "on")
    no = str(made[0]["no"])
    latest = await tulou("readings", "latest", no)
    assert {row["property"]: row["value"] for row in latest} == {"voltage": 221.5, "powerState": "on"}
    assert (await tulou("readings", "series", no, "voltage"))["count"] == 1
    answer = await tulou("readings", "sql", f"SELECT value FROM readings WHERE entity = {no} AND property = 'voltage'")
    assert answer == {"columns": ["value"], "rows": [[221.5]]}
    await tulou("readings", "sql", "DROP TABLE readings", code=1)
    span = ("--type", "StreetLight", "--from", "2026-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
    for name, read in (("r.csv", pyarrow.csv.read_csv), ("r.parquet", pyarrow.parquet.read_table)):
        file = tmp_path / name
        assert (await tulou("readings", "export", str(file), *span))["readings"] == 60
        table = read(file)
        assert table.column_names[:5] == ["org", "entity", "no", "property", "ts"]
        rows = {(r["no"], r["property"], r["value"], r["text"]) for r in table.to_pylist()}
        assert len(rows) == 60
        assert (made[7]["no"], "voltage", 221.5, "") in rows or (made[7]["no"], "voltage", 221.5, None) in rows
    await tulou("readings", "export", str(tmp_path / "r.txt"), *span, code=2)


async def test_firmware_and_a_rollout_from_the_command_line(estate: Estate, lin: Any, tulou: Tulou, tmp_path: Path) -> None:
    device = await estate.device(lin, "fuzhou", "u-1", type="Manhole")
    file = tmp_path / "lid.bin"
    file.write_bytes(os.urandom(3 << 20))
    where = ("--org", "fuzhou", "--type", "Manhole", "--title", "lid", "--version", "2")
    package = await tulou("firmware", "upload", str(file), *where)
    assert package["size"] == 3 << 20
    assert (await tulou("firmware", "upload", str(file), *where))["created"] is False
    assert [one["no"] for one in (await tulou("firmware", "list", "--type", "Manhole"))["items"]] == [package["no"]]
    assert (await tulou("firmware", "show", str(package["no"])))["sha256"] == package["sha256"]
    await tulou("rollout", "create", str(package["no"]), "--name", "x", "--stages", "50", code=1)
    rollout = await tulou("rollout", "create", str(package["no"]), "--name", "lids", "--device", device["id"], "--wait", "0",
                          "--stages", "50,100", "--start")
    no = str(rollout["no"])
    assert (rollout["state"], len(rollout["stages"])) == ("running", 2)
    assert (await tulou("rollout", "pause", no))["state"] == "paused"
    assert (await tulou("rollout", "resume", no))["state"] == "running"
    await tulou("firmware", "delete", str(package["no"]), code=1)
    assert (await tulou("rollout", "abort", no))["state"] == "aborted"
    assert [one["device"] for one in (await tulou("rollout", "devices", no, "--state", "withdrawn"))["items"]] == [device["id"]]
    assert (await tulou("rollout", "list", "--state", "aborted"))["items"][0]["no"] == rollout["no"]
    assert (await tulou("rollout", "show", no))["stages"][0]["withdrawn"] == 1
