"""Definitions of targets: small declarative queries over what the house itself measures.

Law: pure. A definition counts things (`count`), adds up a property (`sum`) or relates two counts (`share`). Whatever
it asks, only measured readings (origin 0) of good or uncertain quality, of things that are not synthetic, are counted,
and only of things that spoke within `reported_within_days`: a register typed by hand measures nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

EVERY = "*"
"""In `types`: every entity type."""

PLACES = Decimal("0.000001")
"""Values of targets are kept to six places after the point."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=100)]
Days = Annotated[int, Field(ge=1, le=366)]


class Strict(BaseModel):
    """An immutable type that refuses unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(Strict):
    """The latest reading of `property` is one of `any_of` (text), or a number `at_least` or `at_most`."""

    property: Name
    any_of: list[str] | None = Field(None, min_length=1)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        numeric = self.at_least is not None or self.at_most is not None
        if numeric == (self.any_of is not None):
            raise ValueError("a condition is either any_of (text) or at_least / at_most (number)")
        return self


class Selection(Strict):
    """Which things: of these types, that reported within the days, whose latest readings fulfil every condition."""

    types: list[Name | Literal["*"]] = Field(min_length=1)
    reported_within_days: Days
    where: list[Condition] = Field(default_factory=list)

    @model_validator(mode="after")
    def _star_alone(self) -> Selection:
        if EVERY in self.types and len(self.types) > 1:
            raise ValueError("'*' stands alone")
        return self


class Count(Selection):
    """How many, times `factor`. With `distinct`, how many different values of that property within an organisation."""

    distinct: Name | None = None
    factor: Decimal = Field(Decimal(1), gt=0)


class Sum(Selection):
    """The sum of the latest readings of `property`, times `factor`."""

    property: Name
    factor: Decimal = Field(Decimal(1), gt=0)


class Share(Strict):
    """`part` of `whole` in per cent; without a whole there is no value."""

    part: Count
    whole: Count


class Register(Strict):
    """The projects of the register that count to a target and are finished: a final milestone is done, as somebody else than who reported
    it said. Such a figure is reported, not measured."""

    target: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)


class Query(Strict):
    """Exactly one of `count`, `sum`, `share`, `projects`."""

    count: Count | None = None
    sum: Sum | None = None
    share: Share | None = None
    projects: Register | None = None

    @model_validator(mode="after")
    def _one(self) -> Query:
        if sum(part is not None for part in (self.count, self.sum, self.share, self.projects)) != 1:
            raise ValueError("exactly one of count, sum, share, projects")
        return self


class Problem(NamedTuple):
    """A reference in a definition that does not hold."""

    field: str
    value: str
    rule: str


class Definition(Strict):
    """A query with what it counts in words; or `none`, with why the house cannot measure it yet."""

    query: Query | Literal["none"]
    note_zh: str = Field(min_length=1, max_length=1000)
    note_en: str = Field(min_length=1, max_length=1000)

    @property
    def measures(self) -> bool:
        """Whether the house can measure it."""
        return self.query != "none"

    @property
    def from_register(self) -> bool:
        """Whether it counts what people registered, and not what devices measured."""
        return not isinstance(self.query, str) and self.query.projects is not None

    def document(self) -> dict[str, Any]:
        """The definition as JSON types, defaults left out: what is stored and shown."""
        document: dict[str, Any] = self.model_dump(mode="json", exclude_defaults=True)
        return document

    def text(self) -> str:
        """The query in one line, for people."""
        if isinstance(self.query, str):
            return self.query
        if self.query.share is not None:
            return f"100 * ({_sentence(self.query.share.part)}) / ({_sentence(self.query.share.whole)})"
        if self.query.projects is not None:
            return f"count of finished projects of the register for {self.query.projects.target}"
        return _sentence(self.query.count or self.query.sum)

    def digest(self) -> str:
        """SHA-256 of the definition's canonical JSON."""
        return digest(self.document())

    def selections(self) -> Iterator[tuple[str, Selection]]:
        """Every selection in the query, with its place."""
        if isinstance(self.query, str):
            return
        for name in ("count", "sum"):
            part = getattr(self.query, name)
            if part is not None:
                yield f"query.{name}", part
        if self.query.share is not None:
            yield "query.share.part", self.query.share.part
            yield "query.share.whole", self.query.share.whole

    def problems(self, models: Mapping[str, Any]) -> Iterator[Problem]:
        """References to types or properties that no pack declares (`models`: type -> kernel.packs.Model)."""
        for place, selection in self.selections():
            for name in selection.types:
                if name != EVERY and name not in models:
                    yield Problem(f"{place}.types", name, "a type of a pack")
            for property_ in _properties(selection):
                for name in selection.types:
                    model = models.get(name)
                    if model is not None and not model.open and property_ not in model.properties:
                        yield Problem(place, property_, f"a property of {name}")


