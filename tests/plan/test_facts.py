"""What counts as measured, against the real readings store: never synthetic, estimated, bad, old or future readings."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.conftest import kernel_plugins

import tulou.access
import tulou.context
import tulou.plan.facts
import tulou.plan.hooks
from tulou.access import Directory
from tulou.context import entities
from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.house import House
from tulou.kernel.policy import Actor
from tulou.kernel.readings import Frames, Rows
from tulou.kernel.settings import Settings
from tulou.kernel.sql import utcnow
from tulou.plan.facts import MeasuredFacts
from tulou.plan.queries import Count, Sum, Tally
from tulou.plan.service import Plans

MEASURED, REPORTED, ESTIMATED, SYNTHETIC = range(4)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


class Register:
    """The tables and the directory of the engines below, which are not needed otherwise."""

    def __init__(self, engine: ModuleType) -> None:
        self.engine = engine

    @hookimpl
    def migrations(self) -> Path:
        return Path(str(self.engine.__file__)).parent / "migrations"

    @hookimpl
    def services(self, house: House) -> list[object]:
        return [Directory(house)] if self.engine is tulou.access else []


class World:
    """A house in which a test registers things and lets them speak."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.facts = MeasuredFacts(house)
        self.now = utcnow()
        self._token = 0

    async def thing(self, kind: str, *, synthetic: bool = False, org: str = "fuzhou") -> int:
        """Register an entity; returns its number."""
        now = int(self.now.timestamp() * 1e6)
        row: dict[str, Any] = {
            "id": f"urn:ngsi-ld:{kind}:{self._token}-{utcnow().timestamp()}", "org": org, "type": kind, "doc": {},
            "synthetic": synthetic, "created_at": now, "modified_at": now, "version": 1,
        }
        key = await self.house.db.write(lambda c: c.execute(entities.insert().values(row)).inserted_primary_key)
        assert key is not None
        return int(key[0])

    async def says(
        self, no: int, kind: str, property: str, value: float | str, *, ago: dt.timedelta = HOUR, origin: int = MEASURED,
        quality: int = 0, org: str = "fuzhou",
    ) -> None:
        """Store one reading."""
        self._token += 1
        text = {0: value} if isinstance(value, str) else {}
        number = float("nan") if isinstance(value, str) else value
        rows = Rows(
            np.array([no], np.uint64), np.zeros(1, np.int32), np.array([int((self.now - ago).timestamp() * 1e6)], np.int64),
            np.array([number], np.float64), np.array([quality], np.uint8), np.zeros(1, np.int32), np.ones(1, np.uint64),
            np.zeros(1, np.uint32), [property], [(org, kind, origin)], text,
        )
        await self.house.readings.insert(rows, NO_FRAMES, f"t:{self._token}")

    async def forget(self, no: int) -> None:
        """Delete an entity; its readings stay."""
        await self.house.db.write(lambda c: c.execute(entities.delete().where(entities.c.no == no)))

    async def ask(self, selection: Count | Sum) -> Tally:
        await self.house.service(Directory).reload()
        return await self.facts.tally(selection, self.now)


def _no_frames() -> Frames:
    import pyarrow as pa

    whole, small, flags = np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.uint8)
    return Frames(whole, np.empty(0, np.int64), small, small, flags, whole, np.empty(0, np.uint32),
                  pa.array([], pa.binary()), [], [])


NO_FRAMES = _no_frames()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    manager = kernel_plugins()
    manager.register(Register(tulou.context), "context")
    manager.register(Register(tulou.access), "access")
    manager.register(tulou.plan.hooks, "tulou.plan.hooks")
    house = House(Settings(home=tmp_path / "home"), manager)
    await house.start(("api",), bus=False)
    yield World(house)
    await house.stop()


def count(**more: Any) -> Count:
    return Count(types=["Site5G"], reported_within_days=7, **more)


async def test_only_measured_good_recent_readings_of_real_things_count(world: World) -> None:
    assert await world.ask(count()) == Tally(0, 0, None, None)
    made_up = await world.thing("Site5G", synthetic=True)
    await world.says(made_up, "Site5G", "activePower", 300, origin=SYNTHETIC)
    assert await world.ask(count()) == Tally(0, 0, None, None), "a synthetic thing is not even known"

    real = [await world.thing("Site5G") for _ in range(7)]
    assert await world.ask(count()) == Tally(7, 0, None, None), "registered, and silent"
    await world.says(real[0], "Site5G", "activePower", 300)
    await world.says(real[1], "Site5G", "activePower", 300, origin=REPORTED)
    await world.says(real[2], "Site5G", "activePower", 300, origin=ESTIMATED)
    await world.says(real[3], "Site5G", "activePower", 300, origin=SYNTHETIC)
    await world.says(real[4], "Site5G", "activePower", 300, quality=2)
    await world.says(real[5], "Site5G", "activePower", 300, ago=8 * DAY)
    await world.says(real[6], "Site5G", "activePower", 300, ago=-HOUR)
    tally = await world.ask(count())
    assert (tally.known, tally.reported, tally.value) == (7, 1, 1)
    assert tally.newest == world.now - HOUR
    other = await world.thing("Manhole")
    await world.says(other, "Manhole", "tilt", 1, quality=1)
    assert (await world.ask(count())).value == 1
    assert (await world.ask(Count(types=["*"], reported_within_days=7))).value == 2, "uncertain is not bad"
    assert (await world.ask(Count(types=["Site5G", "Manhole"], reported_within_days=30))).value == 3


