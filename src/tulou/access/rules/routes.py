"""The HTTP routes of rules, the desk of alarms, and channels (docs/api.md).

Law: a route turns a request into one service call and its result into a response.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tulou.access.alarms import Alarms, Assignment, Comment, Silence
from tulou.access.notify import Channels, NewChannel
from tulou.access.rules.models import NewRule
from tulou.access.rules.service import Rules
from tulou.kernel.errors import NotFound
from tulou.kernel.http import API, Handler, body_model, flag, json_response, limit_of, path_number, route
from tulou.kernel.policy import Actor

if TYPE_CHECKING:
    from tulou.kernel.house import House


class Times(BaseModel):
    """From when to when a rule is tested on history."""

    model_config = ConfigDict(extra="forbid")

    start: AwareDatetime
    end: AwareDatetime


class Trial(Times):
    """A rule that is not made yet, and from when to when it is tested."""

    rule: NewRule


def _id(request: Request, zh: str, en: str) -> int:
    return path_number(request, "id", lambda raw: NotFound(f"没有{zh} {raw}", f"no {en} {raw}", field="id", value=raw))


def _rule(request: Request) -> int:
    return _id(request, "规则", "rule")


def _alarm(request: Request) -> int:
    return _id(request, "告警", "alarm")


def _channel(request: Request) -> int:
    return _id(request, "通知渠道", "channel")


def _number(request: Request, name: str) -> int | None:
    raw = request.query_params.get(name, "")
    return int(raw) if raw.isascii() and raw.isdigit() and len(raw) <= 18 else None


def routes(house: House) -> list[BaseRoute]:
    """Every route of rules, alarms and channels."""
    rules, alarms, channels = house.service(Rules), house.service(Alarms), house.service(Channels)

    def text(request: Request, name: str) -> str | None:
        return request.query_params.get(name) or None

    async def rule_list(request: Request, actor: Actor) -> Response:
        return json_response(await rules.find(
            actor, org=text(request, "org"), kind=text(request, "type"), limit=limit_of(request), after=text(request, "after")
        ))

    async def rule_create(request: Request, actor: Actor) -> Response:
        return json_response(await rules.create(actor, await body_model(request, NewRule)), 201)

    async def rule_get(request: Request, actor: Actor) -> Response:
        return json_response(await rules.get(actor, _rule(request)))

    async def rule_put(request: Request, actor: Actor) -> Response:
        return json_response(await rules.change(actor, _rule(request), await body_model(request, NewRule)))

    async def rule_delete(request: Request, actor: Actor) -> Response:
        await rules.delete(actor, _rule(request))
        return Response(status_code=204)

    async def rule_test(request: Request, actor: Actor) -> Response:
        times = await body_model(request, Times)
        return json_response(await rules.test(actor, _rule(request), _micros(times.start), _micros(times.end)))

    async def rule_try(request: Request, actor: Actor) -> Response:
        trial = await body_model(request, Trial)
        return json_response(await rules.try_out(actor, trial.rule, _micros(trial.start), _micros(trial.end)))

    async def alarm_list(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.find(
            actor, state=text(request, "state"), org=text(request, "org"), no=_number(request, "no"),
            severity=text(request, "severity"), assigned=text(request, "assigned"), rule=text(request, "rule"),
            group=_number(request, "group"), grouped=bool(flag(request, "grouped")), limit=limit_of(request),
            after=text(request, "after"), count=bool(flag(request, "count")),
        ))

    async def alarm_get(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.get(actor, _alarm(request)))

    async def alarm_acknowledge(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.acknowledge(actor, _alarm(request)))

    async def alarm_assign(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.assign(actor, _alarm(request), await body_model(request, Assignment)))

    async def alarm_silence(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.silence(actor, _alarm(request), await body_model(request, Silence)))

    async def alarm_comment(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.comment(actor, _alarm(request), await body_model(request, Comment)))

    async def alarm_clear(request: Request, actor: Actor) -> Response:
        return json_response(await alarms.clear(actor, _alarm(request)))

    async def channel_list(request: Request, actor: Actor) -> Response:
        return json_response(await channels.find(actor, text(request, "org")))

    async def channel_create(request: Request, actor: Actor) -> Response:
        return json_response(await channels.create(actor, await body_model(request, NewChannel)), 201)

    async def channel_put(request: Request, actor: Actor) -> Response:
        return json_response(await channels.change(actor, _channel(request), await body_model(request, NewChannel)))

    async def channel_delete(request: Request, actor: Actor) -> Response:
        await channels.delete(actor, _channel(request))
        return Response(status_code=204)

    def at(method: str, path: str, handler: Handler) -> BaseRoute:
        return route(house, method, API + path, handler)

    return [
        at("GET", "/rules", rule_list),
        at("POST", "/rules", rule_create),
        at("POST", "/rules/test", rule_try),
        at("GET", "/rules/{id}", rule_get),
        at("PUT", "/rules/{id}", rule_put),
        at("DELETE", "/rules/{id}", rule_delete),
        at("POST", "/rules/{id}/test", rule_test),
        at("GET", "/alarms", alarm_list),
        at("GET", "/alarms/{id}", alarm_get),
        at("POST", "/alarms/{id}/acknowledge", alarm_acknowledge),
        at("POST", "/alarms/{id}/assign", alarm_assign),
        at("POST", "/alarms/{id}/silence", alarm_silence),
        at("POST", "/alarms/{id}/comment", alarm_comment),
        at("POST", "/alarms/{id}/clear", alarm_clear),
        at("GET", "/alarm-channels", channel_list),
        at("POST", "/alarm-channels", channel_create),
        at("PUT", "/alarm-channels/{id}", channel_put),
        at("DELETE", "/alarm-channels/{id}", channel_delete),
    ]


def _micros(when: datetime) -> int:
    return round(when.timestamp() * 1e6)
