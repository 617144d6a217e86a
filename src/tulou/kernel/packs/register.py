"""The packs of the house as people see them: what each declares, where it is from, its grade, and why one is left out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

import tulou
from tulou.kernel import audit
from tulou.kernel.errors import Invalid, NotFound
from tulou.kernel.packs.collection import LeftOut, Pack, Packs
from tulou.kernel.packs.installing import Installed, folder_of, installed
from tulou.kernel.packs.proving import grade, proof_of
from tulou.kernel.packs.reading import Problem
from tulou.kernel.packs.schema import schema
from tulou.kernel.packs.signing import digest
from tulou.kernel.policy import ROOT, Actor, operation, system

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tulou.kernel.house import House

READ, MANAGE = "packs.pack.read", "packs.pack.manage"
STARTED = "started.json"
"""What was installed at the last start."""


class PackRegister:
    """The operations on packs: reading. They are installed and removed by who owns the machine (`tulou pack`)."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.policy = house.policy
        self.signers = signers(house.settings.home)

    @operation(READ)
    async def find(self, actor: Actor) -> dict[str, Any]:
        """Every pack with its state and grade, those that are left out last: `{items}`."""
        self.policy.require(actor, READ, ROOT)
        return {"items": await asyncio.to_thread(rows, self.house.packs, self.house.settings.home, self.signers)}

    @operation(READ)
    async def get(self, actor: Actor, name: str) -> dict[str, Any]:
        """What a pack declares, what is missing for its next grade, and how many entities of its types the actor may see. Raises
        `NotFound`."""
        self.policy.require(actor, READ, ROOT)
        house = self.house

        def read(connection: sa.Connection) -> dict[str, Any]:
            stored: dict[str, int] = {}
            for part in house.hooks.hook.stored(house=house, connection=connection, actor=actor):
                stored |= part
            return detail(house.packs, name, house.settings.home, self.signers, stored)

        return await house.db.read(read)

    @operation(READ)
    async def schema(self, actor: Actor) -> dict[str, Any]:
        """The JSON Schema of `pack.yaml`."""
        self.policy.require(actor, READ, ROOT)
        return schema(self.house.packs.known)

    async def record_changes(self) -> None:
        """Put what was installed and removed since the last start into the audit. Where a start ends in between, it is there twice."""
        home = self.house.settings.home
        try:
            now = {one.name: one for one in installed(home)}
        except Invalid:
            return  # said by the packs that are left out
        kept = home / "packs" / STARTED
        try:
            before = {name: Installed(**row) for name, row in orjson.loads(kept.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            before = {}
        changed = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
        if not changed:
            return

        def write(connection: sa.Connection) -> None:
            for name in changed:
                one = now.get(name)
                detail = {"change": "removed"} if one is None else {"change": "installed", **one._asdict()}
                audit.record(connection, system("packs"), MANAGE, ROOT, f"pack:{name}", detail)

        await self.house.db.write(write)
        kept.write_bytes(orjson.dumps({name: one._asdict() for name, one in now.items()}))


def signers(home: Path) -> dict[Path, str]:
    """Who signed the packs that are installed, by folder."""
    try:
        return {folder_of(home, one): one.signer for one in installed(home)}
    except Invalid:
        return {}


def rows(packs: Packs, home: Path, signed: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Every pack of the house, then what is left out."""
    return [*(_row(one, home, signed) for one in packs.packs.values()), *(_out(one, home) for one in packs.left_out)]


def detail(packs: Packs, name: str, home: Path, signed: Mapping[Path, str], stored: Mapping[str, int]) -> dict[str, Any]:
    """One pack in full. Raises `NotFound`."""
    pack = packs.packs.get(name)
    if pack is None:
        for out in packs.left_out:
            if out.name == name:
                return _out(out, home)
        raise NotFound(f"没有包 {name}", f"no pack {name}", field="name", value=name)
    found, proof = grade(pack), proof_of(pack.folder)
    return {
        **_row(pack, home, signed), "digest": digest(pack.folder),
        "missing": [{"zh": zh, "en": en} for zh, en in found.missing], "next": found.next,
        "proof": None if proof is None else proof.model_dump(),
        "models": [
            {"type": kind, "label": model.label.model_dump(), "properties": len(model.properties), "entities": stored.get(kind, 0)}
            for kind, model in pack.models.items()
        ],
        "sections": {key: len(value) if isinstance(value := pack.section(key), list | dict) else 1 for key in pack.sections},
        "organisations": len(pack.organisations), "serves": pack.serves,
        "provenance": [one.model_dump(mode="json") for one in pack.provenance],
    }


def problem_document(problem: Problem) -> dict[str, Any]:
    """A problem as JSON."""
    return {name: getattr(problem, name) for name in ("file", "line", "column", "place", "rule", "zh", "en")}


def _row(pack: Pack, home: Path, signed: Mapping[Path, str]) -> dict[str, Any]:
    return {
        "name": pack.name, "version": pack.version, "label": pack.label.model_dump(),
        "description": None if pack.description is None else pack.description.model_dump(), "state": "works",
        "grade": grade(pack).name, "source": _source(pack.folder, home), "signer": signed.get(pack.folder, ""),
        "requires": pack.requires, "types": list(pack.models), "problems": [],
    }


def _out(out: LeftOut, home: Path) -> dict[str, Any]:
    return {
        "name": out.name, "version": out.version, "label": {"zh": out.name, "en": out.name}, "description": None, "state": "left_out",
        "grade": "", "source": _source(out.folder, home), "signer": "", "requires": {}, "types": [],
        "problems": [problem_document(problem) for problem in out.problems],
    }


def _source(folder: Path, home: Path) -> str:
    """`house` (ships with it), `installed` (in the home), or `folder` (a setting or a package names it)."""
    if folder.is_relative_to(Path(tulou.__file__).parent):
        return "house"
    return "installed" if folder.is_relative_to(home / "packs") else "folder"
