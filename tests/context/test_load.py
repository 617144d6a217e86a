"""`tulou context load` against a whole house in this process: NDJSON, CSV and Parquet, errors by line, going on after a stop."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
import pytest
from click.testing import CliRunner, Result

from tulou.cli import Session, main
from tulou.context import commands
from tulou.kernel.bus import free_port
from tulou.kernel.settings import Settings

ORG = "xiamen"
Run = Callable[..., Result]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    found = Session(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0), True, "en")
    yield found
    found.close()


@pytest.fixture
def run(session: Session) -> Run:
    """Runs `tulou context load <arguments>`; one house serves all of them."""
    assert isinstance(main, click.Group)
    group = main.get_command(click.Context(main), "context")
    assert group is not None

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(group, ["load", *arguments], obj=session)

    return invoke


def lines(path: Path, *entities: Any) -> Path:
    path.write_bytes(b"".join((item if isinstance(item, bytes) else orjson.dumps(item)) + b"\n" for item in entities))
    return path


def lamp(n: int, **more: Any) -> dict[str, Any]:
    return {"id": f"urn:x:{n}", "type": "Lamp", "power": {"type": "Property", "value": n}, **more}


def entities(session: Session, org: str = ORG, **query: Any) -> list[Any]:
    answer = session.request(
        "GET", "/ngsi-ld/v1/entities", params={"type": "Lamp", "limit": 1000, "options": "keyValues", **query},
        headers={"ngsild-tenant": org},
    )
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def asked(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of the entities in each batch that the house was asked to take."""
    seen: list[list[int]] = []
    requests = session.requests

    def listening(calls: Any) -> list[httpx.Response]:
        for _, path, more in calls:
            if path == commands.BATCH:
                seen.append([int(item["id"].rpartition(":")[2]) for item in orjson.loads(more["content"])])
        return requests(calls)

    monkeypatch.setattr(session, "requests", listening)
    return seen


def test_a_file_is_loaded_and_loading_it_again_changes_nothing(run: Run, session: Session, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.ndjson", *[lamp(n) for n in range(120)], {"id": "urn:x:200", "type": "Lamp", "power": 7})
    for _ in range(2):
        done = run(str(file), "--org", ORG, "--batch", "50")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"file": str(file), "lines": 121, "loaded": 121, "refused": 0}
        found = entities(session)
        assert (len(found), found[-1]["power"]) == (121, 7)
    assert entities(session, "fuzhou") == []
    assert list((session.settings.home / "loads").iterdir()) == []


def test_bad_lines_are_named_and_their_neighbours_are_not_lost(run: Run, session: Session, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "a.ndjson", lamp(1), b"{broken", b"[1]", b"", {"type": "Lamp"}, {"id": "urn:x:6"}, lamp(7, id="no uri"), lamp(8),
        lamp(9, **{"@context": "https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-v1.8.jsonld"}), lamp(10),
    )
    done = run(str(file), "--org", ORG)
    assert done.exit_code == 1, done.output
    answer = json.loads(done.stdout)
    assert (answer["loaded"], answer["refused"]) == (4, 5)
    problems = [json.loads(line) for line in Path(answer["errors"]).read_text().splitlines()]
    assert sorted(problem["line"] for problem in problems) == [2, 3, 5, 6, 7]
    named = {problem["line"]: problem for problem in problems}
    assert named[7]["id"] == "no uri"
    assert {"detail_zh", "detail_en", "field"} <= named[6]["error"].keys()
    assert sorted(item["id"] for item in entities(session)) == ["urn:x:1", "urn:x:10", "urn:x:8", "urn:x:9"]
    typed = run(str(file), "--org", ORG, "--type", "Lamp")
    assert json.loads(typed.stdout)["refused"] == 4  # the entity without a type is a lamp now


