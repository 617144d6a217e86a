"""Delivery of notifications: the outbox, and the worker that empties it.

Law: a notification is a row written in the transaction of the change that caused it, and it goes away only in the
transaction that counts it as sent or given up. So none is lost and none is sent for a change that was rolled back; after a
crash the last ones may be sent again. Order holds within a subscription. What cannot be delivered waits until it is
`notification_hours` old, or one of more than `QUEUE` that wait. A notification leaves the house only while the subscription's
owner may read what it is about in the organisation: entities, or registrations of context sources.

A slow or failing endpoint holds up nothing but itself: it works behind a gate of its own.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.14, 5.2.15, 5.8.6, 6.3.8, 7.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.forms import Json
from tulou.context.jsonld import CORE_URL, LINK_REL
from tulou.context.mqtt_endpoint import Publisher, message
from tulou.context.store import Store
from tulou.context.subscription_form import pairs
from tulou.kernel.errors import TulouError
from tulou.kernel.policy import Actor, Policy

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.delivery")

QUEUE = 10_000
"""Most undelivered notifications of one subscription; beyond it the oldest are given up."""
PER_NOTIFICATION = 100
LONGEST_PAUSE_S = 60
BATCH = 100
"""Most notifications of a subscription that are sent before that is written down: what a crash may send again."""
AT_ONCE = 128
SLOW_S = 1.0
DEFAULT_TIMEOUT_S, LONGEST_TIMEOUT_S = 5.0, 30.0


class Kind(NamedTuple):
    """What is delivered: the tables of the subscriptions and of their outbox, the action that their owners must be allowed,
    and what is said of a subscription whose owner is not."""

    subscriptions: str
    outbox: str
    action: str
    no_right: str


ENTITIES = Kind("subscriptions", "notification_outbox", "context.entity.read",
                "the owner may no longer read the entities of this organisation")
REGISTRATIONS = Kind("csource_subscriptions", "csource_outbox", "context.source.read",
                     "the owner may no longer read the registrations of this organisation")


class _State:
    """A subscription that has something to deliver."""

    __slots__ = ("again", "attempts", "due", "running", "slow")

    def __init__(self) -> None:
        self.attempts = 0
        self.due = 0.0
        self.running = False
        self.again = False
        self.slow = False


class _Waiting(NamedTuple):
    """A subscription's row with its oldest notifications."""

    org: str
    owner: str
    document: Json
    spec: Any
    active: bool
    rows: list[tuple[int, str]]


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def enqueue(
    cursor: Any, store: Store, no: int, id: str, data: list[Json], now: int, *, feature: bool = False,
    throttling_us: int = 0,
) -> None:
    """Write notifications of `data` to the outbox, in the transaction of `cursor`; nothing while throttled."""
    sql = store.sql
    if throttling_us:
        row = cursor.execute(sql("SELECT queued_at FROM subscriptions WHERE no=?"), (no,)).fetchone()
        if row is None or (row[0] is not None and now - row[0] < throttling_us):
            return
        cursor.execute(sql("UPDATE subscriptions SET queued_at=? WHERE no=?"), (now, no))
    rows = []
    for at in range(0, len(data), PER_NOTIFICATION):
        part: Any = data[at : at + PER_NOTIFICATION]
        if feature:
            part = {"type": "FeatureCollection", "features": part}
        body = {
            "id": f"urn:ngsi-ld:Notification:{uuid.uuid4()}", "type": "Notification", "subscriptionId": id,
            "notifiedAt": forms.moment(now), "data": part,
        }
        rows.append((no, dumped(body), now))
    cursor.executemany(sql("INSERT INTO notification_outbox (subscription,body,created_at) VALUES (?,?,?)"), rows)


def ld_context(spec: Any, house: Json) -> Any:
    """The `@context` of an answer under the context `spec`."""
    if spec is None:
        return house["@context"]
    return spec if spec == CORE_URL or (isinstance(spec, list) and CORE_URL in spec) else [
        *(spec if isinstance(spec, list) else [spec]), CORE_URL,
    ]