def _properties(selection: Selection) -> Iterator[str]:
    for condition in selection.where:
        yield condition.property
    if isinstance(selection, Sum):
        yield selection.property
    if isinstance(selection, Count) and selection.distinct:
        yield selection.distinct


def _sentence(one: Count | Sum | None) -> str:
    assert one is not None
    what = f"sum of {one.property}" if isinstance(one, Sum) else "count"
    if isinstance(one, Count) and one.distinct:
        what = f"count of different {one.distinct}"
    where = [
        f"{c.property} in ({', '.join(c.any_of)})" if c.any_of is not None
        else " and ".join(
            f"{c.property} {sign} {bound:g}" for sign, bound in ((">=", c.at_least), ("<=", c.at_most)) if bound is not None
        )
        for c in one.where
    ]
    factor = "" if one.factor == 1 else f"{one.factor:f} * "
    return (
        f"{factor}{what} over {', '.join(one.types)}{' where ' if where else ''}{' and '.join(where)}"
        f" reported within {one.reported_within_days} days"
    )


class Tally(NamedTuple):
    """What a store found: `known` things of the types that are not synthetic, of which `reported` spoke in time; the
    `value` of the count or sum (None when `reported` is 0), and the newest reading that counted."""

    known: int
    reported: int
    value: Decimal | None
    newest: dt.datetime | None


class Facts(Protocol):
    """Where measured facts come from; an implementation reads the house's stores."""

    async def tally(self, selection: Selection, at: dt.datetime) -> Tally:
        """Count or sum as of `at`. Synthetic and estimated readings never count."""
        ...

    async def finished(self, target: str) -> Tally:
        """The projects of the register that count to the target (`known`), and those of them that are finished. None that is synthetic."""
        ...


class Outcome(NamedTuple):
    """The result of a definition: a value in the target's unit or None, and what it was made of."""

    value: Decimal | None
    known: int
    reported: int
    newest: dt.datetime | None


async def evaluate(definition: Definition, facts: Facts, at: dt.datetime) -> Outcome | None:
    """Evaluate `definition` as of `at`. None when it has no query. A value is None when no real thing of the kind is
    registered: nothing measured is not the same as zero."""
    if isinstance(definition.query, str):
        return None
    if definition.query.projects is not None:
        tally = await facts.finished(definition.query.projects.target)
        return Outcome(tally.value, tally.known, tally.reported, tally.newest)
    one = definition.query.count or definition.query.sum
    if one is not None:
        tally = await facts.tally(one, at)
        value = None if tally.known == 0 else rounded((tally.value or Decimal(0)) * one.factor)
        return Outcome(value, tally.known, tally.reported, tally.newest)
    assert definition.query.share is not None
    part = await facts.tally(definition.query.share.part, at)
    whole = await facts.tally(definition.query.share.whole, at)
    value = rounded(100 * (part.value or Decimal(0)) / whole.value) if whole.value else None
    return Outcome(value, whole.known, whole.reported, whole.newest)


def rounded(value: Decimal) -> Decimal:
    """`value` to six places, half to even, without trailing zeros."""
    exact = value.quantize(PLACES, ROUND_HALF_EVEN).normalize()
    return exact.quantize(Decimal(1)) if exact == exact.to_integral() else exact


def canonical(document: Any) -> bytes:
    """JSON with sorted keys: the same content is the same bytes."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def digest(document: Any) -> str:
    """SHA-256 of the canonical JSON, hexadecimal."""
    return hashlib.sha256(canonical(document)).hexdigest()
