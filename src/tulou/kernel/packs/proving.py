"""What a pack proves, and the grade that follows from it.

Law: a grade is computed from the pack and from the record of its last proof, `proof.json`, which names the digest of the files that were
proved: a pack that was changed since has proved nothing. Nobody declares a grade. The record is as trustworthy as who made it; a
signature covers it.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, Field, ValidationError

from tulou import __version__
from tulou.kernel.errors import Unavailable
from tulou.kernel.packs.collection import Pack, Packs
from tulou.kernel.packs.models import Strict
from tulou.kernel.packs.reading import Problem
from tulou.kernel.packs.signing import PROOF, digest

GRADES = ("bronze", "silver", "gold", "platinum")
TESTS, BENCHES = "tests", "bench"
SECONDS = 900
DOCUMENT = 300
"""Characters that a README has at least."""
_HAN = re.compile(r"[\u3400-\u9fff]")


class Outside(Strict):
    """A test that passed and whose expectation is not ours: `source` says whose."""

    test: str
    source: str


class Figure(Strict):
    """What a bench measured."""

    name: str
    value: float
    unit: str


class Proof(Strict):
    """What was proved of the files that have this digest."""

    digest: str
    tulou: str
    made_at: str
    passed: int = Field(ge=0)
    failed: int = Field(ge=0)
    skipped: int = Field(ge=0)
    tried: int = Field(ge=0, description="sections whose examples were tried")
    broken: int = Field(ge=0, description="examples that did not hold")
    outside: list[Outside]
    figures: list[Figure]


class Grade(NamedTuple):
    """A pack's grade, empty for one that is broken, the grade after it, and what is missing for that, in both languages."""

    name: str
    next: str
    missing: list[tuple[str, str]]


def proof_of(folder: Path) -> Proof | None:
    """The record of the last proof, None where there is none that can be read."""
    try:
        return Proof.model_validate_json((folder / PROOF).read_bytes())
    except (OSError, ValidationError):
        return None


def grade(pack: Pack) -> Grade:
    """The grade of a pack that is sound."""
    proof = proof_of(pack.folder)
    held = proof if proof is not None and proof.digest == digest(pack.folder) else None
    steps = (("silver", _silver(proof, held)), ("gold", _gold(pack, held)), ("platinum", _platinum(held)))
    reached = "bronze"
    for name, missing in steps:
        lacking = list(missing)
        if lacking:
            return Grade(reached, name, lacking)
        reached = name
    return Grade(reached, "", [])


def _silver(proof: Proof | None, held: Proof | None) -> Iterator[tuple[str, str]]:
    if proof is None:
        yield "没有测试记录，请运行 tulou pack test", "no tests are recorded: run tulou pack test"
    elif held is None:
        yield "测试之后文件有改动，请再运行 tulou pack test", "files changed since they were tested: run tulou pack test again"
    else:
        if not held.passed:
            yield f"{TESTS}/ 中没有通过的测试", f"no test in {TESTS}/ passed"
        if held.failed or held.broken:
            yield f"{held.failed} 项测试、{held.broken} 个示例未通过", f"{held.failed} tests and {held.broken} examples fail"


def _gold(pack: Pack, held: Proof | None) -> Iterator[tuple[str, str]]:
    for place, zh, en in _texts(pack):
        if _HAN.search(en) or not (_HAN.search(zh) or zh == en):
            yield f"{place} 应有中英两种文字（{zh} / {en}）", f"{place} must be in both languages ({zh} / {en})"
    for name, chinese in (("README.md", False), ("README.zh-CN.md", True)):
        path = pack.folder / name
        text = path.read_text("utf-8", "replace") if path.is_file() else ""
        if len(text) < DOCUMENT or (chinese and 4 * len(_HAN.findall(text)) < len(text)):
            yield f"{name} 应有 {DOCUMENT} 字以上的说明", f"{name} must say at least {DOCUMENT} characters" + (" in Chinese" if chinese else "")
        unsaid = [kind for kind in pack.models if kind not in text]
        if unsaid:
            yield f"{name} 没有提到 {'、'.join(unsaid)}", f"{name} does not mention {', '.join(unsaid)}"
    if held is None or not held.outside:
        yield "没有以公开数据验证的测试（标记 outside，注明 source）", "no test against public data passed (mark it outside, with its source)"