async def test_what_is_deleted_or_declared_synthetic_counts_no_more(world: World) -> None:
    sites = [await world.thing("Site5G") for _ in range(3)]
    for site in sites:
        await world.says(site, "Site5G", "activePower", 300)
    assert (await world.ask(count())).value == 3
    await world.forget(sites[1])
    tally = await world.ask(count())
    assert (tally.known, tally.reported, tally.value) == (2, 2, 2)
    change = entities.update().where(entities.c.no == sites[0]).values(synthetic=True)
    await world.house.db.write(lambda c: c.execute(change))
    assert (await world.ask(count())).value == 1


async def test_many_spans_are_one_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tulou.plan.facts, "SPAN", 2)
    for number in range(5):
        site = await world.thing("Site5G")
        await world.says(site, "Site5G", "activePower", number, ago=(number + 1) * HOUR)
    tally = await world.ask(count())
    assert tally == Tally(5, 5, Decimal(5), world.now - HOUR)
    total = Sum(types=["Site5G"], property="activePower", reported_within_days=7)
    assert (await world.ask(total)).value == 10


async def test_conditions_look_at_the_latest_reading_only(world: World) -> None:
    site = await world.thing("Site5G")
    serving = count(where=[{"property": "serviceState", "any_of": ["in_service", "it's \\ odd"]}])
    await world.says(site, "Site5G", "serviceState", "in_service", ago=3 * HOUR)
    assert (await world.ask(serving)).value == 1
    await world.says(site, "Site5G", "serviceState", "off", ago=2 * HOUR)
    tally = await world.ask(serving)
    assert (tally.known, tally.reported, tally.value) == (1, 1, 0)
    await world.says(site, "Site5G", "serviceState", "it's \\ odd", ago=HOUR)
    assert (await world.ask(serving)).value == 1
    await world.says(site, "Site5G", "batteryVoltage", 48.5)
    for low, high, found in ((48.5, None, 1), (48.6, None, 0), (None, 48.5, 1), (None, 48.4, 0), (48, 49, 1)):
        bounds = {"property": "batteryVoltage", "at_least": low, "at_most": high}
        assert (await world.ask(count(where=[bounds, {"property": "serviceState", "any_of": ["it's \\ odd"]}]))).value == found


async def test_a_sum_is_exact_and_takes_only_what_fits(world: World) -> None:
    for speed, state in ((0.1, "up"), (0.2, "up"), (100, "down"), (None, "up")):
        link = await world.thing("EgressLink")
        await world.says(link, "EgressLink", "ifOperStatus", state)
        if speed is not None:
            await world.says(link, "EgressLink", "ifHighSpeed", speed)
    up = Sum(
        types=["EgressLink"], property="ifHighSpeed", reported_within_days=7,
        where=[{"property": "ifOperStatus", "any_of": ["up"]}],
    )  # fmt: skip
    tally = await world.ask(up)
    assert (tally.known, tally.reported, tally.value) == (4, 4, Decimal("0.3"))


async def test_distinct_counts_a_rack_once_within_its_organisation(world: World) -> None:
    for org, rack, power in (("fuzhou", "A1", 90), ("fuzhou", "A1", 80), ("xiamen", "A1", 90), ("fuzhou", "A2", 0), ("fuzhou", None, 90)):
        unit = await world.thing("RackPDU", org=org)
        if rack is not None:
            await world.says(unit, "RackPDU", "rack", rack, org=org)
        await world.says(unit, "RackPDU", "activePower", power, org=org)
    racks = Count(
        types=["RackPDU"], reported_within_days=7, distinct="rack", where=[{"property": "activePower", "at_least": 50}]
    )
    tally = await world.ask(racks)
    assert (tally.reported, tally.value) == (5, 2)


async def test_a_reading_becomes_the_target_s_number(world: World, admin: Actor) -> None:
    plans = world.house.service(Plans)
    for state in ("in_service", "in_service", "planned"):
        site = await world.thing("Site5G")
        await world.says(site, "Site5G", "serviceState", state)
    await world.says(await world.thing("Site5G", synthetic=True), "Site5G", "serviceState", "in_service", origin=SYNTHETIC)
    await world.house.service(Directory).reload()
    assert len(await plans.measure(admin)) == 11
    targets = {one["id"]: one for one in await plans.targets(admin)}
    site = targets["5g-stations"]
    assert (site["state"], site["value"], site["met"]) == ("measured", 2, False)
    assert site["why_en"].startswith("Measured: 3 real things of the kind are registered, of which 3 sent")
    assert targets["iot-terminals"]["value"] == 0.0003, "three, in tens of thousands"
    assert {key for key, one in targets.items() if one["state"] == "measured"} == {"5g-stations", "iot-terminals"}
    assert "synthetic data never counts" in targets["racks-in-use"]["why_en"]