class Delivery:
    """The worker. `address(path)` makes an absolute address of a path of this house; `house_context` is the context of
    subscriptions that name none; `changed()` tells every process that a subscription's state changed."""

    def __init__(
        self, house: House, kind: Kind, address: Callable[[str], str], house_context: str,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self.kind = kind
        self.house = house
        self.db = house.db
        self.policy: Policy = house.policy
        self.store = Store(house.db.dialect)
        self.address = address
        self.house_context = house_context
        self.changed = changed
        self.keep_us = house.settings.notification_hours * 3_600_000_000
        self._states: dict[int, _State] = {}
        self._seen = 0
        self._fast, self._slow = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._counting: dict[int, asyncio.Event] = {}
        self._publisher: Publisher | None = None
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be something to deliver."""
        self._wake.set()

    async def run(self, each_second: Callable[[], Awaitable[None]]) -> None:
        """Deliver what is due, for ever; `each_second()` is awaited about once a second."""
        ticked = tidied = 0.0
        self._publisher = Publisher(self.house.outbound)
        try:
            while True:
                now = time.monotonic()
                if now - tidied > 5:
                    tidied = now
                    await self.bound()
                    self._found(await self._all())
                if now - ticked > 1:
                    ticked = now
                    await each_second()
                self._found(await self._new())
                self._start()
                with contextlib.suppress(TimeoutError):  # not wait_for, which can swallow a cancellation (Python 3.11)
                    async with asyncio.timeout(0.5):
                        await self._wake.wait()
                self._wake.clear()
                await asyncio.sleep(0.005)
        finally:
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._publisher.close()

    async def _all(self) -> Iterable[int]:
        sql = f"SELECT DISTINCT subscription FROM {self.kind.outbox}"
        return [row[0] for row in await self.db.read(lambda c: self.store.cursor(c).execute(sql).fetchall())]

    async def _new(self) -> Iterable[int]:
        sql = self.store.sql(f"SELECT no,subscription FROM {self.kind.outbox} WHERE no>? ORDER BY no LIMIT 10000")
        own = self.db.inline()
        rows = own.execute(sql, (self._seen,)).fetchall() if own is not None else await self.db.read(
            lambda c: self.store.cursor(c).execute(sql, (self._seen,)).fetchall()
        )
        if rows:
            self._seen = rows[-1][0]
        return {row[1] for row in rows}

    def _found(self, numbers: Iterable[int]) -> None:
        for no in numbers:
            state = self._states.get(no)
            if state is None:
                self._states[no] = _State()
            else:
                state.again = True

    def _start(self) -> None:
        now = time.monotonic()
        for no, state in self._states.items():
            if not state.running and state.due <= now:
                state.running = True
                task = asyncio.create_task(self._drain(no, state))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _drain(self, no: int, state: _State) -> None:
        """Deliver a subscription's notifications in order, up to the first that fails."""
        gate = self._slow if state.slow or state.attempts else self._fast
        try:
            async with gate:
                while True:
                    state.again = False
                    waiting = await self._waiting(no)
                    if waiting is None:
                        await self._forget(no)
                    if waiting is None or not waiting.rows:
                        if not state.again:
                            del self._states[no]
                            return
                        continue
                    if not waiting.active:
                        state.due = time.monotonic() + LONGEST_PAUSE_S
                        return
                    if not await self.may(waiting.owner, waiting.org):
                        await self.block(no)
                        continue
                    began = time.monotonic()
                    sent, error = await self._send(waiting)
                    state.slow = time.monotonic() - began > SLOW_S * max(sent, 1)
                    await self._count(no, [row[0] for row in waiting.rows[:sent]], error, state.attempts > 0)
                    if error is not None:
                        state.attempts += 1
                        cooldown = float(waiting.document["notification"]["endpoint"].get("cooldown", 0)) / 1000
                        pause = min(2.0 ** min(state.attempts - 1, 20), LONGEST_PAUSE_S)
                        state.due = time.monotonic() + max(pause, cooldown)
                        return
                    state.attempts = 0
        except TulouError as error:
            log.warning("subscription %s: %s", no, error.en)
            state.due = time.monotonic() + LONGEST_PAUSE_S
        except Exception:
            log.exception("delivery of subscription %s failed", no)
            state.due = time.monotonic() + LONGEST_PAUSE_S
        finally:
            state.running = False
            self._wake.set()

    async def _waiting(self, no: int) -> _Waiting | None:
        json = (lambda column: f"{column}::text") if self.store.postgres else (lambda column: column)
        head = self.store.sql(
            f"SELECT org,owner,{json('doc')},{json('context')},active FROM {self.kind.subscriptions} WHERE no=?"
        )
        rows = self.store.sql(
            f"SELECT no,{json('body')} FROM {self.kind.outbox} WHERE subscription=? ORDER BY no LIMIT {BATCH}"
        )

        def read(connection: sa.Connection) -> _Waiting | None:
            cursor = self.store.cursor(connection)
            found = cursor.execute(head, (no,)).fetchone()
            if found is None:
                return None
            org, owner, document, spec, active = found
            body = orjson.loads(document)
            named = body.get("jsonldContext") or orjson.loads(spec or "null")
            return _Waiting(org, owner, body, named, bool(active), cursor.execute(rows, (no,)).fetchall())

        return await self.db.read(read)

    async def _forget(self, no: int) -> None:
        """Delete what a change queued for a subscription while it was being deleted."""
        sql = self.store.sql(f"DELETE FROM {self.kind.outbox} WHERE subscription=?")
        await self.db.write(lambda c: self.store.cursor(c).execute(sql, (no,)) and None)

    # ---- the owner's rights

    async def owner(self, name: str) -> Actor | None:
        """The owner of a subscription as he is now."""
        authenticator = self.house.authenticator
        return None if authenticator is None else await authenticator.actor_named(name)

    async def may(self, owner: str, org: str) -> bool:
        """Whether the owner of a subscription, as he is now, may read what it is about in the organisation."""
        actor = await self.owner(owner)
        return actor is not None and self.policy.allows(actor, self.kind.action, org)

    async def block(self, no: int) -> None:
        """Stop a subscription whose owner may no longer read; what waits for him is given up."""
        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            gone = cursor.execute(sql(f"DELETE FROM {self.kind.outbox} WHERE subscription=?"), (no,)).rowcount
            cursor.execute(
                sql(f"UPDATE {self.kind.subscriptions} SET blocked=?,times_failed=times_failed+?,last_failure=? WHERE no=?"),
                (self.kind.no_right, gone, now_us(), no),
            )

        log.warning("subscription %s: %s", no, self.kind.no_right)
        await self.db.write(write)
        await self.changed()

    async def review(self) -> None:
        """Block the subscriptions of owners who may no longer read, and let those run again who may."""
        active = "active" if self.store.postgres else "active=1"
        sql = f"SELECT no,owner,org,blocked FROM {self.kind.subscriptions} WHERE {active}"
        rows = await self.db.read(lambda c: self.store.cursor(c).execute(sql).fetchall())
        may = {key: await self.may(*key) for key in {(row[1], row[2]) for row in rows}}
        freed = [row[0] for row in rows if row[3] is not None and may[row[1], row[2]]]
        for no, owner, org, blocked in rows:
            if blocked is None and not may[owner, org]:
                await self.block(no)
        if freed:
            condition, parameters = self.store.among("no", freed)
            free = self.store.sql(f"UPDATE {self.kind.subscriptions} SET blocked=NULL WHERE {condition}")
            await self.db.write(lambda c: self.store.cursor(c).execute(free, parameters) and None)
            await self.changed()

    # ---- sending

    async def _send(self, waiting: _Waiting) -> tuple[int, str | None]:
        """Send the notifications; (how many, what went wrong with the next)."""
        endpoint = waiting.document["notification"]["endpoint"]
        timeout = min(float(endpoint.get("timeout", DEFAULT_TIMEOUT_S * 1000)) / 1000, LONGEST_TIMEOUT_S)
        accept = endpoint.get("accept", "application/json")
        headers = {**pairs(endpoint, "receiverInfo"), "Content-Type": accept, "NGSILD-Tenant": waiting.org}
        if accept == "application/ld+json":
            bodies = [self._with_context(body, waiting.spec) for _, body in waiting.rows]
        else:
            headers["Link"] = f'<{self._link(waiting.spec)}>; rel="{LINK_REL}"; type="application/ld+json"'
            bodies = [body.encode() for _, body in waiting.rows]
        if endpoint["uri"].startswith("mqtt"):
            assert self._publisher is not None
            try:
                payloads = [message(orjson.loads(body), headers) for body in bodies]
                return await self._publisher.publish(endpoint, payloads, timeout)
            except TulouError as error:
                return 0, f"{error.zh} {error.en}"
        for sent, body in enumerate(bodies):
            try:
                answer = await self.house.outbound.request(
                    "POST", endpoint["uri"], content=body, headers=headers, timeout=timeout
                )
            except TulouError as error:
                return sent, f"{error.zh} {error.en}"
            if not answer.ok:
                return sent, f"HTTP {answer.status}"
        return len(bodies), None

    def _link(self, spec: Any) -> str:
        path = self.house_context if spec is None else spec if isinstance(spec, str) else CORE_URL
        return self.address(path)

    def _with_context(self, text: str, spec: Any) -> bytes:
        """A notification as JSON-LD: the entities in it are documents of their own (5.3.1, 6.3.8)."""
        body = orjson.loads(text)
        context = self._link(spec) if spec is None or isinstance(spec, str) else spec
        if isinstance(body["data"], list):
            body["data"] = [{**item, "@context": context} for item in body["data"]]
        body["@context"] = context
        return orjson.dumps(body)

    async def _count(self, no: int, sent: list[int], error: str | None, again: bool) -> None:
        """Write down what came of a round, the first notification of which was tried before if `again`.

        A notification counts once as sent, when it is first tried, and once as failed, however often it is tried (5.2.14).
        """
        now = now_us()
        fresh = len(sent) - (again and bool(sent))
        failed = int(error is not None and not (again and not sent))

        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            if sent:
                condition, parameters = self.store.among("no", sent)
                cursor.execute(sql(f"DELETE FROM {self.kind.outbox} WHERE {condition}"), parameters)
                cursor.execute(
                    sql(f"UPDATE {self.kind.subscriptions} SET times_sent=times_sent+?,last_notification=?,last_success=?,"
                        "last_error=NULL WHERE no=?"), (fresh, now, now, no),
                )
            if error is not None:
                cursor.execute(
                    sql(f"UPDATE {self.kind.subscriptions} SET times_sent=times_sent+?,times_failed=times_failed+?,"
                        "last_failure=?,last_notification=?,last_error=? WHERE no=?"),
                    (failed, failed, now, now, error[:500], no),
                )

        done = self._counting[no] = asyncio.Event()
        try:
            await self.db.write(write)
        finally:
            done.set()
            self._counting.pop(no, None)

    async def settled(self, no: int) -> bool:
        """Wait until what was just delivered of a subscription is counted; whether there was anything to wait for. So who
        has got a notification from this process, and then asks, is told of it."""
        event = self._counting.get(no)
        if event is not None:
            await event.wait()
        return event is not None

    # ---- what is given up

    async def bound(self) -> None:
        """Give up notifications that are too old, and the oldest of subscriptions with more than `QUEUE` waiting."""
        def read(connection: sa.Connection) -> tuple[list[Any], list[Any]]:
            cursor = self.store.cursor(connection)
            full = cursor.execute(
                f"SELECT subscription,count(*) FROM {self.kind.outbox} GROUP BY subscription HAVING count(*)>{QUEUE}"
            ).fetchall()
            first = cursor.execute(
                f"SELECT no,subscription,created_at FROM {self.kind.outbox} ORDER BY no LIMIT 5000"
            ).fetchall()
            return full, first

        full, first = await self.db.read(read)
        limit = now_us() - self.keep_us
        old: dict[int, list[int]] = {}
        for no, subscription, created in first:
            if created < limit:
                old.setdefault(subscription, []).append(no)
        hours = self.keep_us // 3_600_000_000
        for subscription, numbers in old.items():
            await self._give_up(subscription, numbers, f"given up: older than {hours} h")
        for subscription, count in full:
            sql = self.store.sql(f"SELECT no FROM {self.kind.outbox} WHERE subscription=? ORDER BY no LIMIT ?")
            rows = await self.db.read(
                lambda c, s=subscription, n=count - QUEUE, q=sql: self.store.cursor(c).execute(q, (s, n)).fetchall()  # type: ignore[misc]
            )
            await self._give_up(subscription, [row[0] for row in rows], f"given up: more than {QUEUE} waiting")

    async def _give_up(self, subscription: int, numbers: list[int], reason: str) -> None:
        def write(connection: sa.Connection) -> None:
            cursor, sql = self.store.cursor(connection), self.store.sql
            condition, parameters = self.store.among("no", numbers)
            gone = cursor.execute(sql(f"DELETE FROM {self.kind.outbox} WHERE {condition}"), parameters).rowcount
            cursor.execute(
                sql(f"UPDATE {self.kind.subscriptions} SET times_failed=times_failed+?,last_failure=?,last_error=? WHERE no=?"),
                (gone, now_us(), reason, subscription),
            )

        log.warning("subscription %s: %s notifications %s", subscription, len(numbers), reason)
        await self.db.write(write)
