"""`/api/v1/plan/report`: the report as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tulou.kernel.errors import Invalid
from tulou.kernel.http import API, moment_of, route
from tulou.kernel.policy import Actor
from tulou.plan.projects.routes import attachment
from tulou.plan.report.service import Reports

if TYPE_CHECKING:
    from tulou.kernel.house import House


def routes(house: House) -> list[Route]:
    """The route of the report."""
    reports = house.service(Reports)

    async def make(request: Request, actor: Actor) -> Response:
        query = request.query_params
        form, language, year = query.get("format", "pdf"), query.get("language", "zh"), query.get("year") or None
        if year is not None and not (year.isascii() and year.isdigit() and 2000 <= int(year) <= 2100):
            raise Invalid("year 应为 2000 至 2100", "year must be 2000..2100", field="year", value=year, rule="2000..2100")
        for name, value, allowed in (("format", form, ("pdf", "docx")), ("language", language, ("zh", "en"))):
            if value not in allowed:
                raise Invalid(
                    f"{name} 应为 {' 或 '.join(allowed)}", f"{name} must be {' or '.join(allowed)}", field=name, value=value,
                    rule=" | ".join(allowed),
                )
        name, content, media = await reports.make(
            actor, cast(Literal["pdf", "docx"], form), cast(Literal["zh", "en"], language), moment_of(request, "as_of"),
            int(year) if year else None,
        )
        return attachment(name, content, media)

    return [route(house, "GET", f"{API}/plan/report", make)]
