"""What `tulou pack test` gives the tests of a pack: the fixtures `pack`, `packs` and `figure`, and the marker `outside`.

Law: it reports what was run; a marker without a source proves nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from tulou.kernel.packs import Pack, Packs
from tulou.kernel.packs.proving import BENCHES

_found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "outside": [], "figures": []}
_sources: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "outside(source): what is expected is not ours; source says whose it is")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("outside")
        source = marker.kwargs.get("source", marker.args[0] if marker.args else "") if marker else ""
        if isinstance(source, str) and source.strip():
            _sources[item.nodeid] = source.strip()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
        _found["passed"] += not report.nodeid.startswith(f"{BENCHES}/")  # a bench proves figures
        if report.nodeid in _sources:
            _found["outside"].append({"test": report.nodeid, "source": _sources[report.nodeid]})
    elif report.failed:
        _found["failed"] += 1
    elif report.skipped:
        _found["skipped"] += 1


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _found["failed"] += 1


def pytest_sessionfinish() -> None:
    Path(os.environ["TULOU_PROOF"]).write_bytes(orjson.dumps(_found))


@pytest.fixture(scope="session")
def packs() -> Packs:
    """The packs of the house, this one among them."""
    from tulou.kernel.packs.installing import with_pack
    from tulou.kernel.plugins import plugins, read_packs
    from tulou.kernel.settings import Settings

    settings = Settings.load()
    return with_pack(settings, read_packs(plugins(), settings, installed=False), Path(os.environ["TULOU_PACK"]))[0]


@pytest.fixture(scope="session")
def pack(packs: Packs) -> Pack:
    """The pack that is tested."""
    folder = Path(os.environ["TULOU_PACK"])
    return next(one for one in packs.packs.values() if one.folder.absolute() == folder)


@pytest.fixture
def figure() -> Callable[[str, float, str], None]:
    """`figure(name, value, unit)`: what a bench measured, recorded with the proof."""

    def measured(name: str, value: float, unit: str) -> None:
        _found["figures"].append({"name": name, "value": float(value), "unit": unit})

    return measured
