"""Sessions, API tokens and the authenticator: from a request to the actor who makes it.

Law: of a credential only its SHA-256 is kept, in the store and in memory. A token never carries rights of its own: it
is its creator's rights of this moment, within the token's organisation and scopes. A revoked credential, a disabled
person and a suspended organisation take effect in every process as soon as the bus has told it, and within `TTL`
seconds even when the bus is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import fnmatch
import hashlib
import re
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tulou.kernel import audit
from tulou.kernel.addresses import household
from tulou.kernel.errors import Forbidden, Invalid, Unauthenticated
from tulou.kernel.http import Scope, header
from tulou.kernel.organisations import passwords
from tulou.kernel.organisations.models import (
    NewToken,
    RoleGrant,
    normal_name,
    role_bindings,
    sessions,
    tokens,
    users,
)
from tulou.kernel.organisations.service import Organisations, announce, insert_user, no_such
from tulou.kernel.organisations.throttle import Throttle
from tulou.kernel.policy import OPERATIONS, ROOT, Actor, Binding, operation, refusal, system
from tulou.kernel.sql import utcnow

if TYPE_CHECKING:
    from tulou.kernel.house import House

COOKIE = "tulou_session"
TTL = 15.0
CACHE = 50_000
SCOPE = re.compile(r"^(\*|[a-z][a-z0-9-]*)(\.(\*|[a-z][a-z0-9-]*)){0,2}\Z")
SAFE = ("GET", "HEAD", "OPTIONS")


def fingerprint(secret: str | bytes) -> str:
    """Hex SHA-256 of a credential with enough random bits to need no salt."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).hexdigest()


def limited(bindings: Iterable[Binding], org: str, above: Iterable[str]) -> frozenset[Binding]:
    """What of a creator's bindings a token of `org` has: those that reach `org`, cut to it.

    A platform administrator's token is `admin` of its organisation's subtree, unless it belongs to the root.
    """
    reach = set(above)
    found: set[Binding] = set()
    for b in bindings:
        if b.role == "platform_admin":
            found.add(b if org == ROOT else Binding(org, "admin", True))
        elif b.org == org:
            found.add(b)
        elif b.subtree and b.org in reach:
            found.add(Binding(org, b.role, True))
    return frozenset(found)


class _Entry:
    """A cached credential."""

    __slots__ = ("actor", "fresh_until", "token_id")

    def __init__(self, actor: Actor, until: float, token_id: int | None) -> None:
        now = time.time()
        self.actor = actor
        self.fresh_until = min(now + TTL, until)
        self.token_id = token_id


