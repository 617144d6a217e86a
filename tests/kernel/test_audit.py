"""The audit: chained, append-only, complete, and only for auditors."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import threading

import orjson
import pytest
import sqlalchemy as sa

from tests.kernel.conftest import Persons
from tulou.kernel import audit
from tulou.kernel.audit import audit_log, verify_chain
from tulou.kernel.errors import Forbidden
from tulou.kernel.house import House
from tulou.kernel.policy import Actor, Binding
from tulou.kernel.sql import Database


async def test_the_chain_holds_and_names_its_head(kernel: House, admin: Actor) -> None:
    for n in range(25):
        await audit.note(kernel.db, admin, "test.thing.write", "fuzhou", f"thing:{n}", {"n": n, "文": "字"})
    seen: list[int] = []
    verdict = await kernel.db.read(lambda c: verify_chain(c, seen.append, chunk=10))
    assert verdict.ok
    assert verdict.rows == seen[-1] >= 25
    head = await kernel.db.read(lambda c: c.execute(sa.select(sa.func.max(audit_log.c.seq))).scalar_one())
    assert head == verdict.rows


async def test_two_processes_that_wait_for_each_other_both_end_well(kernel: House) -> None:
    """PostgreSQL ends a deadlock by refusing one of the two; what it refuses is done again."""
    if kernel.db.dialect != "postgresql":
        return
    other = Database(kernel.settings.sql_url)
    row_is_held, chain_is_held = threading.Event(), threading.Event()
    touch = sa.text("UPDATE organisations SET reason = reason WHERE id = 'fuzhou'")

    def row_then_chain(connection: sa.Connection) -> None:
        connection.execute(touch)
        row_is_held.set()
        chain_is_held.wait(20)
        audit.record_soon(kernel.db, audit.entry("user:one", "test.thing.write", "fuzhou"))

    def chain_then_row(connection: sa.Connection) -> None:
        row_is_held.wait(20)
        audit.record(connection, "user:two", "test.thing.write", "fuzhou")
        chain_is_held.set()
        connection.execute(touch)

    try:
        await asyncio.gather(kernel.db.write(row_then_chain), other.write(chain_then_row))
    finally:
        await other.close()
    query = sa.select(audit_log.c.actor).where(audit_log.c.action == "test.thing.write")
    assert sorted(await kernel.db.read(lambda c: c.execute(query).scalars().all())) == ["user:one", "user:two"]
    assert (await kernel.db.read(verify_chain)).ok


async def test_who_loses_one_deadlock_after_the_other_ends_well_too(kernel: House) -> None:
    if kernel.db.dialect != "postgresql":
        return
    other = Database(kernel.settings.sql_url)
    touch = sa.text("UPDATE organisations SET reason = reason WHERE id = :id")
    wait = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    rivals: list[threading.Thread] = []

    def rival(holds: threading.Event) -> None:
        with other.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL deadlock_timeout = '60s'"))
            connection.execute(touch, {"id": "xiamen"})
            holds.set()
            connection.execute(touch, {"id": "fuzhou"})

    def write(connection: sa.Connection) -> int:
        connection.execute(sa.text("SET LOCAL deadlock_timeout = '10ms'"))
        connection.execute(touch, {"id": "fuzhou"})
        if len(rivals) < 4:
            holds = threading.Event()
            rivals.append(threading.Thread(target=rival, args=(holds,)))
            rivals[-1].start()
            holds.wait(20)
            while not connection.execute(wait).scalar_one():
                pass
        connection.execute(touch, {"id": "xiamen"})
        return len(rivals)

    try:
        assert await kernel.db.write(write) == 4
        for thread in rivals:
            thread.join(20)
    finally:
        await other.close()


async def test_any_text_is_kept_as_it_is(kernel: House) -> None:
    """A name that somebody tried to sign in with may be anything; what is stored is what was hashed."""
    texts = ["a'b\"c\\d", "字\u2028😀", "{\"x\":[1]}", "line\nline\t", "", " "]
    if kernel.db.dialect == "sqlite":  # PostgreSQL keeps no NUL
        texts.append("a\0b")
    for text in texts:
        await audit.note(kernel.db, "user:x", "test.thing.write", "fuzhou", text, {"text": text, "big": 2**53, "f": 0.1})
    assert (await kernel.db.read(verify_chain)).ok
    query = sa.select(audit_log.c.subject, audit_log.c.detail).order_by(audit_log.c.seq.desc()).limit(len(texts))
    found = await kernel.db.read(lambda c: c.execute(query).all())
    assert [row.subject for row in reversed(found)] == texts
    assert [json.loads(row.detail)["text"] for row in reversed(found)] == texts


async def test_the_hash_can_be_recomputed_from_the_export_alone(persons: Persons) -> None:
    boss = await persons.administrator()
    prev = "0" * 64
    for line in (await boss.get("/api/v1/audit/export")).text.splitlines():
        row = json.loads(line)
        at = dt.datetime.fromisoformat(row["at"])
        micros = (at - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
        columns = [row[k] for k in ("actor", "action", "org", "subject", "outcome", "detail")]
        content = orjson.dumps([row["seq"], micros, *columns, prev])
        prev = hashlib.sha256(content).hexdigest()
        assert row["hash"] == prev


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
async def test_rows_cannot_be_altered_or_removed(kernel: House, statement: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        await kernel.db.write(lambda c: c.execute(sa.text(statement)) and None)


async def test_postgresql_refuses_truncate_too(kernel: House) -> None:
    if kernel.db.dialect == "postgresql":
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            await kernel.db.write(lambda c: c.execute(sa.text("TRUNCATE audit_log")) and None)


@pytest.mark.parametrize("sabotage", [
    "UPDATE audit_log SET actor = 'somebody-else' WHERE seq = 3",
    "DELETE FROM audit_log WHERE seq = 3",
    "UPDATE audit_log SET detail = '{}' WHERE seq = 3",
])
async def test_who_gets_round_the_triggers_is_found_out(kernel: House, admin: Actor, sabotage: str) -> None:
    for n in range(5):
        await audit.note(kernel.db, admin, "test.thing.write", "fuzhou", f"thing:{n}", {"n": n})

    def write(connection: sa.Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("ALTER TABLE audit_log DISABLE TRIGGER audit_log_refuse"))
        else:
            connection.execute(sa.text("DROP TRIGGER audit_log_refuse_update"))
            connection.execute(sa.text("DROP TRIGGER audit_log_refuse_delete"))
        connection.execute(sa.text(sabotage))

    await kernel.db.write(write)
    verdict = await kernel.db.read(verify_chain)
    assert (verdict.ok, verdict.first_bad) == (False, 3)


async def test_a_change_that_fails_leaves_no_audit_row(kernel: House, admin: Actor) -> None:
    before = await kernel.db.read(verify_chain)

    def write(connection: sa.Connection) -> None:
        audit.record(connection, admin, "test.thing.write", "fuzhou")
        raise ValueError("the change failed")

    with pytest.raises(ValueError, match="the change failed"):
        await kernel.db.write(write)
    assert await kernel.db.read(verify_chain) == before


async def test_two_processes_grow_one_chain(kernel: House, admin: Actor) -> None:
    """Two stores opened on one database, as two processes do."""
    other = Database(kernel.settings.sql_url)
    try:
        await asyncio.gather(*[
            audit.note(db, admin, "test.thing.write", "fuzhou", str(n)) for n in range(50) for db in (kernel.db, other)
        ])
    finally:
        await other.close()
    verdict = await kernel.db.read(verify_chain)
    assert verdict.ok
    assert verdict.rows >= 100


async def test_an_auditor_sees_his_organisations_rows_only(persons: Persons, kernel: House) -> None:
    client = await persons.sign_in("he", "fuzhou", ("fuzhou", "auditor", False))
    await persons.make("wu", "xiamen")
    rows = (await client.get("/api/v1/audit?limit=1000")).json()["items"]
    assert rows
    assert {row["org"] for row in rows} == {"fuzhou"}
    assert (await client.get("/api/v1/audit?org=xiamen")).json()["items"] == []
    assert (await client.get("/api/v1/audit/verify")).json()["ok"] is True
    assert (await client.get("/api/v1/audit/export")).status_code == 403
    viewer = await persons.sign_in("li", "fuzhou", ("fuzhou", "viewer", False))
    assert (await viewer.get("/api/v1/audit")).status_code == 403
    assert (await viewer.get("/api/v1/audit/verify")).status_code == 403


async def test_the_list_is_filtered_and_paged(persons: Persons) -> None:
    boss = await persons.administrator()
    first = (await boss.get("/api/v1/audit?limit=2")).json()
    second = (await boss.get(f"/api/v1/audit?limit=2&after={first['next']}")).json()
    assert [r["seq"] for r in first["items"] + second["items"]] == sorted(
        [r["seq"] for r in first["items"] + second["items"]], reverse=True
    )
    seeds = (await boss.get("/api/v1/audit?actor=system:seed")).json()["items"]
    assert {r["actor"] for r in seeds} == {"system:seed"}
    assert (await boss.get("/api/v1/audit?after=bm9uc2Vuc2U")).status_code == 400


async def test_a_token_of_the_platform_does_not_reach_the_houses_audit_from_elsewhere(kernel: House) -> None:
    actor = Actor("token:x", "x", "fuzhou", "token", frozenset({Binding("fuzhou", "admin", True)}), frozenset({"*"}))
    with pytest.raises(Forbidden):
        await kernel.service(audit.Audit).export(actor)
