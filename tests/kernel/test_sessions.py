"""Sign-in, sessions and throttling."""

from __future__ import annotations

import datetime as dt
import logging
import stat
import time

import argon2
import pytest
import sqlalchemy as sa

from tests.kernel.conftest import PASSWORD, Connect, Persons
from tulou.kernel.errors import Invalid, Throttled
from tulou.kernel.house import House
from tulou.kernel.organisations import Credentials, passwords
from tulou.kernel.organisations.credentials import first_password, first_password_file
from tulou.kernel.organisations.models import sessions, users
from tulou.kernel.organisations.throttle import Throttle

REAL_HASHER = passwords._hasher


async def test_the_first_password_is_random_private_and_gone_once_changed(kernel: House, persons: Persons) -> None:
    path = first_password_file(kernel.settings.home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = first_password(kernel.settings.home)
    assert first
    assert len(first) >= 16
    client = await persons.administrator()
    assert not path.exists()
    session = (await client.get("/api/v1/session")).json()
    assert session["user"]["must_change_password"] is False
    assert session["roles"] == [{"org": "house", "role": "platform_admin", "subtree": True}]
    assert "organisations.org.approve" in session["can"]


async def test_until_the_password_is_changed_nothing_else_is_allowed(kernel: House, connect: Connect) -> None:
    client = connect()
    client.headers["x-tulou"] = "1"
    first = first_password(kernel.settings.home)
    answer = await client.post("/api/v1/session", json={"name": "admin", "password": first})
    assert answer.json()["user"]["must_change_password"] is True
    refused = await client.post("/api/v1/users", json={"name": "x", "display": "x", "org": "fujian", "roles": []})
    assert refused.status_code == 403


async def test_nobody_learns_only_how_to_sign_in(connect: Connect) -> None:
    answer = await connect().get("/api/v1/session")
    assert answer.status_code == 401
    assert set(answer.json()) == {"oidc", "version"}


async def test_the_cookie_is_closed_to_scripts_and_to_other_sites(persons: Persons, kernel: House) -> None:
    await persons.make("lin", "fuzhou")
    client = persons.connect()
    answer = await client.post("/api/v1/session", json={"name": "lin", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    secret = client.cookies["tulou_session"]
    rows = await kernel.db.read(lambda c: c.execute(sa.select(sessions.c.digest)).scalars().all())
    assert rows
    assert secret not in rows


async def test_over_tls_the_cookie_is_secure(persons: Persons) -> None:
    await persons.make("lin", "fuzhou")
    client = persons.connect()
    answer = await client.post("https://house/api/v1/session", json={"name": "lin", "password": PASSWORD})
    assert "; secure" in answer.headers["set-cookie"].lower()


async def test_an_unsafe_request_by_cookie_needs_our_header(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou", ("fuzhou", "admin", True))
    del client.headers["x-tulou"]
    body = {"name": "chen", "display": "陈", "org": "fuzhou", "roles": []}
    refused = await client.post("/api/v1/users", json=body)
    assert refused.status_code == 403
    assert refused.json()["field"] == "X-Tulou"
    assert (await client.get("/api/v1/users")).status_code == 200
    assert (await client.post("/api/v1/users", json=body, headers={"x-tulou": "1"})).status_code == 201


async def test_a_form_of_another_site_cannot_sign_in(persons: Persons) -> None:
    await persons.make("lin", "fuzhou")
    answer = await persons.connect().post(
        "/api/v1/session", content=f'{{"name":"lin","password":"{PASSWORD}"}}', headers={"content-type": "text/plain"}
    )
    assert answer.status_code == 400


async def test_signing_out_ends_the_session_at_once(persons: Persons) -> None:
    client = await persons.sign_in("lin", "fuzhou")
    secret = client.cookies["tulou_session"]
    assert (await client.delete("/api/v1/session")).status_code == 204
    again = persons.connect()
    again.cookies["tulou_session"] = secret
    assert (await again.get("/api/v1/session")).status_code == 401
    assert (await again.get("/api/v1/users")).status_code == 401


async def test_a_new_password_ends_every_other_session(persons: Persons) -> None:
    one = await persons.sign_in("lin", "fuzhou")
    two = persons.connect(headers={"x-tulou": "1"})
    old = PASSWORD + "!"
    assert (await two.post("/api/v1/session", json={"name": "lin", "password": old})).status_code == 200
    new = "another passphrase"
    assert (await two.post("/api/v1/session/password", json={"old": old, "new": new})).status_code == 204
    assert (await one.get("/api/v1/session")).status_code == 401
    assert (await two.get("/api/v1/session")).status_code == 200


async def test_a_session_slides_while_used_and_ends_when_not(
    persons: Persons, kernel: House, credentials: Credentials
) -> None:
    client = await persons.sign_in("lin", "fuzhou")
    now = dt.datetime.now(dt.UTC)

    async def expire_at(at: dt.datetime) -> None:
        await kernel.db.write(lambda c: c.execute(sessions.update().values(expires_at=at)) and None)
        credentials.forget()

    await expire_at(now + dt.timedelta(hours=1))
    assert (await client.get("/api/v1/session")).status_code == 200
    latest = await kernel.db.read(lambda c: c.execute(sa.select(sa.func.max(sessions.c.expires_at))).scalar_one())
    assert latest > now + dt.timedelta(hours=11)
    await expire_at(now - dt.timedelta(seconds=1))
    assert (await client.get("/api/v1/session")).status_code == 401


async def test_a_stale_cookie_does_not_stop_a_sign_in(persons: Persons) -> None:
    await persons.make("lin", "fuzhou")
    client = persons.connect()
    client.cookies["tulou_session"] = "long-gone"
    assert (await client.get("/api/v1/session")).json().keys() == {"oidc", "version"}
    answer = await client.post("/api/v1/session", json={"name": "lin", "password": PASSWORD})
    assert answer.status_code == 200


async def test_a_disabled_person_loses_session_and_sign_in(persons: Persons) -> None:
    boss = await persons.administrator()
    client = await persons.sign_in("lin", "fuzhou")
    number = (await client.get("/api/v1/session")).json()["user"]["id"]
    assert (await boss.post(f"/api/v1/users/{number}/disable")).status_code == 204
    assert (await client.get("/api/v1/session")).status_code == 401
    answer = await client.post("/api/v1/session", json={"name": "lin", "password": PASSWORD + "!"})
    assert answer.status_code == 403


async def test_unknown_and_known_names_are_refused_alike(persons: Persons) -> None:
    await persons.make("lin", "fuzhou")
    client = persons.connect()
    known = await client.post("/api/v1/session", json={"name": "lin", "password": "wrong"})
    unknown = await client.post("/api/v1/session", json={"name": "no-one", "password": "wrong"})
    assert known.status_code == unknown.status_code == 401
    assert known.json() == unknown.json()


async def test_guessing_is_slowed_down_and_says_for_how_long(persons: Persons) -> None:
    await persons.make("lin", "fuzhou")
    attacker = persons.connect("203.0.113.7")
    codes = []
    for _ in range(8):
        answer = await attacker.post("/api/v1/session", json={"name": "lin", "password": "wrong"})
        codes.append(answer.status_code)
    assert codes[:6] == [401] * 6
    assert codes[-1] == 429
    assert int(answer.headers["retry-after"]) >= 1
    right = await attacker.post("/api/v1/session", json={"name": "lin", "password": PASSWORD})
    assert right.status_code == 429
    owner = persons.connect("198.51.100.5")
    assert (await owner.post("/api/v1/session", json={"name": "lin", "password": PASSWORD})).status_code == 200


def test_pauses_double_up_to_the_longest_and_tables_stay_bounded() -> None:
    throttle = Throttle(free=2, longest=8, size=100)
    for _ in range(2):
        throttle.failed("a")
        throttle.check("a")
    waits = []
    for _ in range(6):
        throttle.failed("a")
        with pytest.raises(Throttled) as raised:
            throttle.check("a")
        waits.append(round(raised.value.retry_after))
    assert waits == [1, 2, 4, 8, 8, 8]
    throttle.succeeded("a")
    throttle.check("a")
    patient = Throttle(free=2, longest=8, forgive=0.001)
    for _ in range(20):
        patient.failed("a")
        time.sleep(0.005)
    patient.check("a")
    for n in range(1000):
        throttle.failed(str(n))
    assert len(throttle._failures) == 100


@pytest.mark.parametrize("password", ["short", "12345678", "Password1", "lin.weimin"])
def test_weak_passwords_are_refused(password: str) -> None:
    with pytest.raises(Invalid) as raised:
        passwords.check_rules("lin.weimin", password)
    assert raised.value.field == "password"
    assert password not in str(raised.value.problem())


async def test_refused_sign_ins_are_audited_and_no_secret_is_written_anywhere(
    persons: Persons, kernel: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await persons.make("lin", "fuzhou")
    await persons.connect().post("/api/v1/session", json={"name": "lin", "password": "wrong-secret-guess"})
    boss = await persons.administrator()
    rows = (await boss.get("/api/v1/audit?action=organisations.session.create")).json()["items"]
    denied = [r for r in rows if r["outcome"] == "denied"]
    assert [(r["subject"], r["org"]) for r in denied] == [("user:lin", "fuzhou")]
    everything = (await boss.get("/api/v1/audit?limit=1000")).text + caplog.text
    for secret in ("wrong-secret-guess", PASSWORD, boss.cookies["tulou_session"]):
        assert secret not in everything


def test_the_real_hashes_are_as_costly_as_rfc_9106_recommends() -> None:
    parameters = argon2.extract_parameters(REAL_HASHER.hash("x"))
    assert parameters.type is argon2.Type.ID
    assert parameters.memory_cost >= 64 * 1024
    assert parameters.time_cost >= 3


async def test_only_argon2id_is_stored(persons: Persons, kernel: House) -> None:
    await persons.make("lin", "fuzhou")
    hashes = await kernel.db.read(lambda c: c.execute(sa.select(users.c.password_hash)).scalars().all())
    assert all(h.startswith("$argon2id$") for h in hashes)