class Credentials:
    """Signs people in and out, issues and revokes tokens, and finds the actor of every request."""

    def __init__(self, house: House, orgs: Organisations) -> None:
        self.house = house
        self.policy = house.policy
        self.orgs = orgs
        self.by_pair = Throttle(free=5, longest=900, forgive=600)
        self.by_name = Throttle(free=50, longest=60)
        self.by_address = Throttle(free=30, longest=900)
        self.tokens_by_address = Throttle(free=30, longest=300, forgive=10)
        self._cache: dict[bytes, _Entry] = {}
        self._generation = 0
        self._used: dict[int, float] = {}
        self._denied_at: dict[str, float] = {}
        orgs.when_changed.append(self.forget)

    # --- who asks -----------------------------------------------------------------------------------------------

    async def actor_of(self, scope: Scope) -> Actor | None:
        """The actor of the bearer token or session cookie; None without either.

        Raises `Unauthenticated` for one that is not valid, `Throttled` for an address that guesses, `Forbidden` for an
        unsafe request by cookie without the header `X-Tulou` (a cross-site form cannot set it).
        """
        cookie: bytes | None = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                key = hashlib.sha256(value).digest()
                entry = self._cache.get(key)
                now = time.time()
                if entry is not None and now < entry.fresh_until:
                    self._used[entry.token_id or 0] = now
                    return entry.actor
                return (await self._bearer(scope, value, key)).actor
            if name == b"cookie" and b"tulou_session=" in value:
                cookie = value
        if cookie is None:
            return None
        secret = _cookie(cookie)
        if not secret:
            return None
        if scope["method"] not in SAFE and header(scope, b"x-tulou") is None:
            raise Forbidden(
                "缺少请求头 X-Tulou", "unsafe requests with a session need the header X-Tulou",
                field="X-Tulou", rule="present",
            )
        key = hashlib.sha256(secret).digest()
        entry = self._cache.get(key)
        if entry is None or time.time() >= entry.fresh_until:
            entry = await self._session(key)
        return entry.actor

    async def _bearer(self, scope: Scope, value: bytes, key: bytes) -> _Entry:
        address = address_of(scope)
        self.tokens_by_address.check(address)
        kind, _, secret = value.decode("latin-1").partition(" ")
        secret = secret.strip()
        generation = self._generation
        try:
            if kind.lower() != "bearer" or not secret.startswith("tulou_"):
                raise invalid_token()
            entry = await self._token(secret)
        except Unauthenticated:
            self.tokens_by_address.failed(address)
            await self._note_refusal(address)
            raise
        self._remember(key, entry, generation)
        return entry

    async def _note_refusal(self, address: str) -> None:
        """Audit refused tokens, at most one row a minute and address."""
        now = time.time()
        if now - self._denied_at.get(address, 0.0) < 60:
            return
        if len(self._denied_at) > 10_000:
            self._denied_at.clear()
        self._denied_at[address] = now
        await audit.note(
            self.house.db, "anonymous", "organisations.token.use", ROOT, detail={"address": address}, outcome="denied"
        )

    def _remember(self, key: bytes, entry: _Entry, generation: int) -> None:
        if generation != self._generation:
            return  # something was revoked since this was read
        self._cache.pop(key, None)
        while len(self._cache) >= CACHE:
            self._cache.pop(next(iter(self._cache)))
        self._cache[key] = entry

    async def _token(self, secret: str) -> _Entry:
        parts = secret.split("_", 2)
        if len(parts) != 3:
            raise invalid_token()
        row = await self._token_row(parts[1])
        if row is None or not secrets.compare_digest(row.digest, fingerprint(secret)):
            raise invalid_token()
        entry = await self._token_entry(row)
        if entry is None:
            raise invalid_token()
        self._used[row.id] = time.time()
        return entry

    async def _token_row(self, prefix: str) -> Any:
        query = (
            sa.select(tokens, users.c.name.label("user"), users.c.org.label("home"), users.c.state.label("user_state"))
            .join(users, users.c.id == tokens.c.user_id)
            .where(tokens.c.prefix == prefix)
        )
        return await self.house.db.read(lambda c: c.execute(query).first())

    async def _token_entry(self, row: Any) -> _Entry | None:
        """The actor of a token's row; None for a token that is not in force."""
        now = utcnow()
        if row.revoked_at is not None or row.user_state != "active" or (row.expires_at and row.expires_at <= now):
            return None
        bindings = await self._bindings(row.user_id)
        if not self._admitted(row.org, bindings) or not self._admitted(row.home, bindings):
            return None
        actor = Actor(
            f"token:{row.prefix}", row.name, row.org, "token", limited(bindings, row.org, self.policy.ancestors(row.org)),
            frozenset(row.scopes), f"user:{row.user}",
        )
        return _Entry(actor, row.expires_at.timestamp() if row.expires_at else float("inf"), row.id)

    async def actor_named(self, id: str) -> Actor | None:
        """The actor that someone is at this moment, for work that he left to the house: None for a person who is
        disabled or whose organisation is, and for a token that is revoked, expired or unknown.

        Remembered as long as a presented credential is, and forgotten with it.
        """
        key = id.encode()
        entry = self._cache.get(key)
        if entry is not None and time.time() < entry.fresh_until:
            return entry.actor
        generation = self._generation
        kind, _, name = id.partition(":")
        if kind == "system":
            return system(name)
        if kind == "token":
            row = await self._token_row(name)
            entry = await self._token_entry(row) if row is not None else None
        elif kind == "user":
            row = await self.house.db.read(lambda c: c.execute(sa.select(users).where(users.c.name == name)).first())
            if row is None or row.state != "active":
                return None
            bindings = await self._bindings(row.id)
            if not self._admitted(row.org, bindings):
                return None
            roles = frozenset() if row.must_change_password else bindings
            entry = _Entry(Actor(id, row.display, row.org, "user", roles, None, id), float("inf"), None)
        if entry is None:
            return None
        self._remember(key, entry, generation)
        return entry.actor

    def _admitted(self, org: str, bindings: frozenset[Binding]) -> bool:
        return self.orgs.active(org) or any(b.role == "platform_admin" for b in bindings)

    async def _bindings(self, user_id: int) -> frozenset[Binding]:
        query = sa.select(role_bindings).where(role_bindings.c.user_id == user_id)
        rows = await self.house.db.read(lambda c: c.execute(query).all())
        return frozenset(Binding(r.org, r.role, r.subtree) for r in rows)

    async def actor_of_session(self, secret: str) -> Actor:
        """The actor of a session's secret. Raises `Unauthenticated`."""
        return (await self._session(hashlib.sha256(secret.encode()).digest())).actor

    async def _session(self, key: bytes) -> _Entry:
        query = (
            sa.select(users, sessions.c.expires_at)
            .join(sessions, sessions.c.user_id == users.c.id)
            .where(sessions.c.digest == key.hex())
        )
        generation = self._generation
        row = await self.house.db.read(lambda c: c.execute(query).first())
        now = utcnow()
        if row is None or row.expires_at <= now or row.state != "active":
            raise Unauthenticated("会话已失效，请重新登录", "the session has ended; sign in again", rule="valid session")
        bindings = await self._bindings(row.id)
        if not self._admitted(row.org, bindings):
            raise Unauthenticated("所属组织已停用", "your organisation is suspended", rule="active organisation")
        expires = row.expires_at
        length = dt.timedelta(hours=self.house.settings.session_hours)
        if expires - now < length * 0.9:
            expires = now + length
            moved = sessions.update().where(sessions.c.digest == key.hex()).values(expires_at=expires)
            await self.house.db.write(lambda c: c.execute(moved) and None)
        roles = frozenset() if row.must_change_password else bindings
        actor = Actor(f"user:{row.name}", row.display, row.org, "user", roles, None, f"user:{row.name}")
        entry = _Entry(actor, expires.timestamp(), None)
        self._remember(key, entry, generation)
        return entry

    def forget(self) -> None:
        """Drop cached credentials; the next request of each reads the store."""
        self._generation += 1
        self._cache.clear()

    async def changed(self) -> None:
        """After people, roles, sessions or tokens changed: forget here and in every other process."""
        self.forget()
        await announce(self.house, "tokens")

    async def write_used(self) -> None:
        """Write the times at which tokens were last used, in one transaction."""
        used, self._used = self._used, {}
        used.pop(0, None)
        if not used:
            return
        rows = [{"token": key, "at": dt.datetime.fromtimestamp(at, dt.UTC)} for key, at in used.items()]
        statement = (
            tokens.update().where(tokens.c.id == sa.bindparam("token")).values(used_at=sa.bindparam("at"))
        )
        await self.house.db.write(lambda c: c.execute(statement, rows) and None)

    async def keep_house(self, _house: House) -> None:
        """The background task: last-used times each 10 s, the tree again each 30 s (a lost message must not matter for
        long), dead sessions each hour."""
        turn = 0
        try:
            while True:
                await asyncio.sleep(10)
                turn += 1
                await self.write_used()
                if turn % 3 == 0:
                    await self.orgs.reload()
                if turn % 360 == 1 and "api" in self.house.roles:
                    old = sessions.delete().where(sessions.c.expires_at < utcnow())
                    await self.house.db.write(lambda c: c.execute(old) and None)  # noqa: B023
        finally:
            with contextlib.suppress(Exception):
                await self.write_used()

    # --- signing in and out -------------------------------------------------------------------------------------

    async def sign_in(self, name: str, password: str, address: str) -> str:
        """Check name and password; returns the secret of a new session.

        Not an operation: it is what makes an actor of nobody. Raises `Unauthenticated` (the same for an unknown name and
        a wrong password), `Throttled`, or `Forbidden` when the person or his organisation is not active.
        """
        return await self.open_session(await self.proven(name, password, address), "password", address)

    async def proven(self, name: str, password: str, address: str) -> Any:
        """The row of the person whose name and password these are, active or not.

        Raises `Unauthenticated` (the same for an unknown name and a wrong password) or `Throttled`.
        """
        name = normal_name(name)[:64]
        pair = f"{name}\n{address}"
        self.by_address.check(address)
        self.by_name.check(name)
        self.by_pair.check(pair)
        row = await self.house.db.read(lambda c: c.execute(sa.select(users).where(users.c.name == name)).first())
        if not await passwords.matches(row.password_hash if row else None, password) or row is None:
            for throttle, key in ((self.by_address, address), (self.by_name, name), (self.by_pair, pair)):
                throttle.failed(key)
            await audit.note(
                self.house.db, f"user:{name}" if row else "anonymous", "organisations.session.create",
                row.org if row else ROOT, f"user:{name}", {"address": address}, "denied",
            )
            raise Unauthenticated("用户名或口令不正确", "wrong name or password", rule="name and password")
        self.by_pair.succeeded(pair)
        if passwords.outdated(row.password_hash):
            better = await passwords.hashed(password)
            change = users.update().where(users.c.id == row.id).values(password_hash=better)
            await self.house.db.write(lambda c: c.execute(change) and None)
        return row

    async def open_session(self, row: Any, method: str, address: str) -> str:
        """A new session of an active person of an active organisation; returns its secret."""
        bindings = await self._bindings(row.id)
        if row.state != "active" or not self._admitted(row.org, bindings):
            await audit.note(
                self.house.db, f"user:{row.name}", "organisations.session.create", row.org, f"user:{row.name}",
                {"address": address, "state": row.state}, "denied",
            )
            if row.state == "pending":
                raise Forbidden("账号待管理员开通", "your account waits for an administrator", field="state", value="pending")
            raise Forbidden("账号或所属组织已停用", "your account or organisation is not active", rule="active")
        secret = secrets.token_urlsafe(32)
        now = utcnow()

        def write(connection: sa.Connection) -> None:
            connection.execute(
                sessions.insert().values(
                    digest=fingerprint(secret), user_id=row.id, method=method, created_at=now,
                    expires_at=now + dt.timedelta(hours=self.house.settings.session_hours),
                )
            )
            connection.execute(users.update().where(users.c.id == row.id).values(signed_in_at=now))
            audit.record(
                connection, f"user:{row.name}", "organisations.session.create", row.org, f"user:{row.name}",
                {"method": method, "address": address},
            )

        await self.house.db.write(write)
        return secret

    async def sign_out(self, secret: str, actor: Actor) -> None:
        """End a session: whoever holds its secret may."""
        def write(connection: sa.Connection) -> None:
            if connection.execute(sessions.delete().where(sessions.c.digest == fingerprint(secret))).rowcount:
                audit.record(connection, actor, "organisations.session.delete", actor.org or ROOT, actor.id)

        await self.house.db.write(write)
        await self.changed()

    @operation("organisations.session.read")
    async def session(self, actor: Actor) -> dict[str, Any]:
        """Who is signed in, and what he may do in at least one of his organisations."""
        self.policy.require(actor, "organisations.session.read", actor.org)
        name = actor.person.removeprefix("user:")
        query = sa.select(users).where(users.c.name == name)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        places = {b.org for b in actor.roles} | {actor.org}
        actions = sorted({o.action for o in OPERATIONS.values()})
        return {
            "user": {
                "id": row.id if row else None, "name": name, "display": row.display if row else actor.name,
                "org": actor.org, "org_name": self.orgs.name(actor.org),
                "must_change_password": bool(row and row.must_change_password),
            },
            "roles": [b._asdict() for b in sorted(actor.roles)],
            "can": [a for a in actions if any(self.policy.allows(actor, a, org) for org in places)],
        }

    @operation("organisations.session.write")
    async def change_password(self, actor: Actor, old: str, new: str, address: str = "") -> str:
        """Change one's own password. Every session ends; returns the secret of a new one."""
        self.policy.require(actor, "organisations.session.write", actor.org)
        name = actor.person.removeprefix("user:")
        query = sa.select(users).where(users.c.name == name)
        row = await self.house.db.read(lambda c: c.execute(query).first())
        if row is None:
            raise no_such("user", name)
        pair = f"{name}\n{address}"
        self.by_pair.check(pair)
        if not await passwords.matches(row.password_hash, old):
            self.by_pair.failed(pair)
            await audit.note(
                self.house.db, actor, "organisations.session.write", row.org, actor.id, outcome="denied"
            )
            raise Invalid("原口令不正确", "the old password is wrong", field="old", rule="present password")
        passwords.check_rules(name, new)
        if new == old:
            raise Invalid("新口令与原口令相同", "the new password is the old one", field="new", rule="different")
        hashed = await passwords.hashed(new)

        def write(connection: sa.Connection) -> Any:
            connection.execute(
                users.update().where(users.c.id == row.id).values(password_hash=hashed, must_change_password=False)
            )
            connection.execute(sessions.delete().where(sessions.c.user_id == row.id))
            audit.record(connection, actor, "organisations.session.write", row.org, actor.id, {"changed": "password"})
            return connection.execute(query).one()

        fresh = await self.house.db.write(write)
        self.forget_first_password(row.name)
        await self.changed()
        return await self.open_session(fresh, "password", address)

    def forget_first_password(self, name: str) -> None:
        """Remove the first administrator's random password, if it is his that was changed."""
        if name == FIRST:
            first_password_file(self.house.settings.home).unlink(missing_ok=True)

    # --- tokens -------------------------------------------------------------------------------------------------

    @operation("organisations.token.create")
    async def create_token(self, actor: Actor, wanted: NewToken) -> dict[str, Any]:
        """Issue a token; `secret` is in the answer and nowhere else. A token makes no tokens."""
        self.policy.require(actor, "organisations.token.create", wanted.org)
        if actor.kind == "system":
            name = normal_name(wanted.user or FIRST)
        elif actor.kind == "user" and wanted.user in (None, actor.person.removeprefix("user:")):
            name = actor.person.removeprefix("user:")
        else:
            raise refusal(actor, "organisations.token.create")
        known = {o.action for o in OPERATIONS.values()}
        for scope in wanted.scopes:
            if not SCOPE.match(scope) or not fnmatch.filter(known, scope):
                raise Invalid(
                    f"范围 {scope} 不是动作或动作模式", f"scope {scope} is not an action or a pattern of actions",
                    field="scopes", value=scope, rule="matches an action engine.thing.verb; * for any part",
                )
        now = utcnow()
        expires = wanted.expires_at
        if expires is not None:
            expires = expires.replace(tzinfo=dt.UTC) if expires.tzinfo is None else expires
            if expires <= now:
                raise Invalid(
                    "到期时间已过", "expires_at is in the past", field="expires_at", value=expires, rule="in the future"
                )
        prefix = secrets.token_hex(5)
        secret = f"tulou_{prefix}_{secrets.token_urlsafe(32)}"
        if wanted.org not in self.orgs.rows:
            raise no_such("org", wanted.org)

        def write(connection: sa.Connection) -> Any:
            creator = connection.execute(sa.select(users.c.id).where(users.c.name == name)).scalar()
            if creator is None:
                raise no_such("user", name)
            key = connection.execute(
                tokens.insert().values(
                    prefix=prefix, digest=fingerprint(secret), name=wanted.name, org=wanted.org, user_id=creator,
                    scopes=sorted(set(wanted.scopes)), created_at=now, expires_at=expires,
                )
            ).inserted_primary_key
            assert key is not None
            audit.record(
                connection, actor, "organisations.token.create", wanted.org, f"token:{prefix}",
                {"name": wanted.name, "scopes": wanted.scopes, "expires_at": expires},
            )
            return connection.execute(_token_rows.where(tokens.c.id == key[0])).one()

        return {**_token_document(await self.house.db.write(write)), "secret": secret, "token": secret}

    @operation("organisations.token.read")
    async def tokens(
        self, actor: Actor, *, org: str | None = None, limit: int = 50, after: int | None = None
    ) -> list[dict[str, Any]]:
        """One's own tokens, and all of the organisations whose tokens one manages; without secrets."""
        orgs = self.policy.visible(actor, "organisations.token.manage").narrow(org)
        if actor.kind == "anonymous":
            raise refusal(actor, "organisations.token.read")
        own = users.c.name == actor.person.removeprefix("user:")
        seen = own if org is None else sa.and_(own, tokens.c.org == org)
        query = _token_rows.order_by(tokens.c.id).limit(limit)
        if actor.scopes is not None and not self.policy.visible(actor, "organisations.token.read"):
            return []
        if not orgs.all:
            query = query.where(sa.or_(seen, tokens.c.org.in_(sorted(orgs.ids))))
        if after is not None:
            query = query.where(tokens.c.id > after)
        return [_token_document(row) for row in await self.house.db.read(lambda c: c.execute(query).all())]

    @operation("organisations.token.delete")
    async def revoke_token(self, actor: Actor, token_id: int) -> None:
        """Revoke a token, everywhere at once: one's own, or one of an organisation whose tokens one manages."""
        row = await self.house.db.read(lambda c: c.execute(_token_rows.where(tokens.c.id == token_id)).first())
        managed = self.policy.allows(actor, "organisations.token.manage", row.org if row else ROOT)
        own = row is not None and actor.kind == "user" and actor.person == f"user:{row.user}"
        if actor.kind == "anonymous":
            raise refusal(actor, "organisations.token.delete")
        if row is None or not (managed or own):
            raise no_such("id", token_id)

        def write(connection: sa.Connection) -> None:
            connection.execute(
                tokens.update().where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=utcnow())
            )
            audit.record(connection, actor, "organisations.token.delete", row.org, f"token:{row.prefix}")

        await self.house.db.write(write)
        await self.changed()

    # --- the first administrator --------------------------------------------------------------------------------

    async def first_administrator(self) -> None:
        """Make `admin` if there is nobody: password from the settings, else random and left in `first-password`."""
        if await self.house.db.read(lambda c: c.execute(sa.select(users.c.id).limit(1)).first()) is not None:
            return
        given = self.house.settings.admin_password
        password = given or passwords.random_password()
        passwords.check_rules(FIRST, password)
        hashed = await passwords.hashed(password)
        if not given:
            path = first_password_file(self.house.settings.home)
            path.touch(0o600)
            path.chmod(0o600)
            path.write_text(password + "\n", "utf-8")

        def write(connection: sa.Connection) -> None:
            insert_user(
                connection, name=FIRST, display="管理员", org=ROOT, password_hash=hashed, state="active",
                must_change_password=not given, roles=[RoleGrant(org=ROOT, role="platform_admin", subtree=True)],
            )
            audit.record(connection, system("seed"), "organisations.user.create", ROOT, f"user:{FIRST}")

        await self.house.db.write(write)