def _platinum(held: Proof | None) -> Iterator[tuple[str, str]]:
    if held is None or not held.figures:
        yield f"{BENCHES}/ 没有测得数据（tulou pack test --bench）", f"no figures of {BENCHES}/ are recorded (tulou pack test --bench)"


def _texts(pack: Pack) -> Iterator[tuple[str, str, str]]:
    """Every text of a pack with its place."""
    waiting: list[tuple[str, Any]] = [("", pack), *((name, pack.section(name)) for name in pack.sections)]
    while waiting:
        place, value = waiting.pop(0)
        below: Iterator[tuple[Any, Any]] = iter(())
        if isinstance(value, BaseModel):
            fields = dict(value)
            if isinstance(fields.get("zh"), str) and isinstance(fields.get("en"), str):
                yield place, fields["zh"], fields["en"]
            below = iter(fields.items())
        elif isinstance(value, dict):
            below = iter(value.items())
        elif isinstance(value, list | tuple):
            below = iter(enumerate(value))
        waiting += [(f"{place}.{key}" if place else str(key), one) for key, one in below]


def try_out(pack: Pack, packs: Packs) -> tuple[int, list[Problem]]:
    """Try what engines can try of a pack's sections: how many were tried, and what did not hold."""
    tried, problems = 0, []
    for name in pack.sections:
        trial = packs.known[name].try_out
        if trial is not None:
            tried += 1
            problems += [pack.problem(name, error) for error in trial(pack.section(name), pack, packs)]
    return tried, problems


def prove(pack: Pack, packs: Packs, *, bench: bool = False, words: list[str] | None = None) -> tuple[Proof, list[Problem]]:
    """Try the pack's examples and run its own tests (and benches) by pytest in another process, and write `proof.json`. What pytest
    prints goes to the terminal. Raises `Unavailable` where there are tests and no pytest."""
    before = digest(pack.folder)
    tried, problems = try_out(pack, packs)
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "outside": [], "figures": []}
    suites = [name for name in (TESTS, *([BENCHES] if bench else [])) if (pack.folder / name).is_dir()]
    if suites:
        found = _pytest(pack.folder, suites, words or [])
    old = proof_of(pack.folder)
    if not bench and old is not None and old.digest == before:
        found["figures"] = old.figures
    proof = Proof(
        digest=before, tulou=__version__, made_at=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}", tried=tried, broken=len(problems), **found,
    )
    if digest(pack.folder) == before and (old is None or proof != old.model_copy(update={"made_at": proof.made_at})):
        (pack.folder / PROOF).write_bytes(orjson.dumps(proof.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return proof, problems


def _pytest(folder: Path, suites: list[str], words: list[str]) -> dict[str, Any]:
    if find_spec("pytest") is None:
        raise Unavailable("包有测试，但没有安装 pytest", "the pack has tests, and pytest is not installed", field="pytest")
    folder = folder.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        settings, result = Path(temporary) / "pytest.ini", Path(temporary) / "result.json"
        settings.write_text("[pytest]\npython_files = test_*.py bench_*.py\n", "utf-8")
        command = [
            sys.executable, "-m", "pytest", "-q", "-c", str(settings), f"--rootdir={folder}", "-p", "no:cacheprovider",
            "-p", "tulou.kernel.packs.pytest_plugin", *suites, *words,
        ]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning", "TULOU_PACK": str(folder), "TULOU_PROOF": str(result)}
        done = subprocess.run(command, cwd=folder, env=env, timeout=SECONDS, stdout=sys.stderr)
        try:
            found: dict[str, Any] = orjson.loads(result.read_bytes())
        except (OSError, ValueError):
            found = {"passed": 0, "failed": 1, "skipped": 0, "outside": [], "figures": []}
        if done.returncode not in (0, 5) and not found["failed"]:
            found["failed"] = 1
        return found
