"""The report in Word and PDF, looked at from outside: python-docx, poppler's pdftotext and pdffonts; the same figures give the same content."""

from __future__ import annotations

import datetime as dt
import importlib.util
import io
import shutil
import subprocess
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.plan.test_evaluation import YEAR, Evaluations, People, evaluations, people, published, year  # noqa: F401
from tests.plan.test_routes import Client, client  # noqa: F401

from tulou.kernel.errors import Invalid, Unavailable
from tulou.kernel.house import House
from tulou.kernel.policy import Actor
from tulou.plan.report import Reports
from tulou.plan.report.content import Bars, Document, Table, Text
from tulou.plan.report.pdf import family, pdf
from tulou.plan.report.service import MEDIA
from tulou.plan.report.word import chart, word

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("docx") or not importlib.util.find_spec("typst"), reason="the extra `reports` is not installed"
)
MADE = dt.datetime(2026, 1, 20, 9, tzinfo=dt.UTC)
W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


@pytest.fixture
async def reports(plan_house: House, evaluations: Evaluations, people: People, year: dict[str, Any]) -> Reports:  # noqa: F811
    await published(evaluations, people)
    return plan_house.service(Reports)


@pytest.fixture(autouse=True)
def chinese() -> None:
    try:
        family("")
    except Unavailable:
        pytest.skip("no font of this machine has Chinese")


def texts(data: bytes) -> str:
    import docx

    file = docx.Document(io.BytesIO(data))
    return "\n".join(["\n".join(one.text for one in file.paragraphs), *(cell.text for table in file.tables for row in table.rows for cell in row.cells)])


def pdf_text(data: bytes, tmp_path: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("poppler-utils is not installed")
    path = tmp_path / "report.pdf"
    path.write_bytes(data)
    return subprocess.run(["pdftotext", "-layout", path, "-"], check=True, capture_output=True, text=True).stdout


async def test_the_report_says_what_the_services_say(reports: Reports, people: People, tmp_path: Path) -> None:  # noqa: F811
    for language, said in (
        ("zh", ["福建省新型基础设施建设三年行动计划", "数据截至 2025-12-31 23:59", "在用数据中心机架", "上报", "无数据", "东南大数据中心二期", "合计", "2025 年考评第 1 版"]),
        ("en", ["three-year action plan", "As of 2025-12-31 23:59", "Data-centre racks in use", "reported", "no data", "CNY million", "Evaluation of 2025, version 1"]),
    ):
        document = await reports.content(people.second, language, year=YEAR)  # type: ignore[arg-type]
        assert document == await reports.content(people.second, language, year=YEAR)  # type: ignore[arg-type]
        in_word, in_pdf = texts(word(document, MADE)), pdf_text(pdf(document, MADE), tmp_path)
        for text in said:
            assert text in in_word, text
            assert text.replace(" ", "") in in_pdf.replace(" ", "").replace("\n", ""), text
        assert document.digest[:16] in in_word
        assert document.digest[:16] in in_pdf
        rows = next(one for one in document.blocks if isinstance(one, Table) and len(one.head) == 6).rows
        racks = next(row for row in rows if "40.0 %" in row)
        assert (racks[3], racks[5]) == ("40,000", said[3])


async def test_the_reader_gets_what_he_may_see(reports: Reports, people: People, person: Callable[..., Actor]) -> None:  # noqa: F811
    mine = await reports.content(people.second, "zh", year=YEAR)
    other = await reports.content(person("he", "xiamen"), "zh", year=YEAR)
    assert any(isinstance(one, Text) and "无权查看" in one.text for one in other.blocks)
    assert "东南大数据中心二期" not in str(other.blocks)
    assert mine.digest != other.digest
    with pytest.raises(Invalid):
        await reports.content(people.second, "zh", year=2099)
    early = await reports.content(people.second, "zh", dt.datetime(2025, 7, 1, tzinfo=dt.UTC))
    assert any(isinstance(one, Text) and "没有公布的年度考评" in one.text for one in early.blocks)


async def test_files_differ_in_the_date_of_making_alone(reports: Reports, people: People) -> None:  # noqa: F811
    document = await reports.content(people.second, "zh", year=YEAR)
    assert pdf(document, MADE) == pdf(document, MADE)
    later = MADE + dt.timedelta(days=9)

    def parts(data: bytes) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(data)) as found:
            return {name: found.read(name) for name in found.namelist()}

    first, second = parts(word(document, MADE)), parts(word(document, later))
    assert first == parts(word(document, MADE))
    assert sorted(name for name in first if first[name] != second[name]) == ["docProps/core.xml", "word/document.xml"]
    assert first["word/document.xml"].replace(b"2026-01-20", b"") == second["word/document.xml"].replace(b"2026-01-29", b"")


def test_charts_are_word_s_own() -> None:
    block = Bars("达成度 <%>", [("5G & 基站", 64.0, "64 %"), ("机架", 0.0, "无数据")], 100)
    data = word(Document("zh", "报告", "截至", [block, block]), MADE)
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        body = ET.fromstring(found.read("word/document.xml"))
        made = [ET.fromstring(found.read(f"word/charts/chart{number}.xml")) for number in (1, 2)]
        assert found.read("[Content_Types].xml").count(b"drawingml.chart+xml") == 2
    assert len(list(body.iter(f"{W}drawing"))) == 2
    C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
    assert [one.text for one in made[0].iter(f"{C}v")] == ["达成度 <%>", "5G & 基站", "机架", "64", "0"]
    assert chart(block) == chart(block)


def test_fonts_are_embedded_or_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pdf(Document("zh", "闽", "截至", [Text("永定土楼")]), MADE)
    if shutil.which("pdffonts") is None:
        pytest.skip("poppler-utils is not installed")
    (tmp_path / "a.pdf").write_bytes(data)
    lines = subprocess.run(["pdffonts", tmp_path / "a.pdf"], check=True, capture_output=True, text=True).stdout.splitlines()[2:]
    assert lines
    assert all(line.split()[-5] == "yes" for line in lines), lines
    family.cache_clear()
    monkeypatch.setattr("tulou.plan.report.pdf.CHINESE", ("No Such Font",))
    with pytest.raises(Unavailable) as refused:
        pdf(Document("zh", "闽", "截至", []), MADE)
    assert refused.value.field == "report_fonts"
    family.cache_clear()


async def test_the_report_over_http(plan_house: House, client: Client) -> None:  # noqa: F811
    reader = await client("wang", "viewer", org="xiamen")
    got = await reader.get("/api/v1/plan/report?format=docx&language=en")
    assert (got.status_code, got.headers["content-type"]) == (200, MEDIA["docx"])
    assert "attachment; filename*=UTF-8" in got.headers["content-disposition"]
    assert "three-year action plan" in texts(got.content)
    assert (await reader.get("/api/v1/plan/report")).content.startswith(b"%PDF")
    for query, field in (("format=odt", "format"), ("language=fr", "language"), ("year=99", "year"), ("as_of=2999-01-01T00:00:00Z", "as_of")):
        refused = await reader.get(f"/api/v1/plan/report?{query}")
        assert (refused.status_code, refused.json()["field"]) == (400, field)
