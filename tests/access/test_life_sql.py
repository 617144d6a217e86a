"""Credentials, provisioning, groups, quotas and claims on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import sqlalchemy as sa

from tests.access.conftest import ADMIN
from tulou.access.certificates import x509
from tulou.access.certificates.door import ANCHORS, AUTHORITIES, CERTIFICATE
from tulou.access.certificates.service import Certificates
from tulou.access.certificates.tables import NewCertificate
from tulou.access.claims import Claim, Claims, NewClaim
from tulou.access.gateway import LIMITS
from tulou.access.groups.service import Groups
from tulou.access.groups.tables import Members, NewGroup
from tulou.access.lorawan.door import DownlinkDoor
from tulou.access.models import NewDevice
from tulou.access.provisioning.service import Provisioning
from tulou.access.provisioning.tables import NewKey
from tulou.access.quotas.service import OverQuota, Quotas
from tulou.access.quotas.tables import Quota
from tulou.access.service import Devices
from tulou.kernel.bus import free_port
from tulou.kernel.house import House
from tulou.kernel.settings import Settings


@pytest.mark.postgres
async def test_the_life_of_a_device(new_postgres: Callable[[], str], tmp_path: Path) -> None:
    house = House(Settings(home=tmp_path / "home", http_port=free_port(), mqtt_port=0, database_url=new_postgres()))
    await house.start(("api",))
    try:
        provisioning, certificates, claims = house.service(Provisioning), house.service(Certificates), house.service(Claims)
        key = await provisioning.create(ADMIN, NewKey(org="fuzhou", type="AirQualityStation", name="x", most=2))
        asked = {"provisionDeviceKey": key["key"], "provisionDeviceSecret": key["secret"], "deviceName": "pg-1"}
        assert (await provisioning.provision(orjson.dumps(asked), "192.0.2.1"))["status"] == "SUCCESS"
        device = await house.service(Devices).get(ADMIN, "fuzhou:pg-1")
        made = await certificates.add(ADMIN, device["id"], NewCertificate())
        row = await house.db.point(CERTIFICATE)(made["fingerprint"])
        assert row is not None
        assert (row[0], row[7], row[8]) == ("active", device["id"], "active")
        vouching = await house.db.read(lambda c: c.execute(AUTHORITIES).all())
        assert x509.fingerprint(bytes(vouching[0].der)) == x509.from_pem(made["authority_certificate"]).fingerprint
        assert await house.db.read(lambda c: c.execute(ANCHORS, {"after": 0, "limit": 9}).all()) == []
        found = await certificates.expiring(ADMIN, days=400)
        assert [one["device"] for one in found["items"]] == [device["id"]]

        group = await house.service(Groups).create(ADMIN, NewGroup(org="fuzhou", name="g"))
        told = await house.service(Groups).regroup(ADMIN, group["no"], Members(add=[device["id"], "fuzhou:no"]))
        assert told == {"added": 1, "removed": 0, "unknown": ["fuzhou:no"]}
        listed = await house.service(Devices).find(ADMIN, group=group["no"])
        assert [one["id"] for one in listed["items"]] == [device["id"]]

        await house.service(Quotas).put(ADMIN, "xiamen", Quota(devices=0, messages_s=3))
        rates = {row.id: row.messages_s for row in await house.db.read(lambda c: c.execute(sa.text(LIMITS)).all())}
        assert (rates["xiamen"], rates["fuzhou"]) == (3, None)
        shown = await house.service(Quotas).put(ADMIN, "xiamen", Quota(devices=0, messages_s=3, readings=0))
        assert (shown["limits"]["readings"], shown["use"]["readings"]) == (0, 0)
        assert [row.id for row in await house.db.read(lambda c: c.execute(sa.text(LIMITS)).all()) if row.used_up] == ["xiamen"]
        await house.service(Quotas).put(ADMIN, "xiamen", Quota(devices=0, messages_s=3))
        for query in (DownlinkDoor.SERVERS, DownlinkDoor.DEVICES, DownlinkDoor.PARENTS):
            await house.db.read(lambda c, query=query: c.execute(sa.text(query)).all())  # type: ignore[misc]
        armed = await claims.arm(ADMIN, device["id"], NewClaim())
        claim = Claim(device=device["id"], secret=armed["secret"], org="xiamen")
        with pytest.raises(OverQuota):
            await claims.claim(ADMIN, claim)
        with pytest.raises(OverQuota):
            await house.service(Devices).create(ADMIN, NewDevice(org="xiamen", type="AirQualityStation", name="x", id="full"))
        await house.service(Quotas).put(ADMIN, "xiamen", Quota())
        moved = await claims.claim(ADMIN, claim)
        assert moved["id"] == "xiamen:pg-1"
        assert [one["no"] for one in (await certificates.find(ADMIN, moved["id"]))["items"]] == [made["no"]]
        assert (await house.service(Groups).get(ADMIN, group["no"]))["devices"] == 0
        revoked = await certificates.revoke(ADMIN, moved["id"], made["no"])
        assert revoked["status"] == "revoked"
        await house.service(Devices).delete(ADMIN, moved["id"])
        row = await house.db.point(CERTIFICATE)(made["fingerprint"])
        assert row is not None
        assert row[0] == "revoked", "remembered"
    finally:
        await house.stop()
