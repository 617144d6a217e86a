"""The directory agrees with SQL, however it was kept up to date."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from tulou.access import Directory, devices
from tulou.access.directory import Thing, runs
from tulou.access.models import alarms
from tulou.context import entities
from tulou.kernel.house import House
from tulou.kernel.policy import Orgs
from tulou.kernel.settings import Settings
from tulou.kernel.sql import utcnow

EVERYTHING = Orgs(True, frozenset())
ORGS, TYPES = ("fuzhou", "xiamen", "putian"), ("Manhole", "Device", "Elsewhere")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(Settings(home=tmp_path / "home"))
    made.open_database()
    yield made
    await made.db.close()


class Registry:
    """Random changes of the tables, and the numbers that each touched."""

    def __init__(self, house: House, seed: int) -> None:
        self.db, self.dice, self.next = house.db, random.Random(seed), 0
        self.alive: list[int] = []

    async def change(self) -> set[int]:
        dice = self.dice
        kind = dice.choice(("add", "add", "rename", "move", "remove", "device", "alarm", "clear"))
        if kind == "add" or not self.alive:
            nos = []
            for _ in range(dice.randint(1, 5)):
                self.next += dice.randint(1, 3)
                nos.append(self.next)
            rows = [
                {
                    "no": no, "id": f"urn:x:{no}", "org": dice.choice(ORGS), "type": dice.choice(TYPES),
                    "name": dice.choice([None, f"名 {no}"]), "doc": {}, "synthetic": dice.random() < 0.5,
                    "lon": dice.choice([None, dice.random()]), "lat": dice.random(), "created_at": 1,
                    "modified_at": 1, "version": 1,
                }
                for no in nos
            ]
            await self.db.write(lambda c: c.execute(entities.insert(), rows) and None)
            self.alive += nos
            return set(nos)
        no = dice.choice(self.alive)
        here = entities.c.no == no
        statement: Any
        if kind == "rename":
            statement = entities.update().where(here).values(name=f"新 {dice.random()}", type=dice.choice(TYPES))
        elif kind == "move":
            statement = entities.update().where(here).values(lon=dice.choice([None, dice.random()]))
        elif kind == "remove":
            self.alive.remove(no)
            statement = entities.delete().where(here)
        elif kind == "device":
            gone = await self.db.write(lambda c: c.execute(devices.delete().where(devices.c.entity_no == no)).rowcount)
            if gone:
                return {no}
            statement = devices.insert().values(
                entity_no=no, id=f"o:{no}", org="fuzhou", entity_id="x", type="Device", name="x", origin=0,
                token_hash=str(no), token_prefix="", status="active", created_at=utcnow(), created_by="x",
                seen_at=dice.choice([None, dice.randint(1, 1000)]),
            )
        elif kind == "alarm":
            statement = alarms.insert().values(
                entity_no=no, org="fuzhou", property=f"p{dice.random()}", rule="above", severity="minor",
                synthetic=False, raised_at=utcnow(), updated_at=utcnow(),
            )
        else:
            statement = alarms.update().where(alarms.c.entity_no == no).values(cleared_at=utcnow())
        await self.db.write(lambda c: c.execute(statement) and None)
        return {no}


def rows_of(directory: Directory) -> dict[int, tuple[Any, ...]]:
    return {
        int(directory.no[i]): (
            directory.ids[i], directory.names[i], directory.keys[i], directory.orgs[directory.org[i]],
            directory.types[directory.type[i]], str(directory.lon[i]), str(directory.lat[i]),
            int(directory.synthetic[i]), int(directory.device[i]), int(directory.alarms[i]),
        )
        for i in range(directory.size)
    }


@pytest.mark.parametrize("seed", range(4))
async def test_kept_up_is_the_same_as_read_anew(house: House, seed: int) -> None:
    registry, kept = Registry(house, seed), Directory(house)
    await kept.reload()
    dirty: set[int] = set()
    for step in range(150):
        dirty |= await registry.change()
        if step % 5 == 0:
            version = kept.version
            before = rows_of(kept)
            await kept.refresh(dirty)
            anew = Directory(house)
            await anew.reload()
            assert rows_of(kept) == rows_of(anew)
            assert kept.no.tolist() == sorted(kept.no.tolist())
            static = [{no: row[:8] for no, row in rows.items()} for rows in (before, rows_of(kept))]
            if static[0] != static[1]:
                assert kept.version > version
            dirty = set()


async def test_nothing_new_changes_no_version(house: House) -> None:
    registry, directory = Registry(house, 9), Directory(house)
    await directory.reload()
    await directory.refresh(await registry.change())
    version = directory.version
    await directory.refresh([int(directory.no[0]), 10**9])
    assert directory.version == version


async def test_a_row_committed_out_of_order_finds_its_place(house: House) -> None:
    def entity(no: int) -> dict[str, Any]:
        return {"no": no, "id": f"urn:x:{no}", "org": "fuzhou", "type": "Device", "name": "x", "doc": {},
                "synthetic": False, "created_at": 1, "modified_at": 1, "version": 1}

    directory = Directory(house)
    await directory.reload()
    for no in (5, 3):
        await house.db.write(lambda c, no=no: c.execute(entities.insert(), entity(no)) and None)  # type: ignore[misc]
        await directory.refresh([no])
    assert directory.no.tolist() == [3, 5]


async def test_what_was_made_is_read_by_whom_it_passed_by(house: House) -> None:
    def thing(no: int, device: bool = True) -> Thing:
        return Thing(no, f"urn:x:{no}", "fuzhou", "Device", f"n {no}", True, 119.3, None, device)

    assert runs([7, 3, 2, 9, 8, 1]) == "1-3 7-9"
    directory = Directory(house)
    await directory.reload()
    await directory.add([thing(1), thing(2, device=False)])
    version = directory.version
    await directory.add([thing(3), thing(2)])  # in any order; 2 is known
    assert (directory.no.tolist(), directory.device.tolist()) == ([1, 2, 3], [1, 0, 1])
    assert directory.version > version
    await directory.add([thing(6), thing(7)])  # 4 and 5 may be another process's: SQL is asked, which has none of them
    assert directory.no.tolist() == [1, 2, 3]
    directory.made("2-3 5-9")
    assert not directory._dirty, "newer ones are read anyway"
    await directory.add([thing(5), thing(4)])
    assert (directory.no.tolist(), directory.ids[-1]) == ([1, 2, 3, 4, 5], "urn:x:5")
    directory._drop([1])
    directory.made("2-9")
    assert directory._dirty == {2}


async def test_what_was_seen_survives_a_reload(house: House) -> None:
    registry, directory = Registry(house, 3), Directory(house)
    for _ in range(20):
        await registry.change()
    await directory.reload()
    directory.heard(directory.no, 7_000_000)
    directory.heard(np.array([10**9], np.int64), 8_000_000)  # unknown: passed over
    directory.heard(directory.no[:1], 5_000_000)  # older: nothing
    await directory.reload()
    assert set(directory.seen.tolist()) == {7_000_000}


async def test_search_agrees_with_looking_at_each(house: House) -> None:
    registry, directory = Registry(house, 4), Directory(house)
    for _ in range(200):
        await registry.change()
    await directory.reload()
    orgs = Orgs(False, frozenset({"fuzhou", "putian", "nowhere"}))
    for q in ("", "名", "1", "URN:X:2", "zzz"):
        for kind in (None, "Device", "Unknown"):
            for synthetic in (None, True):
                wanted = [
                    i for i in range(directory.size)
                    if directory.orgs[directory.org[i]] in orgs
                    and (kind is None or directory.types[directory.type[i]] == kind)
                    and (synthetic is None or directory.synthetic[i] == 1)
                    and (q.lower() in directory.names[i].lower() or q.lower() in directory.ids[i].lower())
                ]
                found = directory.search(orgs, q=q, kind=kind, synthetic=synthetic, limit=7, count=True)
                assert (found.rows, found.count, found.more) == (wanted[:7], len(wanted), len(wanted) > 7)
                got: list[int] = []
                after = 0
                while True:
                    page = directory.search(orgs, q=q, kind=kind, synthetic=synthetic, limit=7, after=after)
                    got += page.rows
                    if not page.more:
                        break
                    after = int(directory.no[page.rows[-1]])
                assert got == wanted


async def test_seen_is_kept_only_forwards(house: House) -> None:
    registry, directory = Registry(house, 5), Directory(house)
    for _ in range(60):
        await registry.change()
    await directory.reload()
    at = int(np.flatnonzero(directory.device)[0])
    no = int(directory.no[at])
    directory.heard(np.array([no], np.int64), 9_000_000)
    await directory._keep()
    await house.db.write(lambda c: c.execute(
        devices.update().where(devices.c.entity_no == no).values(seen_at=10_000_000)) and None)
    directory.heard(np.array([no], np.int64), 9_500_000)
    await directory._keep()
    query = sa.select(devices.c.seen_at).where(devices.c.entity_no == no)
    assert await house.db.read(lambda c: c.execute(query).scalar_one()) == 10_000_000
