"""The report as a Word document, by python-docx (the extra `reports`). Charts are Word's own (DrawingML, ECMA-376 part 1, clause 21.2):
they are drawn by the reader's program with the reader's fonts, and need no font here.

Law: pure. The file differs only in the date of making.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from tulou.plan.report.content import Bars, Columns, Document, Heading, Table, Text
from tulou.plan.report.pdf import missing

BODY, HEADS = "SimSun", "Microsoft YaHei"
"""Fonts of Chinese letters that Word and WPS have; other programs take their own."""
TONES = ("9FB8CC", "D0A06A", "1B5E94", "1D7F5C")
CHART = "application/vnd.openxmlformats-officedocument.drawingml.chart+xml"
CHART_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/chart"
WIDTH, ROW = 5_760_000, 190_000
"""English metric units: the width of a chart, and the height of one bar."""


def word(document: Document, made: dt.datetime) -> bytes:
    """The report as .docx. Raises `Unavailable` where python-docx is not installed."""
    try:
        import docx
        from docx.enum.text import WD_ALIGN_PARAGRAPH
        from docx.shared import Mm, Pt, RGBColor
    except ImportError:
        raise missing("python-docx") from None
    file = docx.Document()
    for section in file.sections:
        section.page_width, section.page_height = Mm(210), Mm(297)
        section.left_margin = section.right_margin = Mm(22)
        section.top_margin = section.bottom_margin = Mm(20)
    for style, east, size in (("Normal", BODY, 10), ("Title", HEADS, 20), ("Heading 1", HEADS, 14), ("Caption", HEADS, 10)):
        font = file.styles[style].font
        font.name, font.size = "Calibri", Pt(size)
        font.color.rgb = RGBColor(0x1C, 0x27, 0x33)
        fonts = file.styles[style].element.get_or_add_rPr().get_or_add_rFonts()
        for theme in ("asciiTheme", "hAnsiTheme", "eastAsiaTheme", "cstheme"):
            fonts.attrib.pop(f"{{http://schemas.openxmlformats.org/wordprocessingml/2006/main}}{theme}", None)
        fonts.set("{http://schemas.openxmlformats.org/wordprocessingml/2006/main}eastAsia", east)
    core = file.core_properties
    core.title, core.author, core.comments, core.subject = document.title, "", f"SHA-256 {document.digest}", document.subtitle
    core.created = core.modified = made.astimezone(dt.UTC).replace(tzinfo=None)
    core.language = "zh-CN" if document.language == "zh" else "en"
    file.add_paragraph(document.title, "Title").alignment = WD_ALIGN_PARAGRAPH.CENTER
    made_on = ("制作日期 " if document.language == "zh" else "Made on ") + made.strftime("%Y-%m-%d")
    for line in (document.subtitle, f"{made_on} · SHA-256 {document.digest[:16]}…"):
        file.add_paragraph(line).alignment = WD_ALIGN_PARAGRAPH.CENTER
    charts = 0
    for block in document.blocks:
        if isinstance(block, Heading):
            file.add_heading(block.text, 1)
        elif isinstance(block, Text):
            file.add_paragraph(block.text)
        elif isinstance(block, Table):
            _table(file, block)
        elif block.rows if isinstance(block, Bars) else block.categories:
            charts += 1
            file.add_paragraph(block.title, "Caption").paragraph_format.keep_with_next = True
            _chart(file, block, charts)
    out = io.BytesIO()
    file.save(out)
    return out.getvalue()


def _table(file: Any, block: Table) -> None:
    from docx.enum.text import WD_ALIGN_PARAGRAPH
    from docx.oxml import parse_xml
    from docx.shared import Mm, Pt

    table = file.add_table(1 + len(block.rows), len(block.head), "Table Grid")
    table.autofit = False
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    table.rows[0]._tr.get_or_add_trPr().append(parse_xml(f'<w:tblHeader xmlns:w="{space}"/>'))
    whole = sum(block.widths)
    for column, width in enumerate(block.widths):
        table.columns[column].width = Mm(166 * width / whole)
    for number, cells in enumerate((block.head, *block.rows)):
        row = table.rows[number].cells
        for column, text in enumerate(cells):
            cell = row[column]
            cell.width = Mm(166 * block.widths[column] / whole)
            paragraph = cell.paragraphs[0]
            paragraph.paragraph_format.space_before = paragraph.paragraph_format.space_after = Pt(1.5)
            paragraph.paragraph_format.line_spacing = 1.1
            run = paragraph.add_run(text)
            run.font.size = Pt(8.5)
            if number == 0:
                run.bold = True
                cell._tc.get_or_add_tcPr().append(parse_xml(f'<w:shd xmlns:w="{space}" w:val="clear" w:color="auto" w:fill="EEF3F7"/>'))
            if column in block.right:
                paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT
    file.add_paragraph().paragraph_format.space_after = Pt(2)


def _chart(file: Any, block: Bars | Columns, number: int) -> None:
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part
    from docx.oxml import parse_xml

    part = Part(PackURI(f"/word/charts/chart{number}.xml"), CHART, chart(block).encode(), file.part.package)
    relation = file.part.relate_to(part, CHART_RELATION)
    height = 900_000 + ROW * len(block.rows) if isinstance(block, Bars) else 2_700_000
    drawing = parse_xml(
        '<w:drawing xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing" '
        'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
        f'<wp:inline distT="0" distB="0" distL="0" distR="0"><wp:extent cx="{WIDTH}" cy="{height}"/>'
        f'<wp:docPr id="{1000 + number}" name="Chart {number}" descr="{escape(block.title, {chr(34): "&quot;"})}"/><wp:cNvGraphicFramePr/>'
        '<a:graphic><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/chart">'
        f'<c:chart xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" r:id="{relation}"/>'
        "</a:graphicData></a:graphic></wp:inline></w:drawing>"
    )
    file.add_paragraph().add_run()._r.append(drawing)


def chart(block: Bars | Columns) -> str:
    """The chart part of a block: horizontal bars, or clustered columns, with their values as literals."""
    bars = isinstance(block, Bars)
    if isinstance(block, Bars):
        names, top = [row[0] for row in block.rows], f'<c:max val="{block.most:g}"/><c:min val="0"/>'
        series: list[tuple[str, Sequence[float]]] = [(block.title, [row[1] for row in block.rows])]
        tones: Sequence[str] = ("1B5E94",)
    else:
        names, series, top, tones = list(block.categories), list(block.series), "", TONES
    categories = _literal("str", names)
    made = "".join(
        f'<c:ser><c:idx val="{at}"/><c:order val="{at}"/><c:tx><c:v>{escape(name)}</c:v></c:tx>'
        f'<c:spPr><a:solidFill><a:srgbClr val="{tones[at % len(tones)]}"/></a:solidFill></c:spPr><c:invertIfNegative val="0"/>'
        '<c:dLbls><c:numFmt formatCode="#,##0.0" sourceLinked="0"/><c:spPr><a:noFill/><a:ln><a:noFill/></a:ln></c:spPr>'
        '<c:txPr><a:bodyPr/><a:p><a:pPr><a:defRPr sz="700"/></a:pPr><a:endParaRPr lang="en-US"/></a:p></c:txPr>'
        '<c:showLegendKey val="0"/><c:showVal val="1"/><c:showCatName val="0"/><c:showSerName val="0"/><c:showPercent val="0"/><c:showBubbleSize val="0"/></c:dLbls>'
        f"<c:cat>{categories}</c:cat><c:val>{_literal('num', [f'{value:.6f}'.rstrip('0').rstrip('.') for value in values])}</c:val></c:ser>"
        for at, (name, values) in enumerate(series)
    )
    legend = "" if bars else '<c:legend><c:legendPos val="b"/><c:overlay val="0"/></c:legend>'
    return (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?><c:chartSpace xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
        'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><c:roundedCorners val="0"/><c:chart><c:autoTitleDeleted val="1"/><c:plotArea><c:layout/>'
        f'<c:barChart><c:barDir val="{"bar" if bars else "col"}"/><c:grouping val="clustered"/><c:varyColors val="0"/>{made}'
        f'<c:gapWidth val="{40 if bars else 60}"/><c:axId val="1"/><c:axId val="2"/></c:barChart>'
        f'<c:catAx><c:axId val="1"/><c:scaling><c:orientation val="{"maxMin" if bars else "minMax"}"/></c:scaling><c:delete val="0"/>'
        f'<c:axPos val="{"l" if bars else "b"}"/><c:numFmt formatCode="General" sourceLinked="0"/><c:majorTickMark val="none"/><c:minorTickMark val="none"/>'
        '<c:tickLblPos val="low"/><c:crossAx val="2"/><c:crosses val="autoZero"/></c:catAx>'
        f'<c:valAx><c:axId val="2"/><c:scaling><c:orientation val="minMax"/>{top}</c:scaling><c:delete val="0"/><c:axPos val="{"t" if bars else "l"}"/>'
        '<c:majorGridlines><c:spPr><a:ln w="6350"><a:solidFill><a:srgbClr val="E3E8ED"/></a:solidFill></a:ln></c:spPr></c:majorGridlines>'
        '<c:numFmt formatCode="#,##0" sourceLinked="0"/><c:majorTickMark val="none"/><c:minorTickMark val="none"/><c:tickLblPos val="nextTo"/>'
        f'<c:crossAx val="1"/><c:crosses val="{"max" if bars else "autoZero"}"/></c:valAx></c:plotArea>{legend}<c:plotVisOnly val="1"/><c:dispBlanksAs val="gap"/></c:chart>'
        '<c:txPr><a:bodyPr/><a:p><a:pPr><a:defRPr sz="800"/></a:pPr><a:endParaRPr lang="en-US"/></a:p></c:txPr></c:chartSpace>'
    )


def _literal(kind: str, values: Sequence[str]) -> str:
    points = "".join(f'<c:pt idx="{at}"><c:v>{escape(value)}</c:v></c:pt>' for at, value in enumerate(values))
    form = "<c:formatCode>General</c:formatCode>" if kind == "num" else ""
    return f'<c:{kind}Lit>{form}<c:ptCount val="{len(values)}"/>{points}</c:{kind}Lit>'
