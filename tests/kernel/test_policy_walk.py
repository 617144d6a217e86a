"""Every registered operation, of every engine, asks the policy: it is called as people without any rights."""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import datetime as dt
import inspect
import textwrap
import types
import typing
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel

from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound, TulouError, Unauthenticated, Unavailable
from tulou.kernel.house import House
from tulou.kernel.plugins import plugins
from tulou.kernel.policy import ANONYMOUS, OPERATIONS, Actor, Operation

plugins()  # imports every engine, which registers its operations

REFUSED = (Forbidden, Unauthenticated, NotFound, Invalid, Unavailable)
ASKS = {"require", "allows", "visible", "require_any"}
BY_NAME: dict[str, Any] = {
    "org": "fuzhou", "parent": "fuzhou", "tenant": "fuzhou", "id": "urn:ngsi-ld:AirQualityObserved:x", "kind": "any",
    "type": "AirQualityObserved", "reason": "", "raw": b"x", "url": "http://127.0.0.1:9/x",
}
STRANGER = Actor("user:nobody", "nobody", "no-such-org", "user", frozenset(), None, "user:nobody")
ROLELESS = Actor("user:newcomer", "newcomer", "xiamen", "user", frozenset(), None, "user:newcomer")


def unwrapped(operation: Operation) -> Callable[..., Any]:
    return inspect.unwrap(operation.function)


async def nobody_any_more() -> Actor:
    raise Unauthenticated("请先登录", "sign in first")


