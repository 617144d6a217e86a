"""Errors of the house: one small tree, each naming the field, the value and the rule in two languages.

Law: what a person or program did wrong is a `TulouError` and has an HTTP status; anything else that is raised
is a defect of the house and is answered with 500 and no detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TulouError(Exception):
    """Root of the tree. `code` is a stable slug, `status` the HTTP status that doors answer with."""

    status = 500
    code = "internal"
    title_zh = "内部错误"
    title_en = "Internal error"

    def __init__(
        self, zh: str, en: str, *, field: str | None = None, value: Any = None, rule: str | None = None
    ) -> None:
        super().__init__(en)
        self.zh = zh
        self.en = en
        self.field = field
        self.value = value
        self.rule = rule

    @property
    def both(self) -> str:
        """The message in both languages, where only one text can be shown."""
        return f"{self.zh} ({self.en})"

    def problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document; a long value is cut to 200 characters."""
        value = self.value
        if value is not None and not isinstance(value, int | float | bool):
            value = str(value)[:200]
        document = {
            "type": f"urn:tulou:error:{self.code}",
            "title": self.title_en,
            "title_zh": self.title_zh,
            "status": self.status,
            "detail": self.en,
            "detail_zh": self.zh,
            "detail_en": self.en,
            "field": self.field,
            "value": value,
            "rule": self.rule,
        }
        return {key: item for key, item in document.items() if item is not None}


class Invalid(TulouError):
    """A value breaks a rule: 400."""

    status, code = 400, "invalid"
    title_zh, title_en = "输入不合规则", "Invalid input"


class Unauthenticated(TulouError):
    """Nobody is signed in, or the credential is not valid: 401."""

    status, code = 401, "unauthenticated"
    title_zh, title_en = "未登录或凭证无效", "Not signed in"


class Forbidden(TulouError):
    """The policy says no: 403."""

    status, code = 403, "forbidden"
    title_zh, title_en = "无权进行此操作", "Forbidden"


class NotFound(TulouError):
    """There is no such thing, or the actor may not know that there is: 404."""

    status, code = 404, "not-found"
    title_zh, title_en = "未找到", "Not found"


class Conflict(TulouError):
    """The thing's present state does not allow it: 409."""

    status, code = 409, "conflict"
    title_zh, title_en = "与现有状态冲突", "Conflict"


class TooLarge(TulouError):
    """The body or packet exceeds a limit: 413."""

    status, code = 413, "too-large"
    title_zh, title_en = "内容过大", "Too large"


class TooSlow(TulouError):
    """The body does not come in time: 408."""

    status, code = 408, "too-slow"
    title_zh, title_en = "内容到达过慢", "Too slow"


class Throttled(TulouError):
    """Too many attempts: 429; `retry_after` in seconds."""

    status, code = 429, "throttled"
    title_zh, title_en = "请求过于频繁", "Too many requests"

    def __init__(self, zh: str, en: str, *, retry_after: float, **kwargs: Any) -> None:
        super().__init__(zh, en, **kwargs)
        self.retry_after = retry_after


class Unavailable(TulouError):
    """A store or the bus is away; nothing was accepted: 503."""

    status, code = 503, "unavailable"
    title_zh, title_en = "暂时不可用", "Unavailable"


def said(error: BaseException) -> str:
    """What an error of the house or of a library says."""
    return error.both if isinstance(error, TulouError) else str(error) or repr(error)


BROKEN = {
    "missing": "缺少", "extra_forbidden": "没有此项", "string_type": "应为文本", "string_too_short": "至少 {min_length} 个字符",
    "string_too_long": "至多 {max_length} 个字符", "string_pattern_mismatch": "应符合 {pattern}", "too_long": "至多 {max_length} 项",
    "too_short": "至少 {min_length} 项", "greater_than_equal": "不小于 {ge}", "less_than_equal": "不大于 {le}", "greater_than": "大于 {gt}",
    "less_than": "小于 {lt}", "int_type": "应为整数", "int_parsing": "应为整数", "int_from_float": "应为整数", "float_type": "应为数",
    "float_parsing": "应为数", "finite_number": "应为有限的数", "bool_type": "应为是或否", "bool_parsing": "应为是或否",
    "literal_error": "应为 {expected}", "dict_type": "应为对象", "model_type": "应为对象", "list_type": "应为列表",
    "date_from_datetime_parsing": "应为日期", "date_type": "应为日期", "invalid_key": "键应为文本", "union_tag_not_found": "缺少 {discriminator}",
    "union_tag_invalid": "{discriminator} 应为 {expected_tags}",
}
"""What pydantic's rules say in Chinese, by their names; what is not here it says in English."""


def in_chinese(rule: Mapping[str, Any]) -> str:
    """What a broken rule says in Chinese; `rule` is one of `ValidationError.errors()`."""
    context = rule.get("ctx", {})
    return str(context.get("zh") or BROKEN.get(rule["type"], rule["msg"]).format_map(context))
