"""The report as PDF, by typst (the extra `reports`): fonts are embedded, so every reader's machine shows the same.

Law: pure but for the fonts of this machine. Nothing is fetched. Where no font of the machine has Chinese, it is refused with what to do;
the Word report needs none.
"""

from __future__ import annotations

import datetime as dt
import functools
from pathlib import Path

import orjson

from tulou.kernel.errors import Unavailable
from tulou.plan.report.content import Bars as BarsBlock
from tulou.plan.report.content import Block, Document, Text

CHINESE = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN", "Noto Sans SC", "Microsoft YaHei", "PingFang SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Noto Serif CJK SC", "Source Han Serif SC", "SimSun", "SimHei", "FangSong", "STSong", "Droid Sans Fallback",
)
"""Families with Chinese, the best for reading first."""
TEMPLATE = Path(__file__).with_name("report.typ")


def missing(package: str) -> Unavailable:
    """What is said where a library of the extra is not installed."""
    return Unavailable(
        f"未安装 {package}：pip install 'tulou[reports]'", f"{package} is not installed: pip install 'tulou[reports]'", field="format",
        rule="tulou[reports]",
    )


@functools.lru_cache(maxsize=4)
def family(folder: str) -> str:
    """The family of Chinese letters: of the folder that the setting `report_fonts` names, else of the machine. Raises `Unavailable`."""
    try:
        import typst
    except ImportError:
        raise missing("typst") from None
    own: set[str] = set(typst.Fonts(False, False, [folder]).families()) if folder else set()
    found = own | set(typst.Fonts(True, False, []).families())
    for name in (*sorted(own), *CHINESE):
        if name in own or name in found:
            return name
    raise Unavailable(
        "本机没有中文字体，不能制作 PDF：请安装 fonts-noto-cjk，或在设置 report_fonts 中指明字体目录；Word 不受影响",
        "no font of this machine has Chinese: install fonts-noto-cjk, or name a folder of fonts in the setting report_fonts; Word needs none",
        field="report_fonts", value=folder, rule="a font with Chinese",
    )


def pdf(document: Document, made: dt.datetime, fonts: str = "") -> bytes:
    """The report as PDF (with tags, so that it can be read aloud). Raises `Unavailable`. Seconds of a processor: ask in a thread."""
    chosen = family(fonts)
    import typst

    data = {
        "language": document.language, "title": document.title, "subtitle": document.subtitle, "digest": document.digest, "font": chosen,
        "made": made.strftime("%Y-%m-%d"), "blocks": [_block(one) for one in document.blocks],
    }
    made_pdf = typst.compile(
        str(TEMPLATE), format="pdf", font_paths=[fonts] if fonts else [], timestamp=int(made.timestamp()),
        sys_inputs={"data": orjson.dumps(data).decode()},
    )
    assert isinstance(made_pdf, bytes)
    return made_pdf


def _block(one: Block) -> dict[str, object]:
    kind = type(one).__name__.lower()
    if isinstance(one, BarsBlock):
        return {"kind": kind, **one._asdict(), "rows": [list(row) for row in one.rows]}
    if isinstance(one, Text):
        return {"kind": kind, "text": one.text}
    return {"kind": kind, **one._asdict()}
