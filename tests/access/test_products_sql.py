"""Products on both relational stores: one name once, other processes, retention, a restart, and a pack that comes later."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.access.conftest import ADMIN, eventually
from tulou.access.models import NewDevice
from tulou.access.products.service import Products
from tulou.access.products.tables import NewProduct, ProductChange
from tulou.access.service import Devices
from tulou.kernel.bus import free_port
from tulou.kernel.errors import Conflict
from tulou.kernel.house import House
from tulou.kernel.packs import Model, Property, Text
from tulou.kernel.settings import Settings

LABEL = Text(zh="探头", en="Probe")


def model(days: int | None = None, **properties: Any) -> Model:
    return Model(label=LABEL, retention_days=days, properties={name: Property(label=LABEL, **more) for name, more in properties.items()})


async def ttl(house: House) -> str:
    found = await house.readings.sql("SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'readings'")
    return str(found.rows[0][0])


async def refused(work: Any) -> Conflict:
    try:
        await work
    except Conflict as error:
        return error
    raise AssertionError("not refused")


async def test_the_life_of_a_product(database_url: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"home": tmp_path / "home", "database_url": database_url, "mqtt_port": 0}
    house = House(Settings(http_port=free_port(), **more))
    await house.start(("api", "writer"))
    other = House(Settings(http_port=free_port(), nats_url=house.bus.url, **more))
    await other.start(("worker",))
    try:
        products = house.service(Products)
        new = NewProduct(org="fuzhou", name="Probe", model=model(7, depth={"max": 5}))
        two = await asyncio.gather(products.create(ADMIN, new), products.create(ADMIN, new), return_exceptions=True)
        assert sorted(type(one).__name__ for one in two) == ["Conflict", "dict"]

        async def there() -> bool:
            return other.packs.org_of.get("Probe") == "fuzhou"

        await eventually(there)

        async def kept() -> bool:
            return "Probe" in await ttl(house)

        await eventually(kept)
        await house.service(Devices).create(ADMIN, NewDevice(org="fuzhou", type="Probe", name="p", id="p-1"))
        assert (await refused(products.delete(ADMIN, "Probe"))).rule == "no entities of the type"
        assert (await products.get(ADMIN, "Probe"))["entities"] == 1
        change = ProductChange(model=model(9, depth={"max": 6}), version=1)
        both = await asyncio.gather(*(products.replace(ADMIN, "Probe", change) for _ in range(2)), return_exceptions=True)
        assert sorted(type(one).__name__ for one in both) == ["Conflict", "dict"]

        async def follows() -> bool:
            return other.packs.models["Probe"].properties["depth"].max == 6

        await eventually(follows)
        kind = ProductChange(model=model(9, depth={"kind": "string"}), version=2)
        assert (await refused(products.replace(ADMIN, "Probe", kind))).field == "model.properties.depth.kind"
        await other.service(Products).create(ADMIN, NewProduct(org="fuzhou", name="Sonde", model=model(depth={})))

        async def back() -> bool:
            return "Sonde" in house.packs.models

        await eventually(back)
        page = await products.find(ADMIN, limit=1)
        assert ([one["name"] for one in page["items"]], (await products.find(ADMIN, after=page["next"]))["items"][0]["name"]) == (["Probe"], "Sonde")
    finally:
        await other.stop()
        await house.stop()

    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "pack.yaml").write_text("""
name: later
version: "1"
label: {zh: 后来的包, en: A later pack}
models:
  Sonde:
    label: {zh: 探空仪, en: Sonde}
    properties:
      depth: {label: {zh: 深度, en: Depth}, iri: "https://example.org/depth"}
""", "utf-8")
    again = House(Settings(http_port=free_port(), packs=str(folder), **more))
    await again.start(("api", "writer"))
    try:
        assert again.packs.models["Probe"].properties["depth"].max == 6
        assert "Probe" in await ttl(again)
        assert (again.packs.pack_of["Sonde"], again.packs.models["Sonde"].label.zh) == ("later", "探空仪"), "a pack's name is the pack's"
        assert again.packs.models["Probe"].properties["depth"].iri == "https://example.org/depth"
        products = again.service(Products)
        assert [one["name"] for one in (await products.find(ADMIN))["items"]] == ["Probe", "Sonde"]
        await products.delete(ADMIN, "Sonde")
        assert again.packs.pack_of["Sonde"] == "later"
    finally:
        await again.stop()
