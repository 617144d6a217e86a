"""The one policy decision point: Cedar, asked inside every operation.

Law: an operation that ends without having asked is a defect and fails (`PolicyNotAsked`). Decisions are pure functions
of (who, action, organisation, attributes), so a repeated one is a dictionary look-up; the cache is dropped whenever
policies, organisations or role bindings change.
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import cedarpy

from tulou.kernel.errors import Forbidden, TulouError, Unauthenticated

P = ParamSpec("P")
R = TypeVar("R")

ROOT = "house"
"""The organisation that things of the whole house belong to (settings, system health, the list of organisations)."""

ROLES = (
    "platform_admin", "admin", "steward", "operator", "analyst", "viewer", "auditor", "reporter", "approver",
)


class Binding(NamedTuple):
    """A role held in an organisation, or in it and everything below it."""

    org: str
    role: str
    subtree: bool = False


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. `id` is `user:..`, `token:..`, `device:..`, `system:..` or `anonymous`; `scopes` limit a token
    (patterns over action names, such as `context.*` or `*.read`). `person` is the `user:..` behind a session or token,
    for rules that want a second person."""

    id: str
    name: str
    org: str
    kind: Literal["user", "token", "device", "system", "anonymous"] = "user"
    roles: frozenset[Binding] = frozenset()
    scopes: frozenset[str] | None = None
    person: str = ""

    @property
    def rights(self) -> tuple[object, ...]:
        """What decisions depend on: two people of the same rights share cached decisions."""
        return (self.kind, self.org, self.roles, self.scopes)


ANONYMOUS = Actor("anonymous", "anonymous", "", "anonymous")


def system(name: str) -> Actor:
    """The house acting for itself, named for the audit."""
    return Actor(f"system:{name}", name, ROOT, "system")


@dataclass(frozen=True, slots=True)
class Orgs:
    """The organisations in which an action is allowed. `all` means no filter is needed."""

    all: bool
    ids: frozenset[str]

    def __contains__(self, org: object) -> bool:
        return self.all or org in self.ids

    def __bool__(self) -> bool:
        return self.all or bool(self.ids)

    def narrow(self, org: str | None) -> Orgs:
        """Only `org`, if it is among these; everything if `org` is None."""
        if org is None:
            return self
        return Orgs(False, frozenset({org}) if org in self else frozenset())


EVERYWHERE = Orgs(True, frozenset())
"""Every organisation, for what the house does for itself."""


class PolicyNotAsked(AssertionError):
    """An operation returned without a decision: a defect of the house, never of the caller."""


_asked: ContextVar[list[str] | None] = ContextVar("asked", default=None)


class Operation(NamedTuple):
    """A registered operation: its action and the function."""

    action: str
    function: Callable[..., Any]


OPERATIONS: dict[str, Operation] = {}


