"""Rules that packs declare: the section `rules`.

Law: a rule of a pack is checked with the pack: its type is declared, its properties are of that type and are numbers, and nobody else's
alarms carry its name.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import PydanticCustomError

from tulou.access.rules.models import Declared, PackRule, Rule, of_models
from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Model, Pack, Packs, Section, broken

TAKEN = frozenset({"above", "below", "offline"})
"""What alarms of thresholds and of absence carry."""


def must_fit(rule: Declared, model: Model | None) -> None:
    """Raises `Invalid` unless the type is declared and the rule's properties are numbers of it."""
    if model is None:
        raise Invalid(f"没有类型 {rule.type}", f"no type {rule.type}", field="type", value=rule.type, rule="declared type")
    for name in rule.condition.names():
        prop = model.properties.get(name)
        if prop is None and not model.open:
            raise Invalid(
                f"{rule.type} 没有属性 {name}", f"{rule.type} has no property {name}", field="condition", value=name,
                rule="property of the type",
            )
        if prop is not None and prop.kind not in ("number", "boolean"):
            raise Invalid(
                f"属性 {name} 不是数值", f"property {name} is not a number", field="condition", value=name, rule="number | boolean",
            )


def of_packs(packs: Packs) -> list[Rule]:
    """The rules of packs, and the thresholds of every model."""
    return [*of_models(packs.models), *(rule_of(rule) for _, rules in packs.section("rules") for rule in rules)]


def rule_of(rule: PackRule) -> Rule:
    """A rule of a pack as it is evaluated."""
    title = f"{rule.label.zh} {rule.label.en}"
    return Rule(rule.name, rule.type, rule.condition, rule.severity, title, escalate_s=rule.escalate_s)


def _check(rules: list[PackRule], _pack: Pack, packs: Packs) -> Iterator[PydanticCustomError]:
    names = {rule.name for _, others in packs.section("rules") for rule in others}
    for number, rule in enumerate(rules):
        try:
            must_fit(rule, packs.models.get(rule.type))
        except Invalid as error:
            yield broken(error.rule or error.code, error.zh, error.en, (number, error.field or ""))
        if rule.name in TAKEN or rule.name.startswith("rule-") or rule.name in names:
            yield broken("unique", f"规则名 {rule.name} 已被占用", f"the name {rule.name} is taken", (number, "name"))
        names.add(rule.name)


SECTION = Section(list[PackRule], _check)
