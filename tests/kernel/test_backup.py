"""Backup while the house runs, restore into an empty home, and the same answers from there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.conftest import kernel_plugins
from tests.kernel.conftest import Persons
from tulou.kernel import audit
from tulou.kernel.backup import Backup, restore, verify
from tulou.kernel.bus import NatsServer, StreamSpec, free_port
from tulou.kernel.errors import Conflict, Forbidden, Invalid
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.house import House
from tulou.kernel.objects import Objects
from tulou.kernel.packs.installing import install
from tulou.kernel.packs.scaffold import write
from tulou.kernel.plugins import read_packs
from tulou.kernel.policy import Actor
from tulou.kernel.settings import Settings


def kernel_house(settings: Settings) -> House:
    return House(settings, kernel_plugins())


def quiet(_step: str, _done: int, _total: int) -> None:
    pass


def put_pack(house: House, folder: Path) -> None:
    (write("field", folder) / "pack.yaml").write_text("name: field\nversion: '1'\nlabel: {zh: 田间, en: Field}\n", "utf-8")
    install(house.settings, folder / "field", read_packs(house.hooks), lambda _name: {})


async def backed_up(house: House, admin: Actor, path: Path) -> Path:
    await Objects(house.settings).put("fuzhou/报告.pdf", b"evidence")
    await house.service(Backup).write(path, quiet)
    return path


async def test_a_restored_home_has_the_same_rows_objects_and_chain(
    kernel: House, persons: Persons, admin: Actor, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await persons.make("lin", "fuzhou", ("fuzhou", "admin", True))
    await asyncio.to_thread(put_pack, kernel, tmp_path)
    file = await backed_up(kernel, admin, tmp_path / "b.tar")
    url = request.getfixturevalue("new_postgres")() if kernel.settings.database_url else ""
    settings = Settings(home=tmp_path / "restored", database_url=url)
    await asyncio.to_thread(restore, file, settings, kernel_house, quiet)
    other = kernel_house(settings)
    await other.start((), bus=False)
    try:
        def rows(connection: sa.Connection) -> dict[str, list[Any]]:
            found = sa.MetaData()
            found.reflect(connection)
            return {t.name: sorted(map(repr, connection.execute(sa.select(t)))) for t in found.sorted_tables}

        assert await other.db.read(rows) == await kernel.db.read(rows)
        assert "field" in other.packs.packs
        assert (await other.db.read(audit.verify_chain)).ok
        assert await Objects(settings).get("fuzhou/报告.pdf") == b"evidence"
        again = Persons(other, persons.connect, admin)
        assert await again.make("chen", "fuzhou") > 0
        await audit.note(other.db, admin, "test.thing.write", "fuzhou")
        assert (await other.db.read(audit.verify_chain)).ok
    finally:
        await other.stop()


async def test_nothing_is_restored_over_anything(kernel: House, admin: Actor, tmp_path: Path) -> None:
    file = await backed_up(kernel, admin, tmp_path / "b.tar")
    home = tmp_path / "occupied"
    home.mkdir()
    (home / "file").touch()
    with pytest.raises(Conflict):
        restore(file, dataclasses.replace(kernel.settings, home=home), kernel_house, quiet)
    if kernel.settings.database_url:
        with pytest.raises(Conflict, match="not empty"):
            await asyncio.to_thread(
                restore, file, dataclasses.replace(kernel.settings, home=tmp_path / "new"), kernel_house, quiet
            )
        assert not (tmp_path / "new").exists()


async def test_a_damaged_backup_is_refused_before_anything_is_written(
    kernel: House, admin: Actor, tmp_path: Path
) -> None:
    file = await backed_up(kernel, admin, tmp_path / "b.tar")
    verify(file)
    with tarfile.open(file) as tar:
        places = {m.name: m.offset_data for m in tar if m.size}
    whole = file.read_bytes()
    for name, at in places.items():
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Invalid) as raised:
            restore(file, Settings(home=tmp_path / "new"), kernel_house, quiet)
        assert raised.value.value in (name, file.name)
    for cut in (0, 100, len(whole) // 2, places["manifest.json"], places["manifest.json"] + 100):
        file.write_bytes(whole[:cut])
        with pytest.raises(Invalid):
            restore(file, Settings(home=tmp_path / "new"), kernel_house, quiet)
    assert not (tmp_path / "new").exists()


async def test_a_member_outside_the_home_is_refused(tmp_path: Path) -> None:
    for name in ("../evil", "/etc/evil", "objects/../../evil", "other/file"):
        file = tmp_path / "evil.tar"
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(Invalid):
            verify(file)


async def test_settings_come_back_without_secrets(kernel: House, admin: Actor, tmp_path: Path) -> None:
    if kernel.settings.database_url:
        pytest.skip("the settings part does not depend on the store")
    sources = {"log_level": "file", "admin_password": "env", "oidc_client_secret": "file"}
    kernel.settings = dataclasses.replace(
        kernel.settings, log_level="debug", admin_password="hush-hush-hush", oidc_client_secret="hush-too",
        sources=sources,  # type: ignore[arg-type]
    )
    file = await backed_up(kernel, admin, tmp_path / "b.tar")
    assert b"hush" not in file.read_bytes()
    settings = Settings(home=tmp_path / "restored")
    found = await asyncio.to_thread(restore, file, settings, kernel_house, quiet)
    assert found["secrets_to_set"] == ["admin_password", "oidc_client_secret"]
    assert (tmp_path / "restored" / "tulou.toml").read_text() == 'log_level = "debug"\n'


async def test_only_the_platform_makes_backups(kernel: House, persons: Persons) -> None:
    client = await persons.sign_in("lin", "fujian", ("fujian", "admin", True))
    assert (await client.post("/api/v1/backups")).status_code == 403
    actor = Actor("user:lin", "lin", "fujian")
    with pytest.raises(Forbidden):
        await kernel.service(Backup).create(actor)


class Letters:
    """A plugin with one stream."""

    @hookimpl
    def streams(self, house: House) -> list[StreamSpec]:
        return [StreamSpec("LETTERS", ("letters.>",), 1 << 24)]


async def test_streams_keep_what_nobody_took_with_its_numbers(
    nats_server: NatsServer, admin: Actor, tmp_path: Path
) -> None:
    def house_of(settings: Settings) -> House:
        manager = kernel_plugins()
        manager.register(Letters())
        return House(settings, manager)

    first = house_of(Settings(home=tmp_path / "first", nats_url=nats_server.url))
    await first.start(())
    js = first.bus.js
    for n in range(1, 13):
        await js.publish("letters.a", b"letter %d" % n, headers={"Nats-Msg-Id": str(n)})
    reader = await js.pull_subscribe("letters.>", durable="reader", stream="LETTERS")
    for message in await reader.fetch(5, timeout=5):
        await message.ack_sync()
    await js.delete_msg("LETTERS", 8)
    file = tmp_path / "b.tar"
    manifest = await first.service(Backup).write(file, quiet)
    assert manifest["streams"] == {"LETTERS": {"first_seq": 6, "last_seq": 12, "messages": 6}}
    await first.stop()

    settings = Settings(home=tmp_path / "second")
    await asyncio.to_thread(restore, file, settings, house_of, quiet)
    second = house_of(settings)
    await second.start(())
    try:
        reader = await second.bus.js.pull_subscribe("letters.>", durable="reader", stream="LETTERS")
        found = [(m.metadata.sequence.stream, m.data) for m in await reader.fetch(6, timeout=5)]
        assert found[:2] == [(6, b"letter 6"), (7, b"letter 7")]
        assert [data for _, data in found] == [b"letter %d" % n for n in (6, 7, 9, 10, 11, 12)]
        again = await second.bus.js.publish("letters.a", b"letter 13")
        assert again.seq > found[-1][0]
    finally:
        await second.stop()


class Up:
    """`tulou up` in a process of its own, and the command line beside it."""

    def __init__(self, home: Path, database_url: str) -> None:
        self.home = home
        self.port = free_port()
        self.env = {
            **os.environ, "TULOU_HOME": str(home), "TULOU_HTTP_PORT": str(self.port), "TULOU_MQTT_PORT": "0",
            "TULOU_DATABASE_URL": database_url, "TULOU_ADMIN_PASSWORD": "a long enough passphrase",
        }

    def cli(self, *words: str) -> Any:
        run = subprocess.run(
            [sys.executable, "-m", "tulou", "--json", *words], env=self.env, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stderr + run.stdout
        return json.loads(run.stdout) if run.stdout.strip() else None

    @contextlib.contextmanager
    def running(self, role: str) -> Iterator[httpx.Client]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tulou", "up", "--role", role], env=self.env,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        try:
            deadline = time.monotonic() + 150
            while not (self.home / "run.json").exists():
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.1)
            run = json.loads((self.home / "run.json").read_text())
            headers = {"authorization": f"Bearer {run['token']}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60) as client:
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            if process.stderr:
                process.stderr.close()


def points(client: httpx.Client, no: int, expected: int) -> list[Any]:
    """The raw series of the thing, once it has `expected` points or after a minute."""
    found: list[Any] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = client.get(f"/api/v1/things/{no}/series?property=pm25&from=2026-01-01T00:00:00Z&to=2026-01-01T00:10:00Z")
        found = answer.json().get("points", []) if answer.status_code == 200 else []
        if sum(1 for _ in found) >= expected:
            break
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_running_house_is_backed_up_and_the_restored_one_answers_alike(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Stored readings, a message that no writer has taken yet, entities, people, objects: all of it."""
    make: Callable[[], str] = request.getfixturevalue("new_postgres") if store == "postgresql" else (lambda: "")
    first = Up(tmp_path / "first", make())
    minute = 1_767_225_600_000  # 2026-01-01T00:00:00Z in ms

    def send(client: httpx.Client, token: str, *minutes: int) -> None:
        body = [{"ts": minute + m * 60_000, "values": {"pm25": 10.5 + m}} for m in minutes]
        answer = client.post(f"/api/v1/{token}/telemetry", json=body)
        assert answer.status_code == 200, answer.text

    with first.running("api,writer") as client:
        kinds = [m["type"] for m in client.get("/api/v1/models").json() if any(p["name"] == "pm25" for p in m["properties"])]
        made = client.post("/api/v1/devices", json={"org": "fuzhou", "type": kinds[0], "name": "鼓楼站"})
        assert made.status_code in (200, 201), made.text
        device = made.json()
        token = device.get("token") or device["device"]["token"]
        no = client.get("/api/v1/things?q=鼓楼站").json()["items"][0]["no"]
        send(client, token, 0, 1, 2)
        assert len(points(client, no, 3)) == 3
    asyncio.run(Objects(Settings(home=first.home)).put("fuzhou/evidence.pdf", b"evidence" * 1000))
    with first.running("api") as client:
        send(client, token, 3, 4)
        first.cli("backup", str(tmp_path / "b.tar"))
        send(client, token, 5)
        things = client.get("/api/v1/things?q=鼓楼站").json()["items"][0]
        orgs = client.get("/api/v1/orgs?limit=1000").json()
        chain = client.get("/api/v1/audit/verify").json()
    second = Up(tmp_path / "second", make())
    second.cli("restore", str(tmp_path / "b.tar"), "--home", str(second.home))
    with second.running("api,writer") as client:
        assert [p[1] for p in points(client, no, 5)] == [10.5, 11.5, 12.5, 13.5, 14.5]
        found = client.get("/api/v1/things?q=鼓楼站").json()["items"][0]
        assert (found["no"], found["id"], found["org"]) == (things["no"], things["id"], things["org"])
        assert client.get("/api/v1/orgs?limit=1000").json() == orgs
        expect = f"{chain['count']}:{chain['head']}"
        assert client.get(f"/api/v1/audit/verify?expect={expect}").json()["ok"] is True
        send(client, token, 6)
        assert len(points(client, no, 6)) == 6
    assert asyncio.run(Objects(Settings(home=second.home)).get("fuzhou/evidence.pdf")) == b"evidence" * 1000
