"""Examples that packs declare: readings of one thing, and the alarms that they raise and clear. The section `examples`.

Law: an example is tried by the same evaluator that watches real readings, with the pack's rules and the thresholds of its models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from pydantic_core import PydanticCustomError

from tulou.access.batch import Batch, BatchBuilder
from tulou.access.rules.declared import of_packs
from tulou.access.rules.evaluator import SECOND, Evaluator
from tulou.access.rules.models import DAY, Rule
from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Name as Term
from tulou.kernel.packs import Pack, Packs, Section, Strict, Text, broken, check_values

EPOCH = 1_600_000_000 * SECOND
Key = Annotated[str, Field(pattern=r"^[^.\s]+(\.(above|below))?$", max_length=200)]
"""An alarm of an example: the name of a rule of a pack, or a property and which of its bounds."""


class At(Strict):
    """What the thing says `after_s` seconds after the example began."""

    after_s: float = Field(ge=0, le=366 * DAY)
    values: dict[Term, float | bool | str] = Field(min_length=1, max_length=1000)


class Example(Strict):
    """Readings of one thing of a type, in the order of time; the alarms that they raise, and those that are cleared again."""

    label: Text
    type: Term
    readings: list[At] = Field(min_length=1, max_length=10_000)
    raises: list[Key] = Field(default_factory=list)
    clears: list[Key] = Field(default_factory=list)


def _check(examples: list[Example], _pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    for number, example in enumerate(examples):
        model = packs.models.get(example.type)
        if model is None:
            yield broken("declared type", f"没有类型 {example.type}", f"no type {example.type}", (number, "type"))
            continue
        last = -1.0
        for at, reading in enumerate(example.readings):
            place = (number, "readings", at)
            if reading.after_s <= last:
                yield broken("order", "应晚于前一条读数", "must be after the reading before it", (*place, "after_s"))
            last = reading.after_s
            known = {name: value for name, value in reading.values.items() if name in model.properties or not model.open}
            for name, value in known.items():
                try:
                    check_values(model.properties, {name: value}, (), "values")
                except Invalid as error:
                    yield broken(error.rule or error.code, error.zh, error.en, (*place, "values", name))


def _key(rule: Rule) -> str:
    return f"{rule.about}.{rule.key}" if rule.key in ("above", "below") else rule.key


def _try_out(examples: list[Example], pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    for number, example in enumerate(examples):
        evaluator = Evaluator([rule for rule in of_packs(packs) if rule.type == example.type], packs.models)
        changes = evaluator.take([_batch(example)])
        for kind, field, wanted in (("raised", "raises", example.raises), ("cleared", "clears", example.clears)):
            found = [_key(change.rule) for change in changes if change.kind == kind]
            if sorted(found) != sorted(wanted):
                said, real = (", ".join(sorted(names)) or "-" for names in (wanted, found))
                zh = "触发" if kind == "raised" else "解除"
                yield broken(
                    "example", f"示例“{example.label.zh}”{zh}的告警应为 {said}，实为 {real}",
                    f"the example '{example.label.en}' should have {kind} {said}, and has {kind} {real}", (number, field))


def _batch(example: Example) -> Batch:
    builder = BatchBuilder("")
    for reading in example.readings:
        at = EPOCH + round(reading.after_s * SECOND)
        frame = builder.frames(1, ("", example.type, 0), at, [b""])
        for name, value in reading.values.items():
            text = value if isinstance(value, str) else None
            builder.reading(frame, name, at, float("nan") if isinstance(value, str) else float(value), text)
    return Batch.decode(builder.encode())


SECTION = Section(list[Example], _check, _try_out)
