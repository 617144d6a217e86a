"""Operations on openings: offer, find the nearest, apply, review, decide, end.

Law: what is open is seen by everyone who is signed in; an application only by the two organisations that it concerns. A decision is made
under the opening's lock, by another person than the applicant, with the reviews that the opening needs, and gives no place twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa

from tulou.context import haversine
from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Invalid, NotFound
from tulou.kernel.policy import Actor, operation
from tulou.kernel.sql import utcnow, within
from tulou.plan.models import Decision
from tulou.plan.openings.models import (
    NewApplication,
    NewOpening,
    NewReview,
    plan_applications,
    plan_openings,
    plan_reviews,
)
from tulou.plan.papers import a_person, file_kept, file_of, keep, name_of, not_own, person_of
from tulou.plan.projects.service import paper_document

if TYPE_CHECKING:
    from tulou.kernel.house import House

READ, OFFER = "plan.opening.read", "plan.opening.create"
SEE, APPLY, JUDGE = "plan.application.read", "plan.application.create", "plan.application.approve"
DEGREE = 111_195.0
"""Metres of a degree of latitude on the sphere of `haversine`."""
_open, _apps = plan_openings.c, plan_applications.c


def no_such_opening(no: object) -> NotFound:
    return NotFound(f"没有开放项 {no}", f"there is no opening {no}", field="opening", value=no)


def no_such_application(no: object) -> NotFound:
    return NotFound(f"没有申请 {no}", f"there is no application {no}", field="application", value=no)


class Openings:
    """The registry of what is shared and called for."""

    def __init__(self, house: House, org: str) -> None:
        self.db, self.policy, self.org = house.db, house.policy, org

    @operation(OFFER)
    async def offer(self, actor: Actor, new: NewOpening) -> dict[str, Any]:
        """Open something to others."""
        self.policy.require(actor, OFFER, new.org)

        def write(connection: sa.Connection) -> Any:
            row = connection.execute(plan_openings.insert().values(
                **new.model_dump(), closed=False, created_by=person_of(actor), created_at=utcnow()
            ).returning(plan_openings)).one()
            audit.record(connection, actor, OFFER, new.org, f"opening {row.no}", {"kind": new.kind, "title": new.title})
            return row

        try:
            return _opening(await self.db.write(write), 0)
        except sa.exc.IntegrityError:
            raise Invalid(f"没有组织 {new.org}", f"there is no organisation {new.org}", field="org", value=new.org, rule="organisation") from None

    @operation(OFFER)
    async def close(self, actor: Actor, no: int) -> dict[str, Any]:
        """Take no more applications."""
        row = await self._row(actor, no)
        self.policy.require(actor, OFFER, row.org)

        def write(connection: sa.Connection) -> Any:
            audit.record(connection, actor, OFFER, row.org, f"opening {no}", {"closed": True})
            made = connection.execute(plan_openings.update().where(_open.no == no).values(closed=True).returning(plan_openings)).one()
            return _opening(made, _taken(connection, [no]).get(no, 0))

        return await self.db.write(write)

    @operation(READ)
    async def find(
        self, actor: Actor, *, kind: str | None = None, org: str | None = None, near: tuple[float, float] | None = None, within_m: float = 20_000,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """What is open now; with `near` (longitude, latitude) what is within so many metres, the nearest first, with its `distance_m`."""
        self.policy.require(actor, READ, self.org)
        query = sa.select(plan_openings).where(_open.closed.is_(False), sa.or_(_open.closes.is_(None), _open.closes > utcnow()))
        for column, value in ((_open.kind, kind), (_open.org, org)):
            if value is not None:
                query = query.where(column == value)
        if near is None:
            query = query.order_by(_open.no.desc()).limit(limit)
            rows = await self.db.read(lambda c: c.execute(query).all())
            return await self.db.read(lambda c: [_opening(row, taken) for row, taken in _with_taken(c, rows)])
        lon, lat = near
        high = within_m / DEGREE
        wide = min(180.0, high / max(0.01, math.cos(math.radians(min(89.0, abs(lat) + high)))))
        query = query.where(_open.lat.between(lat - high, lat + high), _open.lon.between(lon - wide, lon + wide))

        def read(connection: sa.Connection) -> list[dict[str, Any]]:
            found = connection.execute(query).all()
            far = haversine(np.array([row.lon for row in found]), np.array([row.lat for row in found]), lon, lat)
            nearest = [(metres, row) for metres, row in sorted(zip(far.tolist(), found, strict=True), key=lambda one: (one[0], one[1].no))
                       if metres <= within_m][:limit]
            taken = _taken(connection, [row.no for _, row in nearest])
            return [{**_opening(row, taken.get(row.no, 0)), "distance_m": round(metres)} for metres, row in nearest]

        return await self.db.read(read)

    @operation(READ)
    async def opening(self, actor: Actor, no: int) -> dict[str, Any]:
        """An opening, with the applications that the actor may see (`applications`) and their reviews, which only its own organisation
        sees; and whether he may decide."""
        row = await self._row(actor, no)
        own = self.policy.allows(actor, SEE, row.org)
        seen = self.policy.visible(actor, SEE)
        query = sa.select(plan_applications).where(_apps.opening == no).order_by(_apps.no)
        if not own:
            query = query.where(*within(_apps.org, seen))

        def read(connection: sa.Connection) -> dict[str, Any]:
            apps = connection.execute(query).all()
            made: dict[int, list[Any]] = {}
            if own:
                for one in connection.execute(sa.select(plan_reviews).where(plan_reviews.c.application.in_([app.no for app in apps]))):
                    made.setdefault(one.application, []).append(one)
            return {
                **_opening(row, _taken(connection, [no]).get(no, 0)), "applications": [_application(app, made.get(app.no, [])) for app in apps],
            }

        return {**await self.db.read(read), "may_decide": self.policy.allows(actor, JUDGE, row.org)}

    async def _row(self, actor: Actor, no: int) -> Any:
        self.policy.require(actor, READ, self.org)
        row = await self.db.read(lambda c: c.execute(sa.select(plan_openings).where(_open.no == no)).first())
        if row is None:
            raise no_such_opening(no)
        return row

    @operation(APPLY)
    async def apply(self, actor: Actor, no: int, new: NewApplication) -> dict[str, Any]:
        """Apply for an opening of another organisation. One application of an organisation is open at a time."""
        self.policy.require(actor, APPLY, new.org)
        row = await self._row(actor, no)
        person, content = a_person(actor), file_of(new)
        if row.org == new.org:
            raise Conflict("不能申请本单位开放的", "an organisation does not apply for its own", field="org", value=new.org, rule="another organisation")

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            fresh = connection.execute(sa.select(plan_openings).where(_open.no == no)).one()
            if fresh.closed or (fresh.closes is not None and fresh.closes <= utcnow()):
                raise Conflict("已停止接受申请", "it takes no more applications", field="opening", value=no, rule="open")
            if connection.execute(sa.select(_apps.no).where(
                _apps.opening == no, _apps.org == new.org, _apps.state.in_(("submitted", "accepted"))
            )).first():
                raise Conflict("已有一份申请", "the organisation has an application already", field="org", value=new.org, rule="one at a time")
            made = connection.execute(plan_applications.insert().values(
                opening=no, org=new.org, state="submitted", evidence_text=new.evidence_text, evidence_name=new.evidence_name,
                evidence_sha256=keep(connection, content), submitted_by=person, submitted_name=name_of(actor), submitted_at=utcnow(),
            ).returning(plan_applications)).one()
            audit.record(connection, actor, APPLY, new.org, f"opening {no}", {"application": made.no})
            return made

        return _application(await self.db.write(write), [])

    @operation(JUDGE)
    async def review(self, actor: Actor, application: int, new: NewReview) -> dict[str, Any]:
        """Review an application, once; never one's own or one's own organisation's."""
        app, opening = await self._application(actor, application)
        self.policy.require(actor, JUDGE, opening.org)
        person = a_person(actor)
        not_own(person, app.submitted_by)
        if actor.org == app.org:
            raise Conflict("不能评审本单位的申请", "nobody reviews an application of his own organisation", field="org", value=app.org,
                           rule="another organisation")

        def write(connection: sa.Connection) -> None:
            audit.hold(connection)
            state = connection.execute(sa.select(_apps.state).where(_apps.no == application)).scalar_one()
            known = connection.execute(sa.select(plan_reviews.c.score).where(
                plan_reviews.c.application == application, plan_reviews.c.person == person
            )).first()
            if state != "submitted" or known is not None:
                raise Conflict("已评审或已裁定", "it was reviewed or decided already", field="application", value=application,
                               rule="once, before the decision")
            connection.execute(plan_reviews.insert().values(
                application=application, person=person, name=name_of(actor), score=new.score, text=new.text, at=utcnow()
            ))
            audit.record(connection, actor, JUDGE, opening.org, f"opening {opening.no}", {"application": application, "score": new.score})

        await self.db.write(write)
        return await self.opening(actor, opening.no)

    @operation(JUDGE)
    async def decide(self, actor: Actor, application: int, accepted: bool, decision: Decision) -> dict[str, Any]:
        """Accept an application, where a place is free and the reviews are there, or refuse it and say why. Never by who submitted it."""
        app, opening = await self._application(actor, application)
        self.policy.require(actor, JUDGE, opening.org)
        person = a_person(actor)
        not_own(person, app.submitted_by)
        if not accepted and not decision.note.strip():
            raise Invalid("退回须说明理由", "a refusal says why", field="note", value="", rule="not empty")

        def write(connection: sa.Connection) -> Any:
            audit.hold(connection)
            connection.execute(sa.select(_open.no).where(_open.no == opening.no).with_for_update())
            state = connection.execute(sa.select(_apps.state).where(_apps.no == application)).scalar_one()
            if state != "submitted":
                raise Conflict("申请已裁定", "the application was decided", field="state", value=state, rule="submitted")
            count = connection.execute(sa.select(sa.func.count()).where(plan_reviews.c.application == application)).scalar_one()
            if count < opening.reviews:
                raise Conflict(
                    f"须有 {opening.reviews} 份评审，现有 {count} 份", f"{opening.reviews} reviews are needed, {count} are there",
                    field="reviews", value=count, rule=f">= {opening.reviews}",
                )
            if accepted and _taken(connection, [opening.no]).get(opening.no, 0) >= opening.places:
                raise Conflict("没有空位了", "no place is free", field="places", value=opening.places, rule="a free place")
            audit.record(connection, actor, JUDGE, opening.org, f"opening {opening.no}", {"application": application, "accepted": accepted})
            return connection.execute(plan_applications.update().where(_apps.no == application).values(
                state="accepted" if accepted else "refused", decided_by=person, decided_name=name_of(actor), decided_at=utcnow(), note=decision.note
            ).returning(plan_applications)).one()

        return _application(await self.db.write(write), [])

    @operation(APPLY)
    async def end(self, actor: Actor, application: int) -> dict[str, Any]:
        """Give a place back: by the organisation that has it."""
        app, opening = await self._application(actor, application)
        self.policy.require(actor, APPLY, app.org)

        def write(connection: sa.Connection) -> Any:
            made = connection.execute(plan_applications.update().where(_apps.no == application, _apps.state == "accepted").values(
                state="ended", ended_at=utcnow()
            ).returning(plan_applications)).first()
            if made is None:
                raise Conflict("只有在用的可以结束", "only what was accepted ends", field="state", value=app.state, rule="accepted")
            audit.record(connection, actor, APPLY, app.org, f"opening {opening.no}", {"application": application, "ended": True})
            return made

        return _application(await self.db.write(write), [])

    @operation(SEE)
    async def evidence(self, actor: Actor, application: int) -> tuple[str, bytes]:
        """The file of an application: its name and content. Raises `NotFound` if it has none."""
        app, _ = await self._application(actor, application)
        return await self.db.read(lambda c: file_kept(c, app, f"application-{application}"))

    async def _application(self, actor: Actor, no: int) -> tuple[Any, Any]:
        """The application and its opening, if the actor may see it in either organisation."""
        def read(connection: sa.Connection) -> tuple[Any, Any]:
            app = connection.execute(sa.select(plan_applications).where(_apps.no == no)).first()
            return app, app and connection.execute(sa.select(plan_openings).where(_open.no == app.opening)).one()

        app, opening = await self.db.read(read)
        seen = self.policy.require_any(actor, SEE)
        if app is None or (app.org not in seen and opening.org not in seen):
            raise no_such_application(no)
        return app, opening


def _taken(connection: sa.Connection, openings: list[int]) -> dict[int, int]:
    rows = connection.execute(sa.select(_apps.opening, sa.func.count()).where(
        _apps.opening.in_(openings), _apps.state == "accepted"
    ).group_by(_apps.opening))
    return {row[0]: row[1] for row in rows}


def _with_taken(connection: sa.Connection, rows: Any) -> list[tuple[Any, int]]:
    taken = _taken(connection, [row.no for row in rows])
    return [(row, taken.get(row.no, 0)) for row in rows]


def _opening(row: Any, taken: int) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in (*NewOpening.model_fields, "no", "closed", "created_at")}, "free": row.places - taken}


def _application(row: Any, reviews: list[Any]) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in ("no", "opening", "org", "state", "ended_at")}, **paper_document(row),
        "reviews": [{"name": one.name, "score": one.score, "text": one.text, "at": one.at} for one in reviews],
        "mean": round(sum(one.score for one in reviews) / len(reviews), 2) if reviews else None,
    }
