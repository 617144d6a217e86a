"""Indicators: their definitions, and their values from the roll-ups of the readings.

Law: a value is made of the numbers of organisations that the asker sees and of nothing else; who sees none gets an empty answer.
Only good and uncertain numbers of the declared origins count. What is synthetic counts where the asker says so, and the answer
says that it did. Times are natural days of Asia/Shanghai, `start` inclusive and `end` exclusive.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tulou.access import Directory
from tulou.indicators.models import ORIGINS, SHARES, Catalogue, Indicator, Ranking, Tile
from tulou.indicators.models import Chart as ChartWidget
from tulou.kernel.errors import Invalid, NotFound, Unavailable
from tulou.kernel.organisations import Organisations
from tulou.kernel.policy import Actor, Orgs, operation
from tulou.kernel.readings import OVER_READINGS, Asked, Figure, Grain, OfThings, Provenance, day_of, start_of

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ = "indicators.indicator.read"
"""Definitions: open to everyone who is signed in."""
VALUE = "indicators.value.read"

HOUR = 3_600_000_000
MOST_DAYS = 3660
MOST_HOURS = 92 * 24
MOST_POINTS = 100_000
"""Of all groups together."""
BAD = 2
GRAINS: tuple[Grain, ...] = ("hour", "day", "month", "year")
SYNTHETIC = ORIGINS["synthetic"]
ORIGIN_NAMES = {number: name for name, number in ORIGINS.items()}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of an indicator. `start` and `end` are natural days; `area` groups by the organisations of a level, `things`
    ranks; `before` asks also for the value of as long a time before."""

    start: dt.date | None = None
    end: dt.date | None = None
    grain: Grain | None = None
    area: Literal["province", "city", "county"] | None = None
    things: bool = False
    org: str | None = None
    synthetic: bool = False
    before: bool = False
    most: int = 100


class Scope(NamedTuple):
    """What a question is about: the numbers, the rows of the directory that are registered for it, and the group of each."""

    asked: Asked
    rows: NDArray[np.intp]
    known: dict[str, int]


