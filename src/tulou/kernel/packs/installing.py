"""Packs installed in a home: `<home>/packs/<name>/<version>/`, and `installed.json`, which says which version is in force.

Law: what is installed is data; nothing of it is run. A pack is unpacked beside, verified and checked with everything else in the house
before `installed.json` names it, by one rename: a crash leaves what was there. At each start the files must still have the digest that
they were installed with.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import io
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import orjson

from tulou.kernel.errors import Conflict, Invalid, TulouError
from tulou.kernel.packs import signing
from tulou.kernel.packs.collection import FILE, LeftOut, Pack, Packs, name_of, read_pack
from tulou.kernel.packs.models import Model, version_of
from tulou.kernel.packs.reading import Problem, Unreadable
from tulou.kernel.settings import Settings

RECORD = "installed.json"
Stored = Callable[[str], Mapping[str, int]]
"""How many entities there are of each type of a pack."""


class Installed(NamedTuple):
    """What `installed.json` says of a pack. `signer`: the public key that it was signed with, empty for none."""

    name: str
    version: str
    digest: str
    signer: str
    installed_at: str


class Effect(NamedTuple):
    """What a change of models does to what is stored. `orphans`: it leaves values that no longer mean what they meant, or types that
    nobody declares."""

    zh: str
    en: str
    type: str
    orphans: bool


def installed(home: Path) -> list[Installed]:
    """What is installed in a home. Raises `Invalid` where its record cannot be read."""
    path = home / "packs" / RECORD
    try:
        rows = orjson.loads(path.read_bytes())
        return [Installed(**{**row, "name": name}) for name, row in rows.items()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, AttributeError) as error:
        why = type(error).__name__  # without the path: everyone who is signed in may read this
        raise Invalid(f"{RECORD} 不能读：{why}", f"{RECORD} cannot be read: {why}", field=RECORD, rule="JSON") from None


def folder_of(home: Path, one: Installed) -> Path:
    """Where an installed pack's files are."""
    return home / "packs" / one.name / one.version


def take_installed(packs: Packs, home: Path) -> None:
    """Take the packs that are installed in a home into the house's; what is broken or was changed since is left out."""
    folders = []
    try:
        there = installed(home)
    except Invalid as error:
        packs.leave_out(LeftOut("packs", "", home / "packs", [Problem(RECORD, 1, 1, "", "JSON", error.zh, error.en)]))
        return
    for one in there:
        folder = folder_of(home, one)
        if not _whole(folder, one):
            zh, en = "安装之后文件被改动，请重新安装", "its files were changed after it was installed; install it again"
            packs.leave_out(LeftOut(one.name, one.version, folder, [Problem(FILE, 1, 1, "", "digest", zh, en)]))
        else:
            folders.append(folder)
    packs.add(folders)


def _whole(folder: Path, one: Installed) -> bool:
    try:
        return folder.is_dir() and signing.digest(folder) == one.digest
    except (OSError, TulouError):
        return False


def install(
    settings: Settings, source: Path, base: Packs, stored: Stored, *, force: bool = False
) -> tuple[Installed, list[Effect]]:
    """Install the pack in a folder, a zip file or a wheel; returns what is installed now, and what that does to what is stored.

    `base`: the packs of the house without the installed ones. `force`: install it although it is older, or other files under the same
    version, or orphans what is stored, or other packs are left out then. Raises `Invalid` and `Conflict`; `Unreadable` with every
    problem of the pack.
    """
    with locked(settings.home) as root, tempfile.TemporaryDirectory(prefix=".new-", dir=root) as temporary:
        new = Path(temporary) / "pack"
        unpack(source, new)
        signer = must_trust(settings, new)
        if signer not in _trusted(settings):
            (new / signing.PROOF).unlink(missing_ok=True)  # nobody whom we trust vouches for it
        pack = read_pack(new, base.known)
        there = {one.name: one for one in installed(settings.home)}
        old = there.get(pack.name)
        made = Installed(pack.name, pack.version, signing.digest(new), signer, f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")
        same = old is not None and (old.version, old.digest, old.signer) == (made.version, made.digest, made.signer)
        if old is not None and same and _whole(folder_of(settings.home, old), old):
            return old, []
        _fits(base, settings.home, there, made.name, new, force)
        effects = [] if old is None else effects_of(_models(folder_of(settings.home, old), base), pack.models)
        if old is not None and not force:
            there_are = stored(made.name) if any(effect.orphans for effect in effects) else {}
            _upgrade(old, made, [effect for effect in effects if effect.type in there_are])
        final = folder_of(settings.home, made)
        if final.is_dir():
            shutil.rmtree(final)
        final.parent.mkdir(exist_ok=True)
        _synced(new)
        new.rename(final)
        _record(root, {**there, made.name: made})
        for other in final.parent.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)
        return made, effects