FIRST = "admin"

_token_rows = sa.select(tokens, users.c.name.label("user")).join(users, users.c.id == tokens.c.user_id)


def first_password_file(home: Path) -> Path:
    """Where the first administrator's random password waits until it is changed."""
    return home / "first-password"


def first_password(home: Path) -> str | None:
    """The first administrator's password while it has not been changed, else None."""
    try:
        return first_password_file(home).read_text("utf-8").strip()
    except FileNotFoundError:
        return None


def address_of(scope: Scope) -> str:
    """The peer's address; IPv6 by its /64, which is what one household has."""
    client = scope.get("client")
    return household(str(client[0])) if client else "unknown"


def invalid_token() -> Unauthenticated:
    """One error for every token that does not hold, whatever the reason."""
    return Unauthenticated("令牌无效或已过期", "the token is not valid", rule="valid token")


def _cookie(value: bytes) -> bytes:
    for part in value.split(b";"):
        name, _, secret = part.strip().partition(b"=")
        if name == b"tulou_session":
            return secret
    return b""


def _token_document(row: Any) -> dict[str, Any]:
    def at(value: dt.datetime | None) -> str | None:
        return value.isoformat() if value else None

    return {
        "id": row.id, "name": row.name, "org": row.org, "prefix": row.prefix, "scopes": row.scopes, "user": row.user,
        "created_at": at(row.created_at), "expires_at": at(row.expires_at), "revoked_at": at(row.revoked_at),
        "used_at": at(row.used_at),
    }