def test_what_is_stopped_goes_on(
    run: Run, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lines(tmp_path / "a.ndjson", *[lamp(n) for n in range(100)])
    seen = asked(session, monkeypatch)
    listening, broken = session.requests, httpx.Response(503, json={"detail": "away"})

    def failing(calls: Any) -> list[httpx.Response]:
        return [broken for _ in listening(calls)] if len(seen) >= 3 else listening(calls)

    monkeypatch.setattr(session, "requests", failing)
    assert run(str(file), "--org", ORG, "--batch", "10").exit_code == 1
    assert len(seen) == 6
    monkeypatch.setattr(session, "requests", listening)
    seen.clear()
    done = run(str(file), "--org", ORG, "--batch", "10")
    assert json.loads(done.stdout) == {"file": str(file), "lines": 100, "loaded": 100, "refused": 0}
    assert seen[0][0] == 30  # what was acknowledged is not sent again
    assert len(entities(session)) == 100


def test_a_file_that_has_changed_begins_anew(
    run: Run, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lines(tmp_path / "a.ndjson", *[lamp(n) for n in range(10)])
    progress = commands.Progress(session.settings.home, file, ORG, None)
    progress.reached([[commands.Item(5, "", b"", "", len(b"".join(file.read_bytes().splitlines(True)[:5])))]], 0)
    seen = asked(session, monkeypatch)
    assert run(str(file), "--org", "fuzhou").exit_code == 0  # another organisation's load is another load
    assert run(str(file), "--org", ORG).exit_code == 0
    assert seen == [list(range(10)), list(range(5, 10))]
    progress.reached([[commands.Item(5, "", b"", "", 1)]], 0)
    lines(file, *[lamp(n) for n in range(11)])
    assert run(str(file), "--org", ORG).exit_code == 0
    assert seen[2] == list(range(11))
    progress.reached([[commands.Item(5, "", b"", "", 1)]], 0)
    assert run(str(file), "--org", ORG, "--restart").exit_code == 0
    assert seen[3] == list(range(11))


def test_the_last_line_of_an_entity_stands(
    run: Run, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lines(tmp_path / "a.ndjson", *[{"id": f"urn:x:{n % 7}", "type": "Lamp", "power": n} for n in range(100)])
    assert run(str(file), "--org", ORG, "--batch", "5").exit_code == 0
    assert sorted(item["power"] for item in entities(session)) == list(range(93, 100))


def test_batches_are_bounded_by_bytes_too(
    run: Run, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BATCH_BYTES", 2000)
    monkeypatch.setattr(commands, "LINE_BYTES", 3000)
    file = lines(tmp_path / "a.ndjson", *[lamp(n, note="x" * 500) for n in range(9)], lamp(9, note="x" * 9000), lamp(10))
    seen = asked(session, monkeypatch)
    done = run(str(file), "--org", ORG)
    assert json.loads(done.stdout)["refused"] == 1
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 10]]
    assert json.loads((tmp_path / "a.ndjson.errors.ndjson").read_text())["line"] == 10
    assert len(entities(session)) == 10


def test_tables(run: Run, session: Session, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    sheet = tmp_path / "a.csv"
    sheet.write_text(
        "id,type,name,power,on,code,lon,lat\nurn:x:1,Lamp,\"灯,一\",3.5,true,007,118.1,24.5\nurn:x:2,,第二盏,,,,,\n", "utf-8-sig"
    )
    assert run(str(sheet), "--org", ORG, "--type", "Lamp").exit_code == 0
    one, two = entities(session)
    assert one == {
        "id": "urn:x:1", "type": "Lamp", "name": "灯,一", "power": 3.5, "on": True, "code": "007",
        "location": {"type": "Point", "coordinates": [118.1, 24.5]},
    }
    assert two == {"id": "urn:x:2", "type": "Lamp", "name": "第二盏"}
    table = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({
        "id": [f"urn:x:{n}" for n in range(10, 2510)], "power": [None, float("nan"), *map(float, range(2, 2500))],
    }), table)
    done = run(str(table), "--org", ORG, "--type", "Lamp", "--batch", "1000")
    assert json.loads(done.stdout)["loaded"] == 2500, done.output
    assert len(entities(session, q="power>2489")) == 10
    assert "power" not in entities(session, idPattern="^urn:x:1[01]$")[0]


def test_who_may_not_is_told_and_nothing_is_noted(run: Run, session: Session, tmp_path: Path) -> None:
    file = lines(tmp_path / "a.ndjson", lamp(1))
    done = run(str(file), "--org", "nowhere")
    assert done.exit_code == 1
    assert "nowhere" in done.output
    assert not (session.settings.home / "loads").exists()


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A file of 200 MB is read within a few batches' memory."""
    file = tmp_path / "a.ndjson"
    with file.open("wb") as out:
        out.writelines(orjson.dumps(lamp(n, note="x" * 1000)) + b"\n" for n in range(180_000))
    progress = commands.Progress(tmp_path, file, ORG, None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, items = commands.items_of(file, progress, None)
    count = sum(len(part) for group in commands.groups(commands.batches(items, 5000)) for part in group)
    assert count == 180_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
