"""The formula of the annual evaluation: from inputs to scores.

Law: pure and deterministic. A document holds the formula and every input; `recomputed` makes the scores again from the document alone, so
equal inputs give equal bytes. Of an agency or a task:

- targets: sum(weight * a) / sum(weight), a the achievement of scores.py;
- milestones that were due in the year: 1 if done by the day, `late_milestone` if done after it, else 0; their mean;
- funds: min(1, spent / planned) up to the moment, of all its projects together;
- items: the share of supervision items of the year that were in no state longer than its deadline.

Each is rounded to six decimals, half to even. Score = 100 * sum(weight * value) / sum(weight) over the criteria that have inputs, four
decimals; none where no criterion has. The whole is the mean of the agencies' scores.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Pack, Strict, refused
from tulou.plan.papers import Body
from tulou.plan.scores import achievement, number

CRITERIA = ("targets", "milestones", "funds", "items")
KEYS = {"targets": "id", "milestones": "no", "funds": "project", "items": "no"}
"""What names an input of each criterion."""


class Grade(Strict):
    at_least: Decimal = Field(ge=0, le=100)
    zh: str
    en: str


class Formula(Strict):
    """A version of the formula. `weights` by criterion; grades from the best down, the last for everybody else."""

    id: str = Field(pattern=r"^[a-z0-9-]{1,60}$")
    from_year: int = Field(alias="from", ge=2000, le=2100)
    weights: dict[Literal["targets", "milestones", "funds", "items"], int] = Field(min_length=1)
    late_milestone: Decimal = Field(ge=0, le=1)
    appeal_days: int = Field(ge=0, le=366)
    grades: list[Grade] = Field(min_length=1)

    @model_validator(mode="after")
    def _sound(self) -> Formula:
        bounds = [grade.at_least for grade in self.grades]
        if bounds != sorted(set(bounds), reverse=True) or bounds[-1] != 0:
            raise ValueError("grades go down to 0")
        if min(self.weights.values()) < 0 or not any(self.weights.values()):
            raise ValueError("weights are not negative, and one is above 0")
        return self


def load(pack: Pack) -> list[Formula]:
    """The formulas of the plan's pack, by year; none where it declares none. Raises `Invalid` naming file and place."""
    if "evaluation" not in pack.data:
        return []
    try:
        return sorted(TypeAdapter(list[Formula]).validate_python(pack.read("evaluation")), key=lambda one: one.from_year)
    except ValidationError as error:
        raise refused(pack.folder / pack.data["evaluation"], error, "evaluation") from None


def in_force(formulas: Sequence[Formula], year: int) -> Formula:
    """The formula of a year. Raises `Invalid` where there is none."""
    found = [one for one in formulas if one.from_year <= year]
    if not found:
        raise Invalid(f"{year} 年没有考评办法", f"there is no formula for {year}", field="year", value=year, rule="a formula")
    return found[-1]


class Correction(Body):
    """An input that is to be another: the `value` of a target, the day on which a milestone was done (`done_on`), fen `planned` or
    `spent` of a project, or whether an item was `late`."""

    criterion: Literal["targets", "milestones", "funds", "items"]
    subject: str = Field(min_length=1, max_length=100)
    field: Literal["value", "done_on", "planned", "spent", "late"]
    value: Decimal | dt.date | bool | None

    @model_validator(mode="after")
    def _fits(self) -> Correction:
        kinds: dict[str, tuple[str, type]] = {"value": ("targets", Decimal), "done_on": ("milestones", dt.date), "planned": ("funds", Decimal),
                                              "spent": ("funds", Decimal), "late": ("items", bool)}
        criterion, kind = kinds[self.field]
        if criterion != self.criterion or not isinstance(self.value, kind):
            raise ValueError(f"{self.field} belongs to {criterion} and is a {kind.__name__.lower()}")
        if isinstance(self.value, Decimal) and (self.value < 0 or (criterion == "funds" and self.value != int(self.value))):
            raise ValueError("not negative; fen are whole")
        return self

    def said(self) -> Any:
        """The value as the document holds it."""
        if isinstance(self.value, dt.date):
            return self.value.isoformat()
        return self.value if isinstance(self.value, bool) or self.value is None else number(self.value)


