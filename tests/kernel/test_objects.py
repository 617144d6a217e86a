"""Objects: atomic, durable, inside the store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.objects import Objects, checked_key
from tulou.kernel.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Objects:
    return Objects(Settings(home=tmp_path))


async def test_what_is_put_is_what_is_got(store: Objects) -> None:
    data = b"evidence" * 1000
    stored = await store.put("fuzhou/报告/2026.pdf", data)
    assert stored == ("fuzhou/报告/2026.pdf", len(data), hashlib.sha256(data).hexdigest())
    assert await store.get(stored.key) == data
    with store.open(stored.key) as file:
        file.seek(8)
        assert file.read(8) == b"evidence"


async def test_a_stream_that_breaks_leaves_the_old_object(store: Objects, tmp_path: Path) -> None:
    await store.put("fuzhou/a", b"old")

    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise RuntimeError("connection lost")

    with pytest.raises(RuntimeError, match="connection lost"):
        await store.put("fuzhou/a", broken())
    assert await store.get("fuzhou/a") == b"old"
    assert [p.name for p in (tmp_path / "objects" / "fuzhou").iterdir()] == ["a"]


async def test_lists_are_by_organisation(store: Objects) -> None:
    for key in ("fuzhou/x/1", "fuzhou/x/2", "fuzhou/y", "fuzhou.fgw/x/1"):
        await store.put(key, b"12")
    assert [f.key for f in await store.list("fuzhou")] == ["fuzhou/x/1", "fuzhou/x/2", "fuzhou/y"]
    assert [f.key for f in await store.list("fuzhou", "x/")] == ["fuzhou/x/1", "fuzhou/x/2"]
    assert await store.list("xiamen") == []
    assert tuple(next(store.walk())) == ("fuzhou.fgw/x/1", 2)


async def test_deleting(store: Objects) -> None:
    await store.put("fuzhou/a", b"x")
    assert await store.delete("fuzhou/a") is True
    assert await store.delete("fuzhou/a") is False
    with pytest.raises(NotFound):
        await store.get("fuzhou/a")


@pytest.mark.parametrize("key", [
    "../secret", "fuzhou/../../tulou.db", "/etc/passwd", "fuzhou//a", "fuzhou/./a", "fuzhou", "", "fuzhou/a\\..\\b",
    "fuzhou/a\0b", "fuzhou/.part-x", "fuzhou/" + "x" * 300, "fuzhou/\n",
])
async def test_a_key_does_not_leave_the_store(store: Objects, key: str) -> None:
    with pytest.raises(Invalid):
        await store.put(key, b"x")
    with pytest.raises(Invalid):
        await store.get(key)


@given(st.text(max_size=60))
def test_every_accepted_key_stays_inside(key: str) -> None:
    try:
        checked_key(key)
    except Invalid:
        return
    assert Path("/store", key).resolve().is_relative_to("/store")
    assert len(Path("/store", key).parts) >= 4


async def test_an_object_store_behind_fsspec_works_the_same(tmp_path: Path) -> None:
    """The remote branch (no rename, no fsync), on fsspec's memory file system. S3 itself is not started here."""
    store = Objects(Settings(home=tmp_path, objects_url="memory://bucket/tulou"))
    stored = await store.put("fuzhou/a", [b"1", b"2"])
    assert stored.size == 2
    assert await store.get("fuzhou/a") == b"12"
    assert [f.key for f in await store.list("fuzhou")] == ["fuzhou/a"]
    assert await store.delete("fuzhou/a")
