"""The standard's own JSON schemas, which the package `ocpp` carries, as checks of a payload.

Law: pure but for reading the package's files, each once. They are checked by `jsonschema-rs` and not by the package's own
`jsonschema`: some microseconds a message instead of milliseconds, so that no charging station can hold up the gateway's
loop. Times are not checked here but by who reads them: makers leave out the zone. What a check says never repeats a value, because values may be somebody's card.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson

from tulou.kernel.errors import Unavailable

V16, V201 = "1.6", "2.0.1"
VERSIONS = (V16, V201)
ACTION = re.compile(r"[A-Z][A-Za-z0-9]{1,49}")
WITHHELD = "value"


@dataclass(frozen=True, slots=True)
class Violation:
    """The first thing in a payload that the schema forbids. `rule` is the keyword of JSON Schema, `at` names the field."""

    rule: str
    at: str
    why: str


def missing() -> Unavailable:
    """The error of a house that has no OCPP."""
    return Unavailable(
        "未安装 OCPP 支持，请执行 pip install 'tulou[ocpp]'", "OCPP is not installed: pip install 'tulou[ocpp]'", rule="the extra ocpp",
    )


@functools.lru_cache(512)
def schema(version: str, action: str, answer: bool = False) -> dict[str, Any] | None:
    """The schema of a request, or of its answer; None if the standard has none. Raises `Unavailable` without the package."""
    if not ACTION.fullmatch(action):
        return None
    try:
        folder = files("ocpp").joinpath(f"v{version.replace('.', '')}", "schemas")
    except ModuleNotFoundError:
        raise missing() from None
    end = "Response" if answer else "" if version == V16 else "Request"
    file = folder.joinpath(f"{action}{end}.json")
    if not file.is_file() or (version == V16 and not answer and action.endswith("Response")):
        return None
    found: dict[str, Any] = orjson.loads(file.read_text("utf-8-sig"))
    return found


@functools.cache
def _validator(version: str, action: str, answer: bool) -> Any:
    try:
        import jsonschema_rs
    except ModuleNotFoundError:
        raise missing() from None
    found = schema(version, action, answer)
    return None if found is None else jsonschema_rs.Draft4Validator(found, mask=WITHHELD, validate_formats=False)


def known(version: str, action: str) -> bool:
    """Whether the standard has the action."""
    return ACTION.fullmatch(action) is not None and schema(version, action) is not None


def violation(version: str, action: str, payload: Any, answer: bool = False) -> Violation | None:
    """What is wrong with the payload of a known action, or None."""
    try:
        error = next(iter(_validator(version, action, answer).iter_errors(payload)), None)
    except ValueError as problem:  # nested beyond what the validator follows
        return Violation("depth", "", str(problem)[:200])
    if error is None:
        return None
    return Violation(str(error.kind.name), ".".join(map(str, error.instance_path)), str(error.message)[:300])
