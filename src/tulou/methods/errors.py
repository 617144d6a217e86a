"""The one error of this floor: what the caller asked breaks a rule.

Law: the names are those of the house's errors (`kernel.errors.TulouError`), which this floor may not import; who answers a
person raises `Invalid` with them.
"""

from __future__ import annotations

from typing import Any


class InvalidInput(ValueError):
    """`field` has `value`, which breaks `rule`; `zh` and `en` say so."""

    def __init__(self, zh: str, en: str, *, field: str, value: Any = None, rule: str | None = None) -> None:
        super().__init__(en)
        self.zh, self.en, self.field, self.value, self.rule = zh, en, field, value, rule


def one_of(field: str, value: Any, allowed: Any) -> None:
    """Raises `InvalidInput` when `value` is not among `allowed`."""
    if value not in allowed:
        names = ", ".join(str(name) for name in allowed)
        raise InvalidInput(
            f"{field} 的值 {value!r} 不在允许的范围内：{names}", f"{field}: {value!r} is none of {names}",
            field=field, value=value, rule=names,
        )


def at_least(field: str, value: Any, least: Any) -> None:
    """Raises `InvalidInput` when `value` is less than `least` (or NaN)."""
    if not value >= least:
        raise InvalidInput(
            f"{field} 的值 {value!r} 小于 {least}", f"{field}: {value!r} is less than {least}",
            field=field, value=value, rule=f">= {least}",
        )