def remove(
    settings: Settings, name: str, base: Packs, stored: Stored, *, force: bool = False
) -> tuple[Installed, list[str], Mapping[str, int]]:
    """Remove an installed pack; returns what it was, the types that nobody declares then, and how many entities each of them has. Raises
    `Invalid` for one that is not installed, `Conflict` while others require it (with `force` they are left out)."""
    with locked(settings.home) as root:
        there = {one.name: one for one in installed(settings.home)}
        if name not in there:
            own = name in base.packs
            raise Invalid(
                f"包 {name} {'随土楼而来，不能移除' if own else '没有安装'}",
                f"the pack {name} {'comes with the house and cannot be removed' if own else 'is not installed'}",
                field="name", value=name, rule="installed",
            )
        before = _left_out(base, settings.home, there)
        gone = there.pop(name)
        types = list(_models(folder_of(settings.home, gone), base))
        lost = _left_out(base, settings.home, there) - before
        if lost and not force:
            raise Conflict(
                f"其他包需要 {name}：{'、'.join(sorted(lost))}", f"other packs require {name}: {', '.join(sorted(lost))}",
                field="name", value=name, rule="no pack requires it",
            )
        left = stored(name)
        _record(root, there)
        shutil.rmtree(root / name, ignore_errors=True)
        return gone, types, left


def with_pack(settings: Settings, base: Packs, folder: Path) -> tuple[Packs, Pack | None, list[Problem]]:
    """The packs of the house with the one in a folder (in place of an installed one of its name), that pack, and its problems."""
    for pack in base.packs.values():
        if pack.folder.resolve() == folder.resolve():
            return base, pack, []
    for out in base.left_out:
        if out.folder.resolve() == folder.resolve():
            return base, None, out.problems
    there = {one.name: folder_of(settings.home, one) for one in installed(settings.home)}
    packs = _together(base, {**there, name_of(folder)[0]: folder})
    found = next((pack for pack in packs.packs.values() if pack.folder == folder), None)
    return packs, found, [problem for out in packs.left_out if out.folder.resolve() == folder.resolve() for problem in out.problems]


def effects_of(old: dict[str, Model], new: dict[str, Model]) -> list[Effect]:
    """What it does to what is stored when the models of a pack change."""
    found = []
    for kind, before in old.items():
        after = new.get(kind)
        if after is None:
            found.append(Effect(
                f"类型 {kind} 不再声明：其实体仍在，不再按模型检查", f"the type {kind} is no longer declared: its entities stay, under no model",
                kind, True))
            continue
        for name, prop in before.properties.items():
            now = after.properties.get(name)
            if now is None:
                found.append(Effect(
                    f"{kind}.{name} 不再声明：已存的值仍在" + ("" if after.open else "，新值不再接受"),
                    f"{kind}.{name} is no longer declared: stored values stay" + ("" if after.open else ", new ones are refused"),
                    kind, not after.open))
                continue
            for field in ("kind", "unit", "symbol", "iri"):
                was, is_ = getattr(prop, field), getattr(now, field)
                if was != is_:
                    found.append(Effect(
                        f"{kind}.{name} 的 {field} 由 {was or '空'} 变为 {is_ or '空'}：已存的值不换算",
                        f"{field} of {kind}.{name} changes from {was or 'none'} to {is_ or 'none'}: stored values are not converted",
                        kind, True))
        if before.retention_days != after.retention_days:
            found.append(Effect(
                f"{kind} 的读数保留 {after.retention_days or '不限'} 天（原 {before.retention_days or '不限'}）",
                f"readings of {kind} are kept {after.retention_days or 'without end'} days (were {before.retention_days or 'without end'})",
                kind, after.retention_days is not None and (before.retention_days is None or after.retention_days < before.retention_days)))
    return found


def must_trust(settings: Settings, folder: Path) -> str:
    """The public key that signed a pack, empty for none. Raises `Invalid` for a signature that does not hold, and for what the settings
    `pack_keys` and `pack_unsigned` do not admit."""
    key = signing.signer(folder)
    trusted = _trusted(settings)
    if key is None:
        if not settings.pack_unsigned:
            raise signing.refused("包没有签名，而设置 pack_unsigned 不接受", "the pack is not signed, and pack_unsigned is false", FILE, "signed")
        return ""
    if key not in trusted and (trusted or not settings.pack_unsigned):
        raise signing.refused(f"签名者 {key} 不在 pack_keys 中", f"the signer {key} is not in pack_keys", signing.KEY, "trusted key")
    return key


def _trusted(settings: Settings) -> list[str]:
    return [part.strip() for part in settings.pack_keys.split(",") if part.strip()]