class Indicators:
    """The indicators of the packs."""

    def __init__(self, house: House, catalogue: Catalogue) -> None:
        self.house = house
        self.policy = house.policy
        self.catalogue = catalogue
        self.used: dict[str, list[str]] = {}
        """By indicator, the dashboards that show it."""
        for page, dashboard in catalogue.dashboards.items():
            for widget in (widget for section in dashboard.sections for widget in section.widgets):
                reference = widget.indicator if isinstance(widget, Tile | ChartWidget | Ranking) else None
                if widget.kind == "map":
                    reference = catalogue.layers[widget.layer].indicator
                if reference is not None and page not in self.used.setdefault(reference, []):
                    self.used[reference].append(page)

    # -- definitions

    @operation(READ)
    async def find(self, actor: Actor) -> list[dict[str, Any]]:
        """Every definition."""
        self.policy.require_any(actor, READ)
        return [self.definition(key) for key in self.catalogue.indicators]

    def definition(self, key: str) -> dict[str, Any]:
        """A definition as JSON."""
        one = self.catalogue.indicators[key]
        pack, id = key.split("/")
        owner = self._organisations.get(one.owner, {})
        return {
            "pack": pack, "id": id, **one.model_dump(mode="json"),
            "owner_name": owner.get("name_zh", one.owner), "owner_name_en": owner.get("name_en", one.owner),
            "used_in": [
                {"pack": page.split("/")[0], "id": page.split("/")[1], "title": self.catalogue.dashboards[page].title.model_dump()}
                for page in self.used.get(key, [])
            ],
        }

    @property
    def _organisations(self) -> Mapping[str, dict[str, Any]]:
        return self.house.service(Organisations).rows

    def _one(self, pack: str, id: str) -> tuple[str, Indicator]:
        key = f"{pack}/{id}"
        if key not in self.catalogue.indicators:
            raise NotFound(f"没有指标 {key}", f"there is no indicator {key}", field="id", value=key)
        return key, self.catalogue.indicators[key]

    # -- values

    @operation(VALUE)
    async def answer(self, actor: Actor, pack: str, id: str, question: Question) -> dict[str, Any]:
        """An indicator's value, series, groups or ranking, with what they are made of. Raises `NotFound`, `Invalid`."""
        visible = self.policy.visible(actor, VALUE)
        self.policy.require_any(actor, READ)
        key, one = self._one(pack, id)
        start, end, grain = self.time_of(one, question)
        if question.area is not None and question.area not in one.areas:
            raise Invalid(f"指标 {key} 不按 {question.area} 汇总", f"the indicator {key} is not offered by {question.area}",
                          field="group", value=question.area, rule=" | ".join(one.areas) or "none")
        if question.things and not one.ranking:
            raise Invalid(f"指标 {key} 不作排名", f"the indicator {key} ranks no things", field="group", value="thing", rule="no ranking")
        scope = self.scope(visible, one.types, one.property, one.origins, question, start, end)
        points = (end - start).days * {"hour": 24, "day": 1, "month": 1 / 28, "year": 1 / 365}[grain] * len(set(scope.asked.groups.values()))
        if points > MOST_POINTS:
            raise Invalid(f"共 {points:.0f} 个点，超过 {MOST_POINTS}；请缩短时间或用更粗的粒度",
                          f"{points:.0f} points are more than {MOST_POINTS}; ask for less time or a coarser grain",
                          field="grain", value=grain, rule=f"<= {MOST_POINTS} points")
        answer: dict[str, Any] = {
            "indicator": self.definition(key), "from": start, "to": end, "grain": grain, "group": "thing" if question.things else question.area,
            "org": question.org, "synthetic": question.synthetic, "value": None, "series": [], "groups": [], "ranking": [],
        }
        if one.statistic == "last":
            made = await self._of_last(one, scope, answer, question)
        elif question.things:
            made = await self._of_things(one, scope, answer, question)
        else:
            made = await self._over_time(one, scope, answer, question)
        registered = int(sum(scope.known.values()))
        expected = registered * self._hours(start_of(start), start_of(end))
        answer["provenance"] = {
            "as_of": dt.datetime.now(dt.UTC), "newest": made.newest, "known": registered, "reporting": made.things,
            "capture": min(100.0, 100.0 * (made.hours or 0) / expected) if expected and one.statistic != "last" else None,
            "origins": {ORIGIN_NAMES[origin]: count for origin, count in sorted(made.origins.items())},
            "synthetic": SYNTHETIC in made.origins,
        }
        return answer

    @operation(VALUE)
    async def table(self, actor: Actor, pack: str, id: str, question: Question) -> str:
        """The answer as CSV with a line of names; times as people in Asia/Shanghai write them."""
        answer = await self.answer(actor, pack, id, question)
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\r\n")
        one, marked = answer["indicator"], "yes" if answer["provenance"]["synthetic"] else "no"
        named = f"{one['pack']}/{one['id']} v{one['version']}"
        if answer["group"] == "thing":
            lines.writerow(["indicator", "unit", "from", "to", "rank", "no", "id", "name", "org", "value", "synthetic"])
            for rank, item in enumerate(answer["ranking"], 1):
                lines.writerow([
                    named, one["unit"], answer["from"], answer["to"], rank, item["no"], plain(item["id"]), plain(item["name"]),
                    plain(item["org"]), item["value"], "yes" if item["synthetic"] else "no",
                ])
            return out.getvalue()
        lines.writerow(["indicator", "unit", "grain", "time", "group", "value", "synthetic"])
        for group, label, series, value in [
            ("", "", answer["series"], answer["value"]),
            *((g["id"], g["id"], g["series"], g["value"]) for g in answer["groups"]),
        ]:
            for at, number in series:
                lines.writerow([named, one["unit"], answer["grain"], local(at), plain(label), number, marked])
            if not series or group:
                lines.writerow([named, one["unit"], "", f"{answer['from']}/{answer['to']}", plain(label), value, marked])
        return out.getvalue()

    def time_of(self, one: Indicator, question: Question) -> tuple[dt.date, dt.date, Grain]:
        """The natural days and the grain asked for. Raises `Invalid`."""
        end = question.end or day_of(time.time_ns() // 1000) + dt.timedelta(days=1)
        start = question.start or end - dt.timedelta(days=one.days)
        grain = question.grain or one.grain
        days = (end - start).days
        if not 0 < days <= MOST_DAYS:
            raise Invalid(f"from 应早于 to，至多 {MOST_DAYS} 天", f"from is before to, by {MOST_DAYS} days at most", field="from",
                          value=str(start), rule=f"1..{MOST_DAYS} days")
        if grain == "hour" and days * 24 > MOST_HOURS:
            raise Invalid(f"按小时至多 {MOST_HOURS // 24} 天", f"by hours {MOST_HOURS // 24} days at most", field="grain", value=grain,
                          rule=f"<= {MOST_HOURS // 24} days")
        if grain == "hour" and one.statistic not in OVER_READINGS | {"last"}:
            raise Invalid(f"{one.statistic} 不能按小时计算", f"{one.statistic} is not computed by hours", field="grain", value=grain,
                          rule="day | month | year")
        return start, end, grain

    @property
    def directory(self) -> Directory:
        """What is registered. Raises `Unavailable` in a process that does not keep it."""
        directory = self.house.service(Directory)
        if not hasattr(self.house, "readings"):
            raise Unavailable("本进程没有读数库", "this process has no readings store", field="readings")
        return directory

    def _within(self, visible: Orgs, org: str | None) -> frozenset[str]:
        """The organisations that are asked about: those that are seen, at or below `org`."""
        seen = frozenset(self._organisations) if visible.all else visible.ids
        return seen if org is None else frozenset(one for one in seen if org in self.policy.ancestors(one))

    def scope(
        self, visible: Orgs, types: Sequence[str], property: str, origins: Sequence[str], question: Question, start: dt.date, end: dt.date
    ) -> Scope:
        """The numbers of a question, and the things that are registered for it."""
        orgs = self._within(visible, question.org)
        groups = {org: self._group(org, question.area, orgs) for org in sorted(orgs)}
        counted = [ORIGINS[name] for name in origins] + ([SYNTHETIC] if question.synthetic else [])
        rows = self._rows(orgs, types, question.synthetic)
        known: dict[str, int] = {}
        for code, count in zip(*np.unique(self.directory.org[rows], return_counts=True), strict=True):
            group = groups[self.directory.orgs[code]]
            known[group] = known.get(group, 0) + int(count)
        return Scope(Asked(groups, types, property, start, end, counted), rows, known)

    def _rows(self, orgs: frozenset[str], types: Sequence[str], synthetic: bool) -> NDArray[np.intp]:
        """The rows of the directory of these types in these organisations."""
        mask = self.directory.within(Orgs(False, orgs)) & self.directory.of_types(types)
        if not synthetic:
            mask &= self.directory.synthetic == 0
        return np.flatnonzero(mask)

    def _group(self, org: str, area: str | None, orgs: frozenset[str]) -> str:
        """The nearest organisation of a level at or above `org` that is asked about; without one `org` itself."""
        if area is None:
            return ""
        for above in self.policy.ancestors(org):
            if above in orgs and self._organisations[above]["kind"] == area:
                return above
        return org

    @staticmethod
    def _hours(start: int, end: int) -> int:
        """Whole hours of [start, end) that are over."""
        return max(0, (min(end, time.time_ns() // 1000) - start) // HOUR)

    async def _figures(self, one: Indicator, scope: Scope, grain: Grain | None) -> list[Figure]:
        statistic = "hours" if one.statistic == "capture" else one.statistic
        return await self.house.readings.indicator(scope.asked, statistic, one.bound, grain)

    def _scaled(self, one: Indicator, scope: Scope, figure: Figure, grain: Grain) -> float | None:
        """The value of a figure in the indicator's unit."""
        if one.statistic != "capture":
            return figure.value * 100 if one.statistic in SHARES else figure.value
        begin, end = start_of(scope.asked.start), start_of(scope.asked.end)
        if figure.start is not None:
            begin, end = max(begin, figure.start), min(end, start_of(after(day_of(figure.start), grain)))
        known = sum(scope.known.values()) if figure.group is None else scope.known.get(figure.group, 0)
        expected = known * self._hours(begin, end)
        return min(100.0, 100.0 * figure.value / expected) if expected else None

    async def _over_time(self, one: Indicator, scope: Scope, answer: dict[str, Any], question: Question) -> Provenance:
        """Value, series and groups into `answer`."""
        over = one.statistic in OVER_READINGS
        figures, made, earlier = await asyncio.gather(
            self._figures(one, scope, answer["grain"]), self.house.readings.provenance(scope.asked, hours=over), self._before(one, scope, question),
        )
        if not over:
            made = made._replace(hours=next((f.hours for f in figures if (f.group, f.start) == (None, None)), 0))
        groups: dict[str, dict[str, Any]] = {}
        for figure in figures:
            value = self._scaled(one, scope, figure, answer["grain"])
            into = answer if figure.group is None else groups.setdefault(figure.group, {**self._named(figure.group), "value": None, "series": []})
            if figure.start is None:
                into["value"] = value
            else:
                into["series"].append([figure.start // 1000, value])
        if question.area is not None:
            for group, count in scope.known.items():
                groups.setdefault(group, {**self._named(group), "value": None, "series": []})["known"] = count
            answer["groups"] = sorted(groups.values(), key=lambda group: _best_first(one, group["value"]))
        if question.before:
            answer["before"] = earlier
        return made

    async def _before(self, one: Indicator, scope: Scope, question: Question) -> float | None:
        """The value of as long a time before."""
        if not question.before:
            return None
        asked = scope.asked
        shifted = scope._replace(asked=replace(asked, start=asked.start - (asked.end - asked.start), end=asked.start))
        for figure in await self._figures(one, shifted, None):
            if figure.group is None:
                return self._scaled(one, shifted, figure, one.grain)
        return None

    def _named(self, org: str) -> dict[str, Any]:
        row = self._organisations.get(org, {})
        return {"id": org, "label_zh": row.get("name_zh", org), "label_en": row.get("name_en", org)}

    async def _of_things(self, one: Indicator, scope: Scope, answer: dict[str, Any], question: Question) -> Provenance:
        """The ranking into `answer`."""
        found = await self.of_things(one, scope)
        things = len(found.entity)
        every = int(np.bitwise_or.reduce(found.origins, initial=0))
        counts = {bit: int(found.count[(found.origins >> bit) & 1 == 1].sum()) for bit in ORIGIN_NAMES if every >> bit & 1}
        self._rank(one, scope, answer, found.entity, found.value, question.most)
        newest = dt.date(1970, 1, 1) + dt.timedelta(days=int(found.newest.max())) if things else None
        return Provenance(things, int(found.hours.sum()), newest, counts)

    async def of_things(self, one: Indicator, scope: Scope) -> OfThings:
        """The value of each thing, in the indicator's unit."""
        statistic = "hours" if one.statistic == "capture" else one.statistic
        found = await self.house.readings.of_things(scope.asked, statistic, one.bound)
        value = found.value
        if one.statistic == "capture":
            value = np.minimum(100.0, 100.0 * value / max(1, self._hours(start_of(scope.asked.start), start_of(scope.asked.end))))
        elif one.statistic in SHARES:
            value = value * 100
        return replace(found, value=value)

    def _rank(
        self, one: Indicator, scope: Scope, answer: dict[str, Any], entity: NDArray[np.int64], value: NDArray[np.float64], most: int
    ) -> None:
        """The ranking into `answer`, of things that are in the scope now: one that another organisation claimed since is its own."""
        directory = self.directory
        rows, known = directory.rows(entity)
        here = np.isin(rows, scope.rows)
        rows, value = rows[here], value[known][here]
        order = np.argsort(value if one.better == "lower" else -value, kind="stable")[:most]
        answer["count"] = len(rows)
        answer["ranking"] = [
            {
                "no": int(directory.no[row]), "id": directory.ids[row], "name": directory.names[row],
                "org": directory.orgs[directory.org[row]], "value": number, "synthetic": bool(directory.synthetic[row]),
            }
            for row, number in zip(rows[order].tolist(), value[order].tolist(), strict=True)
        ]

    async def _of_last(self, one: Indicator, scope: Scope, answer: dict[str, Any], question: Question) -> Provenance:
        """The last value of each thing in the time asked for: their mean, by group, or as a ranking."""
        directory = self.directory
        entity, value, newest, origins = await self.last(scope)
        rows, known = directory.rows(entity)
        entity, value = entity[known], value[known]
        if len(value):
            answer["value"] = float(value.mean())
        if question.things:
            self._rank(one, scope, answer, entity, value, question.most)
        elif question.area is not None:
            of = np.array([scope.asked.groups[directory.orgs[code]] for code in directory.org[rows]])
            answer["groups"] = sorted((
                {**self._named(group), "value": float(value[of == group].mean()) if (of == group).any() else None, "series": [],
                 "known": count} for group, count in scope.known.items()
            ), key=lambda group: _best_first(one, group["value"]))
        return Provenance(len(value), 0, day_of(newest) if len(value) else None, origins)

    async def last(self, scope: Scope) -> tuple[NDArray[np.int64], NDArray[np.float64], int, dict[int, int]]:
        """Numbers of things, their last values in the time asked for, the newest time, and values by origin."""
        asked = scope.asked
        nos = self.directory.no[scope.rows]
        found = await self.house.readings.latest(nos.tolist(), [asked.property], orgs=list(asked.groups)) if len(nos) else {}
        begin, end = start_of(asked.start), start_of(asked.end)
        kept = [
            (no, reading) for no, values in found.items() for reading in values.values()
            if isinstance(reading.value, float) and np.isfinite(reading.value) and reading.quality < BAD
            and reading.origin in asked.origins and begin <= reading.ts < end
        ]
        origins: dict[int, int] = {}
        for _, reading in kept:
            origins[reading.origin] = origins.get(reading.origin, 0) + 1
        return (np.array([no for no, _ in kept], np.int64), np.array([reading.value for _, reading in kept], np.float64),
                max((reading.ts for _, reading in kept), default=0), origins)


def after(day: dt.date, grain: Grain) -> dt.date:
    """The first day after the grain in which `day` lies."""
    if grain == "month":
        return (day.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
    if grain == "year":
        return day.replace(year=day.year + 1, month=1, day=1)
    return day + dt.timedelta(days=1)


def local(ms: int) -> str:
    """A time as it is written in Asia/Shanghai."""
    return dt.datetime.fromtimestamp(ms / 1000, dt.timezone(dt.timedelta(hours=8))).isoformat(timespec="minutes")


def plain(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _best_first(one: Indicator, value: float | None) -> tuple[bool, float]:
    return value is None, 0.0 if value is None else value if one.better == "lower" else -value