def value_of(kind: Any, name: str) -> Any:
    """A value of a type: as plain as can be, but never an empty collection (an empty batch proves nothing)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return value_of(arguments[0], name)
    if origin in (typing.Union, types.UnionType):
        return value_of(next(a for a in arguments if a is not type(None)), name)
    if origin is typing.Literal:
        return arguments[0]
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection,
                  collections.abc.AsyncIterable):
        return [value_of(arguments[0] if arguments else str, name)]
    if origin in (set, frozenset):
        return {value_of(arguments[0], name)}
    if origin is tuple:
        return tuple(value_of(a, name) for a in arguments if a is not Ellipsis)
    if origin in (dict, collections.abc.Mapping) or kind in (dict, Any):
        return {"id": BY_NAME["id"], "type": BY_NAME["type"]}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {
            key: value_of(field.annotation, key) for key, field in kind.model_fields.items() if field.is_required()
        }
        return kind.model_construct(**fields)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        required = [
            f for f in dataclasses.fields(kind)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        ]
        return kind(**{f.name: value_of(hints[f.name], f.name) for f in required})  # type: ignore[operator]
    if kind is AwareDatetime or (isinstance(kind, type) and issubclass(kind, dt.datetime)):
        return dt.datetime.now(dt.UTC)
    if kind is dt.date:
        return dt.date(2022, 1, 1)
    if origin is collections.abc.Callable:
        return nobody_any_more if "Awaitable" in str(arguments[-1]) else (lambda value: value)
    if isinstance(kind, type) and hasattr(kind, "_fields"):
        return kind(*[value_of(hint, key) for key, hint in typing.get_type_hints(kind).items()])
    plain: dict[Any, Any] = {str: BY_NAME.get(name, "x"), int: 1, float: 1.0, bool: False, bytes: b"x", Decimal: Decimal(1)}
    if kind in plain:
        return plain[kind]
    if isinstance(kind, typing.TypeVar):
        return "x"
    if isinstance(kind, type) and kind.__module__.startswith("tulou."):
        return kind(**arguments_of(kind.__init__))
    raise NotImplementedError(f"no value of {kind!r} for {name}: add one to this test")


def arguments_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Values for every parameter without a default, except `self` and `actor`."""
    hints = typing.get_type_hints(function)
    return {
        name: value_of(hints[name], name)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("self", "actor") and parameter.default is inspect.Parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def nothing(result: Any) -> bool:
    """Whether an answer holds no data: empty, or made of nothing but empty parts, zeros and names of parts."""
    if result is None or result is False or result == 0 or result in ("", b""):
        return True
    if isinstance(result, dict):
        return all(nothing(v) for v in result.values())
    if isinstance(result, list | tuple | set | frozenset):
        return all(nothing(v) for v in result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return all(nothing(getattr(result, f.name)) for f in dataclasses.fields(result))
    return False


async def counts(house: House) -> dict[str, int]:
    """Rows of every table but the audit, where refusals are noted, and what the house itself measures meanwhile."""
    own = {"audit_log", "plan_measurements"}

    def read(connection: sa.Connection) -> dict[str, int]:
        names = [n for n in sa.inspect(connection).get_table_names() if n not in own]
        return {n: connection.execute(sa.text(f'SELECT count(*) FROM "{n}"')).scalar_one() for n in names}

    return await house.db.read(read)


OWN = "what belongs to one's own organisation"
PUBLISHED = "the plan, its targets and their numbers are published to everyone who is signed in"
DECLARED = "what packs count, and titles of their pages: no figure"
NOT_SECRET: dict[str, str] = {
    "tulou.kernel.organisations.service.Organisations.search": OWN,
    "tulou.kernel.organisations.service.Organisations.apply": "who belongs to an organisation may apply for another",
    "tulou.kernel.organisations.service.People.search": OWN,
    "tulou.kernel.organisations.credentials.Credentials.session": "oneself",
    "tulou.indicators.dashboards.Dashboards.find": DECLARED,
    "tulou.indicators.service.Indicators.find": DECLARED,
    "tulou.kernel.packs.register.PackRegister.find": "what fields the house serves is open to everyone who is signed in",
    "tulou.kernel.packs.register.PackRegister.schema": "what a pack may say is published",
    "tulou.plan.service.Plans.tasks": PUBLISHED,
    "tulou.plan.service.Plans.targets": PUBLISHED,
    "tulou.plan.service.Plans.target": PUBLISHED,
    "tulou.plan.service.Plans.systems": PUBLISHED,
    "tulou.plan.service.Plans.summary": PUBLISHED,
    "tulou.plan.service.Plans.score": PUBLISHED,
    "tulou.plan.overview.Overviews.task": PUBLISHED,
    "tulou.plan.overview.Overviews.screen": PUBLISHED,
    "tulou.plan.report.service.Reports.content": PUBLISHED,
    "tulou.plan.report.service.Reports.make": PUBLISHED,
}
"""What a signed-in person without any role gets, and why. Nobody at all gets nothing."""


@pytest.mark.slow
async def test_without_rights_no_operation_gives_or_changes_anything(house: House) -> None:
    before = await counts(house)
    failures: list[str] = []
    for name, operation in sorted(OPERATIONS.items()):
        function = unwrapped(operation)
        owner = getattr(inspect.getmodule(function), function.__qualname__.split(".")[0])
        service = house.service(owner)
        for actor in (ANONYMOUS, STRANGER, ROLELESS):
            try:
                result = await operation.function(service, actor=actor, **arguments_of(function))
            except REFUSED:
                continue
            except Conflict as error:
                failures.append(f"{name} as {actor.id}: a conflict tells that the thing exists: {error}")
            except TulouError as error:
                failures.append(f"{name} as {actor.id}: {type(error).__name__} {error}")
            except Exception as error:
                failures.append(f"{name} as {actor.id}: {type(error).__name__} {error}")
            else:
                if inspect.isasyncgen(result):
                    result = [item async for item in result]
                if not nothing(result) and not (actor is not ANONYMOUS and name in NOT_SECRET):
                    failures.append(f"{name} as {actor.id} answered {str(result)[:300]}")
    assert not failures, "\n".join(failures)
    after = await counts(house)
    assert after.pop("organisations") == before.pop("organisations") + 1  # the newcomer's application
    assert after == before


def calls(function: Callable[..., Any]) -> set[str]:
    """The names of all methods and functions that the body calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    return found


OPERATION_NAMES = {name.rsplit(".", 1)[1] for name in OPERATIONS}


def asks(function: Callable[..., Any], owner: type, seen: frozenset[str] = frozenset()) -> bool:
    """Whether the body asks the policy itself, by a helper of its class, or by another operation."""
    called = calls(function)
    if called & ASKS:
        return True
    for name in called - seen - {"__init__"}:
        helper = inspect.unwrap(getattr(owner, name, None) or (lambda: None))
        if inspect.isfunction(helper) and helper.__qualname__.startswith(owner.__name__ + "."):
            if asks(helper, owner, seen | called):
                return True
        elif name in OPERATION_NAMES and not hasattr(owner, name):
            return True
    return False


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_asks_in_its_body(name: str) -> None:
    function = unwrapped(OPERATIONS[name])
    owner = getattr(inspect.getmodule(function), function.__qualname__.split(".")[0])
    assert asks(function, owner), f"{name} never asks the policy"
    assert "actor" in inspect.signature(function).parameters


def test_there_are_operations_of_every_engine() -> None:
    engines = {operation.action.split(".")[0] for operation in OPERATIONS.values()}
    assert engines >= {"house", "organisations", "audit", "jobs", "context", "access", "plan"}
