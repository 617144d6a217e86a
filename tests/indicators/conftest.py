"""A house with stations in two cities and a county, of which one is synthetic, and three months of readings in its store."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import sqlalchemy as sa

from tests.access.conftest import ADMIN, Estate
from tests.readings.test_readings import put
from tulou.access import Bulk, Devices
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.organisations import Organisations
from tulou.kernel.organisations.models import organisations
from tulou.kernel.readings import start_of
from tulou.kernel.settings import Settings
from tulou.kernel.sql import utcnow

HOUR = 3_600_000_000
MARCH = dt.date(2026, 3, 1)
STATIONS: dict[str, tuple[str, float, bool]] = {
    "gulou": ("fuzhou", 20.0, False), "cangshan": ("fuzhou.cangshan", 60.0, False), "siming": ("xiamen", 90.0, False),
    "made-up": ("xiamen", 1000.0, True), "silent": ("fuzhou", 0.0, False),
}
"""Organisation, PM2.5, synthetic. Each says its number in the first twelve hours of each day of March 2026, but `silent`."""


class Province(Estate):
    """The house, and the stations' numbers."""

    no: dict[str, int]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def province(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Province]:
    house = House(Settings(home=tmp_path_factory.mktemp("province") / "home", http_port=free_port(), mqtt_port=0))
    await house.start(("api",))
    try:
        made = Province(house)
        county = {
            "id": "fuzhou.cangshan", "name_zh": "仓山区", "name_en": "Cangshan", "kind": "county", "parent": "fuzhou", "state": "approved",
            "code": "350104", "applied_by": "test", "applied_at": utcnow(), "reason": "",
        }
        await house.db.write(lambda c: c.execute(sa.insert(organisations), [county]) and None)
        await house.service(Organisations).reload()
        lines = await house.service(Devices).create_many(ADMIN, Bulk(items=[
            {"org": org, "type": "AirQualityStation", "name": name, "id": name, "synthetic": synthetic, "lon": 119.0 + n / 10, "lat": 26.0}
            for n, (name, (org, _, synthetic)) in enumerate(STATIONS.items())
        ]))
        made.no = {line["name"]: line["no"] for line in lines}
        for name, (org, value, synthetic) in STATIONS.items():
            if name != "silent":
                await put(house.readings, [
                    (made.no[name], "pm25", start_of(MARCH + dt.timedelta(days=day)) + hour * HOUR, value + hour)
                    for day in range(31) for hour in range(12)
                ], token=name, of=(org, "AirQualityStation", 3 if synthetic else 0))
        yield made
        for client in made.clients:
            await client.aclose()
    finally:
        await house.stop()
