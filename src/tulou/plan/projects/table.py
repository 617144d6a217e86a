"""Tables of projects, milestones and movements as CSV: a line is read when it is asked for, and an error names its line and column.

Law: pure. The first line names the columns, in any order; an empty cell is no value. Money is in yuan with at most two decimals; a day
without a time is its beginning in Fujian. UTF-8 (with or without a mark), or GB 18030 as spreadsheets here save it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from tulou.kernel.errors import Invalid
from tulou.kernel.http import checked
from tulou.plan.projects.models import NewMilestone, NewMovement, NewProject

COLUMNS = {
    "projects": tuple(NewProject.model_fields),
    "milestones": ("org", "code", "title", "due", "final"),
    "movements": ("org", "code", "kind", "source", "use", "yuan", "resource", "quantity", "unit", "at", "key", "evidence"),
}
NEEDED = {"projects": {"org", "code", "task", "title", "starts", "ends"}, "milestones": {"org", "code", "title", "due"},
          "movements": {"org", "code", "kind", "at", "key", "evidence"}}
Line = tuple[int, Callable[[], Any]]


def lines(what: str, data: bytes) -> list[Line]:
    """The lines of a table of `projects`, `milestones` or `movements`: each its number in the file and what reads it, for
    `Projects.bring_in`. Raises `Invalid` for what is no such table."""
    if what not in COLUMNS:
        raise Invalid(f"没有“{what}”这种表", f"there is no table of {what}", field="what", value=what, rule=" | ".join(COLUMNS))
    rows = csv.reader(io.StringIO(_text(data), newline=""))
    try:
        names = [name.strip() for name in next(rows, [])]
        for name in names:
            if name not in COLUMNS[what] or names.count(name) > 1:
                raise Invalid(f"表头的“{name}”不是此表的列，或重复", f"{name} is not a column of this table, or there twice", field="header",
                              value=name, rule=", ".join(COLUMNS[what]))
        for name in sorted(NEEDED[what] - set(names)):
            raise Invalid(f"表头缺少“{name}”列", f"the column {name} is missing", field="header", value=name, rule=", ".join(COLUMNS[what]))
        found: list[Line] = []
        for row in rows:
            if any(cell.strip() for cell in row):
                found.append((rows.line_num, lambda row=row: _read(what, names, row)))  # type: ignore[misc]
        return found
    except csv.Error as error:
        raise Invalid(f"第 {rows.line_num} 行不是 CSV：{error}", f"line {rows.line_num} is not CSV: {error}", field="body", rule="RFC 4180") from None


def _text(data: bytes) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Invalid("文件既不是 UTF-8 也不是 GB 18030", "the file is neither UTF-8 nor GB 18030", field="body", rule="UTF-8 | GB 18030")


def _read(what: str, names: list[str], row: list[str]) -> Any:
    if len(row) != len(names):
        raise Invalid(f"有 {len(row)} 格，表头有 {len(names)} 列", f"{len(row)} cells for {len(names)} columns", field="line", value=len(row),
                      rule=f"= {len(names)}")
    cells: dict[str, Any] = {name: cell.strip() for name, cell in zip(names, row, strict=True) if cell.strip()}
    if what == "projects":
        return checked(NewProject, cells)
    org, code = cells.pop("org", ""), cells.pop("code", "")
    if what == "milestones":
        return org, code, checked(NewMilestone, cells)
    if "yuan" in cells:
        cells["fen"] = _fen(cells.pop("yuan"))
    if "at" in cells and "T" not in cells["at"]:
        cells["at"] = f"{cells['at']}T00:00:00+08:00"
    if "evidence" in cells:
        cells["evidence_text"] = cells.pop("evidence")
    return org, code, checked(NewMovement, cells)


def _fen(text: str) -> int:
    try:
        fen = Decimal(text.replace(",", "")) * 100
    except InvalidOperation:
        fen = Decimal("NaN")
    if not fen.is_finite() or fen != fen.to_integral_value():
        raise Invalid(f"“{text}”不是精确到分的金额", f"{text} is no amount of yuan to the fen", field="yuan", value=text, rule="<= 2 decimals")
    return int(fen)
