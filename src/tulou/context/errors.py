"""Errors of the NGSI-LD door: the house's errors with the types that ETSI GS CIM 009, clause 6.3.2, names.

Law: every refusal of this engine is one of these or a plain kernel error, which `ngsi_type` maps to its NGSI-LD type.
"""

from __future__ import annotations

from typing import Any

from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Throttled, TooLarge, TulouError, Unauthenticated

NS = "https://uri.etsi.org/ngsi-ld/errors/"


class BadRequestData(Invalid):
    """The payload or a parameter breaks a rule of the data model: 400."""

    code = "BadRequestData"


class InvalidRequest(Invalid):
    """The request itself is malformed, such as a body that is not JSON: 400."""

    code = "InvalidRequest"


class AlreadyExists(Conflict):
    """The identifier is taken: 409."""

    code = "AlreadyExists"


class NonexistentTenant(NotFound):
    """The tenant does not exist, or the actor may not know that it does: 404."""

    code = "NonexistentTenant"


class LdContextNotAvailable(TulouError):
    """A @context is not stored here; the house never fetches one: 504."""

    status, code = 504, "LdContextNotAvailable"
    title_zh, title_en = "@context 不可用", "@context not available"


class NotAcceptable(TulouError):
    """None of the media types that the client accepts is available: 406."""

    status, code = 406, "NotAcceptable"
    title_zh, title_en = "无法提供所要求的媒体类型", "Not acceptable"


class UnsupportedMediaType(TulouError):
    """The body's media type is not one that this resource reads: 415."""

    status, code = 415, "UnsupportedMediaType"
    title_zh, title_en = "不支持的媒体类型", "Unsupported media type"


class LengthRequired(TulouError):
    """A body without a length: 411."""

    status, code = 411, "LengthRequired"
    title_zh, title_en = "缺少内容长度", "Length required"


class MethodNotAllowed(TulouError):
    """The resource does not have this method: 405."""

    status, code = 405, "MethodNotAllowed"
    title_zh, title_en = "不支持的方法", "Method not allowed"


class OperationNotSupported(TulouError):
    """The operation exists in the standard, and is not offered here: 422."""

    status, code = 422, "OperationNotSupported"
    title_zh, title_en = "不支持的操作", "Operation not supported"


class TooManyResults(Forbidden):
    """The result would be larger than the house gives at once: 403."""

    code = "TooManyResults"


class RegistrationConflict(Conflict):
    """A registration of a context source does not allow it: 409."""

    code = "Conflict"


class LoopDetected(TulouError):
    """The only source that could serve the request redirects to one that it came from: 508."""

    status, code = 508, "LoopDetected"
    title_zh, title_en = "注册形成环路", "Loop detected"


class SourceFailed(TulouError):
    """A context source could not be reached, or its answer was no valid one: 502."""

    status, code = 502, "BadGateway"
    title_zh, title_en = "上下文来源无法使用", "Bad gateway"


class SourceSilent(SourceFailed):
    """A context source did not answer in time: 504."""

    status, code = 504, "GatewayTimeout"
    title_zh, title_en = "上下文来源未及时应答", "Gateway timeout"


_TYPES: tuple[tuple[type[TulouError], str], ...] = (
    (BadRequestData, "BadRequestData"),
    (InvalidRequest, "InvalidRequest"),
    (AlreadyExists, "AlreadyExists"),
    (RegistrationConflict, "Conflict"),
    (LoopDetected, "LoopDetected"),
    (SourceSilent, "GatewayTimeout"),
    (SourceFailed, "BadGateway"),
    (NonexistentTenant, "NonexistentTenant"),
    (TooManyResults, "TooManyResults"),
    (LdContextNotAvailable, "LdContextNotAvailable"),
    (OperationNotSupported, "OperationNotSupported"),
    (NotFound, "ResourceNotFound"),
    (Conflict, "AlreadyExists"),
    (TooLarge, "InvalidRequest"),
    (Throttled, "TooComplexQuery"),
    (Unauthenticated, "AccessDenied"),
    (Forbidden, "AccessDenied"),
    (Invalid, "BadRequestData"),
)


def ngsi_problem(error: TulouError) -> dict[str, Any]:
    """The error as ProblemDetails (clause 5.5.3) with an NGSI-LD type; the house's own members stay beside it."""
    document = error.problem()
    own = getattr(error, "ngsi", None)
    document["type"] = NS + (own or next((name for cls, name in _TYPES if isinstance(error, cls)), "InternalError"))
    return document


def bad(zh: str, en: str, *, field: str | None = None, value: Any = None, rule: str | None = None) -> BadRequestData:
    """Short for the commonest refusal."""
    return BadRequestData(zh, en, field=field, value=value, rule=rule)
