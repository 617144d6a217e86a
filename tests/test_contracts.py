"""What the tree itself promises: floors, locks without addresses, documented hooks, one licence, one version."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pluggy
import pytest

from tulou.kernel import hookspecs

ROOT = Path(__file__).parent.parent
LOCKS = sorted(ROOT.glob("requirements*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
BINARY = {".png", ".jpg", ".webp", ".woff2", ".ico", ".pbf", ".gz", ".zip"}


def tracked() -> Iterator[Path]:
    """Every file that git tracks (or would, when it is new), without binary ones."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix not in BINARY:
            yield path


def test_imports_only_go_down() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_holds_versions_and_hashes_and_no_address(lock: Path) -> None:
    requirements = re.sub(r"\\\n", " ", lock.read_text("utf-8")).splitlines()
    requirements = [line for line in requirements if line and not line.startswith("#")]
    assert requirements
    for line in requirements:
        assert re.match(r"[a-z0-9.\-]+==[^\s;]+( ;[^#]+?)?( +--hash=sha256:[0-9a-f]{64})+ *$", line), line


def test_the_lock_covers_what_the_project_asks_for() -> None:
    pinned = set(re.findall(r"^([a-z0-9.\-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.M))
    asked = {re.match(r"[A-Za-z0-9.\-_]+", text).group().lower() for text in PROJECT["project"]["dependencies"]}  # type: ignore[union-attr]
    assert asked <= pinned
    developers = set(re.findall(r"^([a-z0-9.\-]+)==", (ROOT / "requirements-dev.txt").read_text("utf-8"), re.M))
    assert {re.match(r"[a-z0-9.\-]+", text).group() for text in PROJECT["dependency-groups"]["dev"]} <= developers  # type: ignore[union-attr]


def test_no_tracked_file_names_an_index_a_mirror_or_a_machine_path() -> None:
    # Built from parts, so that this file does not find itself.
    forbidden = re.compile(
        "|".join(
            ["--(extra-)?index-" + "url", "--find-" + "links", "PIP_INDEX_" + "URL", "registry=" + "http",
             "file:" + "///(opt|home|root|work)", r"(?<![\w.])/(work|root|home)" + r"/[a-z]+/"]
        )
    )
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if match := forbidden.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found


def test_npm_lock_has_integrity_and_no_address() -> None:
    lock = json.loads((ROOT / "console/package-lock.json").read_text("utf-8"))
    for name, entry in lock["packages"].items():
        assert "resolved" not in entry, name
        assert not name or entry.get("link") or "integrity" in entry, name


def test_every_hook_is_documented() -> None:
    manager = pluggy.PluginManager("tulou")
    manager.add_hookspecs(hookspecs)
    hooks = [name for name in vars(hookspecs) if manager.parse_hookspec_opts(hookspecs, name) is not None]
    assert len(hooks) > 5
    assert [name for name in hooks if not inspect.getdoc(getattr(hookspecs, name))] == []


def test_every_module_says_what_it_is() -> None:
    silent = []
    for path in (ROOT / "src/tulou").rglob("*.py"):
        text = path.read_text("utf-8").lstrip()
        if text and not text.startswith(('"""', 'r"""')) and "versions" not in path.parts:
            silent.append(str(path.relative_to(ROOT)))
    assert not silent


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert json.loads((ROOT / "console/package.json").read_text("utf-8"))["license"] == "Apache-2.0"


def test_one_version() -> None:
    version = PROJECT["project"]["version"]
    assert json.loads((ROOT / "console/package.json").read_text("utf-8"))["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8") or "## [Unreleased]" in (
        ROOT / "CHANGELOG.md"
    ).read_text("utf-8")


def test_both_readmes_have_the_same_commands() -> None:
    def blocks(name: str) -> list[str]:
        found = re.findall(r"^```(?:sh|python)\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.M | re.S)
        return ["\n".join(line.split("  #")[0] for line in block.splitlines()) for block in found]

    assert blocks("README.md") == blocks("README.zh-CN.md")