def recomputed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every criterion, score and grade computed from its formula and inputs."""
    formula = document["formula"]
    agencies = [_scored(formula, row) for row in document["agencies"]]
    return {
        **document, "agencies": agencies, "tasks": [_scored(formula, row) for row in document["tasks"]],
        "score": number(_mean([Decimal(str(row["score"])) for row in agencies if row["score"] is not None], 4)),
    }


def _scored(formula: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: _VALUES[name](formula, row[name]) for name in CRITERIA}
    known = {name: value for name, value in values.items() if value is not None and formula["weights"].get(name)}
    weights = sum(formula["weights"][name] for name in known)
    score = _round(100 * sum((formula["weights"][name] * value for name, value in known.items()), Decimal(0)) / weights, 4) if weights else None
    grade = None
    if score is not None:
        grade = next({"zh": one["zh"], "en": one["en"]} for one in formula["grades"] if score >= Decimal(str(one["at_least"])))
    return {**row, "criteria": {name: number(value) for name, value in values.items()}, "score": number(score), "grade": grade}


def _targets(_formula: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    if not rows:
        return None
    total = Decimal(0)
    for row in rows:
        value = None if row["value"] is None else Decimal(str(row["value"]))
        total += row["weight"] * achievement(value, Decimal(str(row["goal"])))
    return _round(total / sum(row["weight"] for row in rows), 6)


def _milestones(formula: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    late = Decimal(str(formula["late_milestone"]))
    return _mean([Decimal(0) if row["done_on"] is None else Decimal(1) if row["done_on"] <= row["due"] else late for row in rows], 6)


def _funds(_formula: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    planned = sum(row["planned"] for row in rows)
    return _round(min(Decimal(1), Decimal(sum(row["spent"] for row in rows)) / planned), 6) if planned > 0 else None


def _items(_formula: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Decimal | None:
    return _mean([Decimal(0 if row["late"] else 1) for row in rows], 6)


_VALUES = {"targets": _targets, "milestones": _milestones, "funds": _funds, "items": _items}


def _mean(values: Sequence[Decimal], places: int) -> Decimal | None:
    return _round(sum(values, Decimal(0)) / len(values), places) if values else None


def _round(value: Decimal, places: int) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


def corrected(document: Mapping[str, Any], org: str, appeal: int, corrections: Sequence[Correction]) -> dict[str, Any]:
    """The document in which inputs of the agency `org` are others, wherever they appear, with what was changed in `adjustments`. Raises
    `Invalid` for what is no input of the agency, or says the same."""
    made: dict[str, Any] = copy.deepcopy(dict(document))
    own = next((row for row in made["agencies"] if row["id"] == org), None)
    for number_, one in enumerate(corrections):
        key, value = KEYS[one.criterion], one.said()
        mine = next((row for row in (own or {}).get(one.criterion, ()) if str(row[key]) == one.subject), None)
        if mine is None:
            raise Invalid(f"{one.subject} 不是 {org} 的考评依据", f"{one.subject} is no input of {org}", field=f"corrections.{number_}.subject",
                          value=one.subject, rule=f"{one.criterion} of {org}")
        if mine[one.field] == value:
            raise Invalid(f"{one.subject} 的值本来就是 {value}", f"{one.subject} says {value} already", field=f"corrections.{number_}.value", value=value,
                          rule="another value")
        made["adjustments"].append({
            "appeal": appeal, "org": org, "criterion": one.criterion, "subject": one.subject, "field": one.field,
            "was": mine[one.field], "is": value,
        })
        for row in (*made["agencies"], *made["tasks"]):
            for part in row[one.criterion]:
                if str(part[key]) == one.subject:
                    part[one.field] = value
                    if one.criterion == "targets":
                        part["state"], part["source"] = "reported", f"appeal:{appeal}"
    return made
