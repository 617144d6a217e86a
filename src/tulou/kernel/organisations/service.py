"""Operations on organisations, people and their roles.

Law: nobody gives what he does not hold: a role in an organisation is granted only by its administrator (of the whole
subtree for a subtree role), `platform_admin` only by a platform administrator, and nobody touches a person who holds a
role that he could not grant. Who applied for an organisation does not decide on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from tulou.kernel.organisations import passwords
from tulou.kernel.organisations.models import (
    Application,
    NewUser,
    RoleGrant,
    organisations,
    role_bindings,
    sessions,
    users,
)
from tulou.kernel.policy import ROOT, Actor, Binding, operation, refusal, system
from tulou.kernel.sql import utcnow, within

if TYPE_CHECKING:
    from tulou.kernel.house import House
    from tulou.kernel.organisations.credentials import Credentials

log = logging.getLogger("tulou.organisations")

SEED = system("seed")


def no_such(field: str, value: Any) -> NotFound:
    """The error for a thing that does not exist or that the actor may not know of."""
    return NotFound(f"没有 {value}", f"there is no {value}", field=field, value=value)


async def announce(house: House, what: str, key: str = "") -> None:
    """Tell the other processes that rows of `what` changed, if the house has a bus."""
    if hasattr(house, "bus"):
        await house.bus.changed(what, key)


class Organisations:
    """The tree of organisations: apply, approve or reject, suspend, resume."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.rows: dict[str, dict[str, Any]] = {}
        self.when_changed: list[Callable[[], None]] = []
        self._reloading = asyncio.Lock()

    async def reload(self) -> None:
        """Read the tree again and hand it to the policy. Below a suspended organisation everything is suspended.

        One at a time: an older reading that ends late must not take the place of a newer one.
        """
        async with self._reloading:
            found = await self.house.db.read(lambda c: c.execute(sa.select(organisations)).mappings().all())
            self._take(found)

    def _take(self, found: Iterable[Any]) -> None:
        rows = {row["id"]: dict(row) for row in found}
        if rows == self.rows:
            return
        parents = {key: row["parent"] for key, row in rows.items()}
        closed: set[str] = set()
        for key in rows:
            path: list[str] = []
            current: str | None = key
            while current is not None and current not in path:
                path.append(current)
                if current in closed or rows[current]["state"] != "approved":
                    closed.update(path)
                    break
                current = parents.get(current)
        self.rows = rows
        self.policy.set_organisations(parents, closed)
        for callback in self.when_changed:
            callback()

    async def changed(self) -> None:
        """After a change: reload here, and tell every other process."""
        await self.reload()
        await announce(self.house, "organisations")

    async def seed(self) -> None:
        """Create the root and every pack's organisations that are missing, approved. Idempotent."""
        root = {"id": ROOT, "name_zh": "土楼", "name_en": "Tulou", "kind": "house", "parent": None}
        wanted: list[dict[str, Any]] = [root]
        seeds = {seed.id: seed for pack in self.house.packs.packs.values() for seed in pack.organisations}
        placed: set[str] = {ROOT}
        while len(placed) <= len(seeds):
            ready = [s for s in seeds.values() if s.id not in placed and (s.parent or ROOT) in placed]
            if not ready:
                lost = next(s for s in seeds.values() if s.id not in placed)
                raise Invalid(
                    f"组织 {lost.id} 的上级 {lost.parent} 不存在", f"organisation {lost.id}: no parent {lost.parent}",
                    field="parent", value=lost.parent, rule="a declared organisation",
                )
            for s in ready:
                placed.add(s.id)
                wanted.append({
                    "id": s.id, "name_zh": s.label.zh, "name_en": s.label.en, "kind": s.kind, "code": s.code,
                    "parent": s.parent or ROOT, "lon": s.lon, "lat": s.lat,
                })

        def write(connection: sa.Connection) -> int:
            known = set(connection.execute(sa.select(organisations.c.id)).scalars())
            fresh = [row for row in wanted if row["id"] not in known]
            now = utcnow()
            for row in fresh:
                connection.execute(
                    organisations.insert().values(
                        **{"code": "", "lon": None, "lat": None, **row}, state="approved", applied_by=SEED.id,
                        applied_at=now, decided_by=SEED.id, decided_at=now, reason="",
                    )
                )
            if fresh:
                audit.record(connection, SEED, "organisations.org.create", ROOT, detail={"ids": [r["id"] for r in fresh]})
            return len(fresh)

        known = await self.house.db.read(lambda c: set(c.execute(sa.select(organisations.c.id)).scalars()))
        if any(row["id"] not in known for row in wanted):
            await self.house.db.write(write)
        await self.reload()

    def name(self, org: str) -> str:
        """The Chinese name, or the id of one that is unknown."""
        row = self.rows.get(org)
        return str(row["name_zh"]) if row else org

    def active(self, org: str) -> bool:
        """Whether `org` and everything above it is approved and not suspended."""
        return org in self.rows and all(
            self.rows[above]["state"] == "approved" for above in self.policy.ancestors(org) if above in self.rows
        )

    def below(self, org: str) -> list[str]:
        """`org` and every organisation below it."""
        return [key for key in self.rows if org in self.policy.ancestors(key)]

    def must_have(self, org: str) -> None:
        """Raises `Invalid` for an organisation that there is not."""
        if org not in self.rows:
            raise Invalid(f"没有机构 {org}", f"there is no organisation {org}", field="org", value=org, rule="an organisation's id")

    @operation("organisations.org.read")
    async def search(
        self, actor: Actor, *, state: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Organisations in order of id: those the actor may read, those above them (by name only, so that the tree
        hangs together), and applications and suspended ones for whoever decides on them."""
        orgs = self.policy.visible(actor, "organisations.org.read")
        if actor.kind == "anonymous":
            raise refusal(actor, "organisations.org.read")
        mine = {key for key, row in self.rows.items() if row["applied_by"] in (actor.id, actor.person) and actor.person}
        decides = self.policy.visible(actor, "organisations.org.approve")
        mine |= {key for key, row in self.rows.items() if row["parent"] in decides}
        above = {up for key in (orgs.ids if not orgs.all else ()) for up in self.policy.ancestors(key)}
        items = []
        for key in sorted(self.rows):
            if after is not None and key <= after:
                continue
            if key not in orgs and key not in mine and key not in above:
                continue
            if state is not None and self.rows[key]["state"] != state:
                continue
            items.append(self._document(key))
            if len(items) == limit:
                break
        return items

    def _document(self, key: str) -> dict[str, Any]:
        row = self.rows[key]
        fields = ("id", "name_zh", "name_en", "kind", "parent", "state", "lon", "lat", "code")
        return {
            **{f: row[f] for f in fields}, "applied_by": row["applied_by"], "applied_at": row["applied_at"].isoformat(),
            "decided_by": row["decided_by"], "reason": row["reason"],
        }

    @operation("organisations.application.create")
    async def apply(self, actor: Actor, application: Application) -> dict[str, Any]:
        """Ask to be admitted below `parent`. Raises `Conflict` when the id is taken, `NotFound` for no parent."""
        self.policy.require(actor, "organisations.application.create", actor.org)
        if not self.active(actor.org):
            raise refusal(actor, "organisations.application.create")
        if not self.active(application.parent):
            raise no_such("parent", application.parent)
        if application.id in self.rows:
            raise Conflict(
                f"组织 {application.id} 已存在", f"organisation {application.id} exists", field="id", value=application.id
            )

        def write(connection: sa.Connection) -> None:
            connection.execute(
                organisations.insert().values(
                    **application.model_dump(), state="applied", applied_by=actor.person or actor.id,
                    applied_at=utcnow(), reason="",
                )
            )
            audit.record(
                connection, actor, "organisations.application.create", application.parent, application.id,
                application.model_dump(),
            )

        try:
            await self.house.db.write(write)
        except sa.exc.IntegrityError:
            raise Conflict(
                f"组织 {application.id} 已存在", f"organisation {application.id} exists", field="id", value=application.id
            ) from None
        await self.changed()
        return self._document(application.id)

    @operation("organisations.org.approve")
    async def approve(self, actor: Actor, org: str, reason: str = "") -> dict[str, Any]:
        """Admit an applicant. By an administrator of the parent who did not apply himself."""
        return await self._decide(actor, org, "approve", ("applied",), "approved", reason)

    @operation("organisations.org.approve")
    async def reject(self, actor: Actor, org: str, reason: str = "") -> dict[str, Any]:
        """Refuse an applicant. By an administrator of the parent who did not apply himself."""
        return await self._decide(actor, org, "reject", ("applied",), "rejected", reason)

    @operation("organisations.org.approve")
    async def suspend(self, actor: Actor, org: str, reason: str = "") -> dict[str, Any]:
        """Suspend an organisation and all below it: its people, tokens and devices lose everything at once."""
        return await self._decide(actor, org, "suspend", ("approved",), "suspended", reason)

    @operation("organisations.org.approve")
    async def resume(self, actor: Actor, org: str, reason: str = "") -> dict[str, Any]:
        """Lift a suspension."""
        return await self._decide(actor, org, "resume", ("suspended",), "approved", reason)

    async def _decide(
        self, actor: Actor, org: str, verb: str, before: tuple[str, ...], state: str, reason: str
    ) -> dict[str, Any]:
        row = self.rows.get(org)
        parent = row["parent"] if row and row["parent"] else ROOT
        if not self.policy.allows(actor, "organisations.org.approve", parent):
            if row is None or org not in self.policy.visible(actor, "organisations.org.read"):
                if actor.kind == "anonymous":
                    raise refusal(actor, "organisations.org.approve")
                raise no_such("id", org)
            await audit.note(self.house.db, actor, f"organisations.org.{verb}", org, org, outcome="denied")
            raise refusal(actor, "organisations.org.approve")
        if row is None:
            raise no_such("id", org)
        if org == ROOT:
            raise Invalid("根组织不可变更", "the root organisation cannot change", field="id", value=org, rule="not root")
        if verb in ("approve", "reject") and row["applied_by"] in (actor.id, actor.person):
            await audit.note(self.house.db, actor, f"organisations.org.{verb}", parent, org, outcome="denied")
            raise Forbidden(
                "申请人不能审批自己的申请", "an applicant does not decide on his own application",
                field="id", value=org, rule="a second person decides",
            )

        def write(connection: sa.Connection) -> None:
            done = connection.execute(
                organisations.update()
                .where(organisations.c.id == org, organisations.c.state.in_(before))
                .values(state=state, reason=reason, decided_by=actor.person or actor.id, decided_at=utcnow())
            )
            if done.rowcount != 1:
                raise Conflict(
                    f"组织 {org} 的状态为 {row['state']}，不能执行此操作", f"{org} is {row['state']}: cannot {verb}",
                    field="state", value=row["state"], rule=f"one of {', '.join(before)}",
                )
            audit.record(connection, actor, f"organisations.org.{verb}", parent, org, {"reason": reason})

        await self.house.db.write(write)
        await self.changed()
        return self._document(org)


class People:
    """People and the roles they hold."""

    def __init__(self, house: House, orgs: Organisations, credentials: Credentials) -> None:
        self.house = house
        self.policy = house.policy
        self.orgs = orgs
        self.credentials = credentials

    def may_grant(self, actor: Actor, org: str, role: str, subtree: bool) -> bool:
        """Whether `actor` may give or take this role: the policy says so in `org`, and the actor administers as much."""
        if not self.policy.allows(actor, "organisations.role.manage", org):
            return False
        if actor.kind == "system" or any(b.role == "platform_admin" for b in actor.roles):
            return True
        if role == "platform_admin" or org == ROOT:
            return False
        above = set(self.policy.ancestors(org))
        return any(
            b.role == "admin" and ((b.subtree and b.org in above) or (b.org == org and not subtree)) for b in actor.roles
        )

    def _require_grants(self, actor: Actor, grants: Iterable[RoleGrant | Binding]) -> None:
        for grant in grants:
            if grant.org not in self.orgs.rows:
                raise no_such("org", grant.org)
            if not self.may_grant(actor, grant.org, grant.role, grant.subtree):
                raise Forbidden(
                    f"您不能授予或撤销 {grant.org} 的角色 {grant.role}",
                    f"you may not give or take the role {grant.role} in {grant.org}",
                    field="roles", value=f"{grant.org}:{grant.role}", rule="administer what you grant",
                )

    @staticmethod
    def _bindings(connection: sa.Connection, user_id: int) -> set[Binding]:
        rows = connection.execute(sa.select(role_bindings).where(role_bindings.c.user_id == user_id))
        return {Binding(row.org, row.role, row.subtree) for row in rows}

    async def _target(self, actor: Actor, user_id: int, action: str) -> Any:
        """The person, if the actor may `action` in his organisation and could grant all he holds."""
        query = sa.select(users).where(users.c.id == user_id)
        row, held = await self.house.db.read(lambda c: (c.execute(query).first(), self._bindings(c, user_id)))
        home = row.org if row is not None else ROOT
        if not self.policy.allows(actor, action, home):
            if row is not None and home in self.policy.visible(actor, "organisations.user.read"):
                await audit.note(self.house.db, actor, action, home, f"user:{row.name}", outcome="denied")
                raise refusal(actor, action)
            if actor.kind == "anonymous":
                raise refusal(actor, action)
            raise no_such("id", user_id)
        if row is None:
            raise no_such("id", user_id)
        self._require_grants(actor, held)
        return row

    @operation("organisations.user.read")
    async def search(
        self, actor: Actor, *, org: str | None = None, state: str | None = None, limit: int = 50, after: int | None = None
    ) -> list[dict[str, Any]]:
        """People of the organisations the actor may read, in order of id, with their roles there."""
        orgs = self.policy.require_any(actor, "organisations.user.read").narrow(org)
        if not orgs:
            return []
        query = sa.select(users).order_by(users.c.id).limit(limit)
        query = query.where(*within(users.c.org, orgs))
        if state is not None:
            query = query.where(users.c.state == state)
        if after is not None:
            query = query.where(users.c.id > after)

        def read(connection: sa.Connection) -> list[dict[str, Any]]:
            rows = connection.execute(query).all()
            roles: dict[int, list[dict[str, Any]]] = {row.id: [] for row in rows}
            bound = sa.select(role_bindings).where(role_bindings.c.user_id.in_(list(roles)))
            for b in connection.execute(bound.order_by(role_bindings.c.org, role_bindings.c.role)):
                roles[b.user_id].append({"org": b.org, "role": b.role, "subtree": b.subtree})
            return [self._document(row, roles[row.id]) for row in rows]

        return await self.house.db.read(read)

    def _document(self, row: Any, roles: Iterable[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": row.id, "name": row.name, "display": row.display, "org": row.org, "org_name": self.orgs.name(row.org),
            "state": row.state, "email": row.email, "oidc": row.oidc_subject is not None,
            "must_change_password": row.must_change_password,
            "signed_in_at": row.signed_in_at.isoformat() if row.signed_in_at else None, "roles": [*roles],
        }

    @operation("organisations.user.create")
    async def create(self, actor: Actor, person: NewUser) -> dict[str, Any]:
        """Make a person; he changes the password at first sign-in. A random password is in the answer, once."""
        self.policy.require(actor, "organisations.user.create", person.org)
        if person.org not in self.orgs.rows:
            raise no_such("org", person.org)
        self._require_grants(actor, person.roles)
        password = person.password if person.password is not None else passwords.random_password()
        passwords.check_rules(person.name, password)
        hashed = await passwords.hashed(password)

        def write(connection: sa.Connection) -> Any:
            key = insert_user(
                connection, name=person.name, display=person.display, org=person.org, password_hash=hashed,
                state="active", must_change_password=True, email=person.email, roles=person.roles,
            )
            audit.record(
                connection, actor, "organisations.user.create", person.org, f"user:{person.name}",
                {"roles": [g.model_dump() for g in person.roles]},
            )
            return connection.execute(sa.select(users).where(users.c.id == key)).one()

        try:
            row = await self.house.db.write(write)
        except sa.exc.IntegrityError:
            raise Conflict(
                f"用户名 {person.name} 已被使用", f"the name {person.name} is taken", field="name", value=person.name
            ) from None
        made = self._document(row, [g.model_dump() for g in person.roles])
        return made if person.password is not None else {**made, "password": password}

    @operation("organisations.role.manage")
    async def set_roles(self, actor: Actor, user_id: int, grants: list[RoleGrant]) -> dict[str, Any]:
        """Replace a person's roles; each one added or taken away must be the actor's to grant."""
        query = sa.select(users).where(users.c.id == user_id)
        row, held = await self.house.db.read(lambda c: (c.execute(query).first(), self._bindings(c, user_id)))
        wanted = {Binding(g.org, g.role, g.subtree) for g in grants}
        if len({(b.org, b.role) for b in wanted}) != len(wanted):
            raise Invalid("同一角色重复", "a role appears twice", field="roles", rule="unique org and role")
        reach = {b.org for b in wanted | held} | ({row.org} if row is not None else {ROOT})
        may = [o for o in reach if self.policy.allows(actor, "organisations.role.manage", o)]
        known = row is not None and row.org in self.policy.visible(actor, "organisations.user.read")
        if row is None or not (may or known):
            if actor.kind == "anonymous":
                raise refusal(actor, "organisations.role.manage")
            raise no_such("id", user_id)
        try:
            self._require_grants(actor, wanted ^ held)
        except Forbidden:
            await audit.note(
                self.house.db, actor, "organisations.role.manage", row.org, f"user:{row.name}", outcome="denied"
            )
            raise
        if not may:
            raise refusal(actor, "organisations.role.manage")

        def write(connection: sa.Connection) -> None:
            if self._bindings(connection, user_id) != held:
                raise Conflict("角色已被他人修改，请重试", "the roles changed meanwhile; try again", field="roles")
            connection.execute(role_bindings.delete().where(role_bindings.c.user_id == user_id))
            insert_roles(connection, user_id, grants)
            self._keep_an_administrator(connection)
            audit.record(
                connection, actor, "organisations.role.manage", row.org, f"user:{row.name}",
                {"added": [b._asdict() for b in sorted(wanted - held)], "taken": [b._asdict() for b in sorted(held - wanted)]},
            )

        await self.house.db.write(write)
        await self.credentials.changed()
        return self._document(row, [g.model_dump() for g in grants])

    @operation("organisations.user.manage")
    async def disable(self, actor: Actor, user_id: int) -> None:
        """Disable a person: his sessions end and his tokens stop working at once."""
        row = await self._target(actor, user_id, "organisations.user.manage")

        def write(connection: sa.Connection) -> None:
            connection.execute(users.update().where(users.c.id == user_id).values(state="disabled"))
            connection.execute(sessions.delete().where(sessions.c.user_id == user_id))
            self._keep_an_administrator(connection)
            audit.record(connection, actor, "organisations.user.disable", row.org, f"user:{row.name}")

        await self.house.db.write(write)
        await self.credentials.changed()

    @operation("organisations.user.manage")
    async def enable(self, actor: Actor, user_id: int) -> None:
        """Let a disabled or pending person sign in."""
        row = await self._target(actor, user_id, "organisations.user.manage")

        def write(connection: sa.Connection) -> None:
            connection.execute(users.update().where(users.c.id == user_id).values(state="active"))
            audit.record(connection, actor, "organisations.user.enable", row.org, f"user:{row.name}")

        await self.house.db.write(write)
        await self.credentials.changed()

    @operation("organisations.user.manage")
    async def reset_password(self, actor: Actor, user_id: int) -> str:
        """Give a person a random password, shown once and changed at the next sign-in; his sessions end."""
        row = await self._target(actor, user_id, "organisations.user.manage")
        password = passwords.random_password()
        hashed = await passwords.hashed(password)

        def write(connection: sa.Connection) -> None:
            connection.execute(
                users.update().where(users.c.id == user_id).values(password_hash=hashed, must_change_password=True)
            )
            connection.execute(sessions.delete().where(sessions.c.user_id == user_id))
            audit.record(connection, actor, "organisations.user.reset-password", row.org, f"user:{row.name}")

        await self.house.db.write(write)
        self.credentials.forget_first_password(row.name)
        await self.credentials.changed()
        return password

    @staticmethod
    def _keep_an_administrator(connection: sa.Connection) -> None:
        left = connection.execute(
            sa.select(sa.func.count()).select_from(users.join(role_bindings))
            .where(role_bindings.c.role == "platform_admin", users.c.state == "active")
        ).scalar_one()
        if left == 0:
            raise Conflict(
                "至少要保留一名平台管理员", "at least one active platform administrator must remain",
                field="roles", rule="one platform_admin",
            )


def insert_user(connection: sa.Connection, *, roles: Iterable[RoleGrant] = (), **values: Any) -> int:
    """Insert a person and his roles; returns the id. Raises `IntegrityError` when the name is taken."""
    key = connection.execute(users.insert().values(created_at=utcnow(), **values)).inserted_primary_key
    assert key is not None
    insert_roles(connection, key[0], roles)
    return int(key[0])


def insert_roles(connection: sa.Connection, user_id: int, grants: Iterable[RoleGrant]) -> None:
    """Insert a person's roles."""
    rows = [{"user_id": user_id, "org": g.org, "role": g.role, "subtree": g.subtree} for g in grants]
    if rows:
        connection.execute(role_bindings.insert(), rows)
