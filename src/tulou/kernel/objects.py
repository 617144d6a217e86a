"""Objects: files of organisations in a folder of the home, or in an object store (fsspec).

Law: a key is `<organisation>/<path>`; a key that would leave the store is refused. `put` returns only when the object
is whole and durable under its key; a reader sees the old object or the new one, never half of one. The SHA-256 of what
was written is the receipt. Access is decided by the engine that owns the object, before it comes here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import fsspec

from tulou.kernel.errors import Invalid, NotFound, Unavailable
from tulou.kernel.settings import Settings

T = TypeVar("T")

CHUNK = 1 << 20
TEMPORARY = ".part-"


class Stored(NamedTuple):
    """The receipt of a `put`."""

    key: str
    size: int
    sha256: str


class Found(NamedTuple):
    """An object of a listing."""

    key: str
    size: int


def checked_key(key: str) -> str:
    """`key`, if it names an object inside the store. Raises `Invalid`."""
    parts = key.split("/")
    bad = (
        len(parts) < 2 or len(key.encode()) > 900 or "\\" in key
        or any(p in ("", ".", "..") or p.startswith(TEMPORARY) or len(p.encode()) > 200 for p in parts)
        or any(ord(c) < 32 or ord(c) == 127 for c in key)
    )
    if bad:
        raise Invalid(
            f"对象名 {key!r} 不合规则", f"{key!r} is not an object's key", field="key", value=key,
            rule="organisation/path, no empty part, no . or .., no control characters",
        )
    return key


class Objects:
    """The object store of a house."""

    def __init__(self, settings: Settings) -> None:
        self.local = not settings.objects_url
        url = settings.objects_url.rstrip("/") or (settings.home.absolute() / "objects").as_uri()
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise Unavailable(
                f"无法打开对象存储：{error}", f"cannot open the object store: {error}", field="objects_url"
            ) from error
        if self.local:
            Path(self.root).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, key: str) -> str:
        return f"{self.root}/{checked_key(key)}"

    async def put(self, key: str, data: bytes | Iterable[bytes] | AsyncIterable[bytes]) -> Stored:
        """Store `data` under `key`, replacing what was there; durable when this returns."""
        path = self._path(key)
        if isinstance(data, AsyncIterable):
            put = await self._run(_Put, self, path)
            try:
                async for chunk in data:
                    await self._run(put.write, chunk)
            except BaseException:
                await self._run(put.abandon)
                raise
            size, digest = await self._run(put.finish)
        else:
            size, digest = await self._run(self._put_now, path, [data] if isinstance(data, bytes) else data)
        return Stored(key, size, digest)

    def _put_now(self, path: str, chunks: Iterable[bytes]) -> tuple[int, str]:
        put = _Put(self, path)
        try:
            for chunk in chunks:
                put.write(chunk)
        except BaseException:
            put.abandon()
            raise
        return put.finish()

    async def get(self, key: str) -> bytes:
        """The whole object. Raises `NotFound`."""
        return await self._run(self._read, key)

    def _read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        """The object as a readable, seekable binary file, for threads. Raises `NotFound`."""
        try:
            file = self.fs.open(self._path(key), "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"没有对象 {key}", f"there is no object {key}", field="key", value=key) from None
        with file:
            yield file

    async def delete(self, key: str) -> bool:
        """Remove an object; False when there was none."""
        return await self._run(self._delete, self._path(key))

    def _delete(self, path: str) -> bool:
        try:
            self.fs.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    async def list(self, org: str, prefix: str = "") -> list[Found]:
        """The objects of `org` whose path begins with `prefix`, in order of key."""
        checked_key(f"{org}/x")
        return await self._run(lambda: [f for f in self.walk(org) if f.key.startswith(f"{org}/{prefix}")])

    def walk(self, org: str = "") -> Iterator[Found]:
        """Every object, or those of one organisation, in order of key (for threads)."""
        base = f"{self.root}/{org}".rstrip("/")
        try:
            found: dict[str, dict[str, Any]] = self.fs.find(base, detail=True)
        except FileNotFoundError:
            return
        start = len(str(self.root).rstrip("/")) + 1
        for path in sorted(found):
            if not path.rsplit("/", 1)[-1].startswith(TEMPORARY):
                yield Found(path[start:], int(found[path]["size"]))

    async def _run(self, fn: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.to_thread(fn, *args)
        except (PermissionError, ConnectionError, TimeoutError) as error:
            raise Unavailable(f"对象存储不可用：{error}", f"the object store is away: {error}") from error


class _Put:
    """One object being written: a temporary file beside it, synced and renamed at the end; on S3 a multipart upload."""

    def __init__(self, store: Objects, path: str) -> None:
        self.store, self.path = store, path
        self.digest, self.size = hashlib.sha256(), 0
        if store.local:
            folder = os.path.dirname(path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self.temporary = f"{folder}/{TEMPORARY}{secrets.token_hex(8)}"
            self.file: Any = open(self.temporary, "xb")  # noqa: SIM115
        else:
            self.file = store.fs.open(path, "wb")

    def write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> tuple[int, str]:
        if self.store.local:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.temporary, self.path)
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        else:
            self.file.close()
        return self.size, self.digest.hexdigest()

    def abandon(self) -> None:
        if self.store.local:
            self.file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.temporary)
        else:
            self.file.discard()