def unpack(source: Path, target: Path) -> None:
    """Copy the pack in a folder, a zip file or a wheel to `target`; of an archive, the one folder that has a `pack.yaml`. Raises
    `Invalid`."""
    if source.is_dir():
        for name, path in signing.files(source):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    else:
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, target)
        except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
            raise signing.refused(f"不是包的文件夹或 zip：{error}", f"neither the folder of a pack nor a zip file: {error}", str(source), "zip") from None
    if not (target / FILE).is_file():
        raise signing.refused(f"其中没有 {FILE}", f"there is no {FILE} in it", str(source), FILE)


def _unpack(archive: zipfile.ZipFile, target: Path) -> None:
    members = [info for info in archive.infolist() if not info.is_dir()]
    for info in members:
        signing.must_be_named(info.filename)
        mode = info.external_attr >> 16
        if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise signing.refused("不接受链接与特殊文件", "links and special files are not taken", info.filename, "regular file")
    roots = sorted({info.filename.removesuffix(FILE) for info in members if info.filename.rpartition("/")[2] == FILE}, key=len)
    if not roots or any(not root.startswith(roots[0]) for root in roots):
        raise signing.refused(f"应恰好有一个 {FILE}", f"there must be one {FILE}", archive.filename or "", FILE)
    seen: set[str] = set()
    total = 0
    for info in members:
        name = info.filename.removeprefix(roots[0])
        if not info.filename.startswith(roots[0]) or not signing.counts(name):
            continue
        if name.casefold() in seen:
            raise signing.refused("出现两次", "is there twice", info.filename, "unique name")
        seen.add(name.casefold())
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as packed, path.open("xb") as file:
            size = 0
            while block := packed.read(io.DEFAULT_BUFFER_SIZE * 8):
                size, total = size + len(block), total + len(block)
                signing.must_fit(info.filename, len(seen), size, total)
                file.write(block)


def _fits(base: Packs, home: Path, there: dict[str, Installed], name: str, new: Path, force: bool) -> None:
    """Raises `Unreadable` where the new pack does not go with the house, `Conflict` where others no longer would."""
    with_it = _together(base, {**{key: folder_of(home, one) for key, one in there.items()}, name: new})
    for out in with_it.left_out:
        if out.folder == new:
            raise Unreadable(out.problems)
    lost = {out.name for out in with_it.left_out} - _left_out(base, home, there)
    if lost and not force:
        raise Conflict(
            f"装入之后，{'、'.join(sorted(lost))} 将不能装入", f"with it, {', '.join(sorted(lost))} would be left out",
            field="requires", value=name, rule="others stay",
        )


def _left_out(base: Packs, home: Path, there: dict[str, Installed]) -> set[str]:
    return {out.name for out in _together(base, {one.name: folder_of(home, one) for one in there.values()}).left_out}


def _together(base: Packs, folders: dict[str, Path]) -> Packs:
    """The house's packs with those in these folders, as the next start takes them."""
    packs = base.copy()
    packs.add(folders.values())
    return packs


def _models(folder: Path, base: Packs) -> dict[str, Model]:
    try:
        return read_pack(folder, base.known).models
    except Unreadable:
        return {}


def _upgrade(old: Installed, new: Installed, effects: list[Effect]) -> None:
    if version_of(new.version) < version_of(old.version):
        raise Conflict(
            f"已安装较新的 {old.version}", f"{old.version}, which is newer, is installed", field="version", value=new.version, rule=f"> {old.version}")
    if version_of(new.version) == version_of(old.version) and new.digest != old.digest:
        raise Conflict(
            f"已安装的 {old.version} 文件不同，请增大版本号", f"the {old.version} that is installed has other files; give it a higher version",
            field="version", value=new.version, rule=f"> {old.version}")
    orphans = [effect for effect in effects if effect.orphans]
    if orphans:
        raise Conflict(
            "；".join(effect.zh for effect in orphans), "; ".join(effect.en for effect in orphans), field="models", value=new.version,
            rule="nothing stored is orphaned")


def _record(root: Path, there: dict[str, Installed]) -> None:
    rows = {one.name: {key: value for key, value in one._asdict().items() if key != "name"} for one in there.values()}
    path = root / f".{RECORD}"
    with path.open("wb") as file:
        file.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    path.rename(root / RECORD)
    _sync_folder(root)


def _synced(folder: Path) -> None:
    for _, path in signing.files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(home: Path) -> Iterator[Path]:
    """The folder of a home's packs, to one who changes it at a time."""
    root = home / "packs"
    if not home.is_dir():
        home.mkdir(parents=True)
        home.chmod(0o700)
    root.mkdir(exist_ok=True)
    with (root / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield root
