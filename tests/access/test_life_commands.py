"""`tulou certificate`, `authority`, `provision`, `group`, `quota` and `device claim` as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.access.test_certificates import Authority, openssl
from tests.access.test_devices_commands import Tulou, tulou  # noqa: F401

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_from_the_command_line(tulou: Tulou, tmp_path: Path) -> None:  # noqa: F811
    station = await tulou("device", "create", "--org", "fuzhou", "--type", "Manhole", "--name", "井", "--id", "life-1")
    device = station["id"]
    made = await tulou("certificate", "add", device, "--out", str(tmp_path / "own"))
    assert "private_key" not in made
    files = tmp_path / "own"
    assert (files / "key.pem").stat().st_mode & 0o777 == 0o600
    openssl("verify", "-CAfile", "authority.pem", "certificate.pem", folder=files)
    await tulou("certificate", "add", device, code=2)
    assert [one["no"] for one in (await tulou("certificate", "list", device))["items"]] == [made["no"]]
    assert [one["device"] for one in (await tulou("certificate", "expiring", "--days", "400"))["items"]] == [device]
    assert (await tulou("certificate", "revoke", device, str(made["no"])))["status"] == "revoked"

    vendor = Authority(tmp_path / "vendor")
    pending = await tulou("authority", "register", str(tmp_path / "vendor" / "ca.pem"), "--org", "fuzhou", "--name", "V")
    proof, _ = vendor.issue(f"/CN={pending['code']}", "proof")
    await tulou("authority", "prove", str(pending["no"]), str(tmp_path / "vendor" / "ca.pem"), code=1)
    assert (await tulou("authority", "prove", str(pending["no"]), proof))["status"] == "active"
    assert (await tulou("authority", "withdraw", str(pending["no"])))["status"] == "revoked"
    assert {one["own"] for one in (await tulou("authority", "list"))["items"]} == {True, False}

    key = await tulou("provision", "create", "--org", "fuzhou", "--type", "Manhole", "--name", "批次", "--most", "5")
    assert len(key["secret"]) == 30
    assert (await tulou("provision", "disable", str(key["no"])))["enabled"] is False
    assert (await tulou("provision", "disable", str(key["no"]), "--undo"))["enabled"] is True
    assert [one["no"] for one in (await tulou("provision", "list"))["items"]] == [key["no"]]
    await tulou("provision", "delete", str(key["no"]))

    group = await tulou("group", "create", "河口", "--org", "fuzhou")
    assert (await tulou("group", "add", str(group["no"]), device, "fuzhou:no"))["unknown"] == ["fuzhou:no"]
    assert [one["id"] for one in (await tulou("device", "list", "--group", str(group["no"])))["items"]] == [device]
    assert (await tulou("group", "remove", str(group["no"]), device))["removed"] == 1
    assert (await tulou("group", "rename", str(group["no"]), "山区"))["name"] == "山区"
    assert [one["name"] for one in (await tulou("group", "list"))["items"]] == ["山区"]
    await tulou("group", "delete", str(group["no"]))

    limits = (await tulou("quota", "set", "fuzhou", "--devices", "9", "--readings", "1000000"))["limits"]
    assert limits == {"devices": 9, "messages_s": None, "readings": 1_000_000}
    assert (await tulou("quota", "show", "fuzhou"))["use"]["devices"] >= 1
    await tulou("quota", "set", "fuzhou")

    armed = await tulou("device", "claimable", device, "--seconds", "60")
    await tulou("device", "claim", device, "--org", "xiamen", stdin="wrong secret\n", code=1)
    moved = await tulou("device", "claim", device, "--org", "xiamen", stdin=armed["secret"] + "\n")
    assert moved["id"] == "xiamen:life-1"