def operation(action: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Register an async service method as an operation named `engine.thing.verb`.

    The wrapper raises `PolicyNotAsked` if the method returns without `require`, `allows` or `visible`.
    """
    if action.count(".") != 2:
        raise ValueError(f"action must be engine.thing.verb: {action}")

    def register(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        name = f"{function.__module__}.{function.__qualname__}"
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{name} must be async")

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            outer = _asked.get()
            mine: list[str] = []
            token = _asked.set(mine)
            try:
                result = await function(*args, **kwargs)
            finally:
                _asked.reset(token)
            if not mine:
                raise PolicyNotAsked(name)
            if outer is not None:
                outer.extend(mine)
            return result

        OPERATIONS[name] = Operation(action, guarded)
        return guarded

    return register


class Policy:
    """Decides. `set_organisations` gives it the tree; without it only exact bindings reach."""

    CACHE = 200_000

    def __init__(self, extra: Iterable[str] = ()) -> None:
        text = files("tulou.kernel").joinpath("policies.cedar").read_text("utf-8")
        self.source = "\n".join([text, *[part for part in extra if part]])
        self._compiled = cedarpy.PolicySet.from_str(self.source)
        self._decisions: dict[tuple[object, ...], bool] = {}
        self._visible: dict[tuple[object, ...], Orgs] = {}
        self._parents: dict[str, str | None] = {}
        self._suspended: frozenset[str] = frozenset()

    def set_organisations(self, parents: Mapping[str, str | None], suspended: Iterable[str] = ()) -> None:
        """Replace the organisation tree (child -> parent) and the suspended ones, and forget every decision."""
        self._parents = dict(parents)
        self._suspended = frozenset(suspended)
        self.forget()

    def forget(self) -> None:
        """Drop cached decisions."""
        self._decisions.clear()
        self._visible.clear()

    def ancestors(self, org: str) -> Iterable[str]:
        """`org` and the organisations above it."""
        seen: set[str] = set()
        current: str | None = org
        while current is not None and current not in seen:
            seen.add(current)
            yield current
            current = self._parents.get(current)

    def allows(self, actor: Actor, action: str, org: str, **attributes: str | bool | int) -> bool:
        """Whether `actor` may do `action` in `org`; `attributes` become part of Cedar's context."""
        asked = _asked.get()
        if asked is not None:
            asked.append(action)
        key = (actor.rights, action, org, tuple(attributes.items()))
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decide(actor, action, org, attributes)
            if len(self._decisions) >= self.CACHE:
                self._decisions.clear()
            self._decisions[key] = decision
        return decision

    def require(self, actor: Actor, action: str, org: str, **attributes: str | bool | int) -> None:
        """As `allows`, but raises `Unauthenticated` for nobody and `Forbidden` for a no."""
        if not self.allows(actor, action, org, **attributes):
            raise refusal(actor, action)

    def visible(self, actor: Actor, action: str, **attributes: str | bool | int) -> Orgs:
        """Every organisation in which `actor` may do `action`. An empty answer is not an error: the list is empty."""
        asked = _asked.get()
        if asked is not None:
            asked.append(action)
        key = (actor.rights, action, tuple(attributes.items()))
        orgs = self._visible.get(key)
        if orgs is None:
            whole = actor.kind == "system" or any(b.role == "platform_admin" for b in actor.roles)
            everything = whole and self._decide(actor, action, ROOT, attributes)
            ids = frozenset() if everything else frozenset(o for o in self._parents if self.allows(actor, action, o, **attributes))
            orgs = Orgs(everything, ids)
            if len(self._visible) >= self.CACHE // 100:
                self._visible.clear()
            self._visible[key] = orgs
        return orgs

    def require_any(self, actor: Actor, action: str) -> Orgs:
        """As `visible`, but raises when there is no organisation in which the actor may."""
        orgs = self.visible(actor, action)
        if not orgs:
            raise refusal(actor, action)
        return orgs

    def require_seen(self, actor: Actor, see: str, action: str, row: Any, missing: TulouError) -> Any:
        """`row`, in whose `org` the actor may do `see` and `action`.

        Raises `missing` where there is no row, or none that he may see, so that nobody learns that it is there;
        `Forbidden` for what he may see but not do.
        """
        orgs = self.require_any(actor, see)
        if row is None or row.org not in orgs:
            raise missing
        self.require(actor, action, row.org)
        return row

    def _known(self, *orgs: str) -> bool:
        """Whether all are organisations of the tree; everything is while there is no tree."""
        return not self._parents or all(org in self._parents for org in orgs)

    def _decide(self, actor: Actor, action: str, org: str, attributes: Mapping[str, Any]) -> bool:
        above = set(self.ancestors(org))
        roles = {
            b.role
            for b in actor.roles
            if b.role == "platform_admin" or b.org == org or (b.subtree and b.org in above)
        }
        engine, thing, verb = action.split(".")
        home_suspended = actor.org in self._suspended and "platform_admin" not in roles
        context = {
            "roles": sorted(roles),
            "kind": actor.kind,
            "engine": engine,
            "thing": thing,
            "verb": verb,
            "home": org == actor.org,
            "in_scope": actor.scopes is None or any(fnmatch.fnmatchcase(action, s) for s in actor.scopes),
            "active": not home_suspended and self._suspended.isdisjoint(above) and self._known(org, actor.org),
            **attributes,
        }
        request = {
            "principal": f"Actor::{_quoted(actor.kind)}",
            "action": f"Action::{_quoted(action)}",
            "resource": f"Organisation::{_quoted(org)}",
            "context": context,
        }
        result = cedarpy.is_authorized(request, self._compiled, [])
        if result.diagnostics.errors:
            raise RuntimeError(f"policy error: {result.diagnostics.errors}")
        return bool(result.allowed)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def refusal(actor: Actor, action: str) -> Forbidden | Unauthenticated:
    """The error for a no: 401 for nobody, else 403 naming the action."""
    if actor.kind == "anonymous":
        return Unauthenticated("请先登录", "sign in first", rule=action)
    return Forbidden(f"您没有“{action}”权限", f"you may not {action}", field="action", value=action, rule="policy")
