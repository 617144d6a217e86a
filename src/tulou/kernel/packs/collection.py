"""The packs of a house: read, checked, and put together; what is broken is left out and said.

Law: a pack is whole or left out. It is left out, with every pack that requires it, for any problem: in its files, by the checks of the
engines that own its sections, or because something of it is already there (a name, a type, an organisation: the later pack gives way).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from tulou import __version__
from tulou.kernel.errors import Invalid
from tulou.kernel.packs.models import Declaration, Model, within_range
from tulou.kernel.packs.reading import At, Document, Problem, Unreadable, broken, problems_first, read_document

FILE = "pack.yaml"


@dataclass(frozen=True)
class Section:
    """A key of `pack.yaml` that an engine owns. `type`: what pydantic checks its value against. `check(value, pack, packs)` yields, as
    `broken` makes them, what is wrong with a value of the right type in this pack, among the packs before it (its own models are in
    `packs` too). `try_out(value, pack, packs)` yields what does not hold of it when `tulou pack test` tries it."""

    type: Any
    check: Callable[[Any, Pack, Packs], Iterable[PydanticCustomError]] | None = None
    try_out: Callable[[Any, Pack, Packs], Iterable[PydanticCustomError]] | None = None

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.type)


class Pack(Declaration):
    """A pack that was read: what it declares, its folder, the values of its sections and its data files."""

    _folder: Path
    _sections: dict[str, Any]
    _documents: dict[str, Document]
    _places: dict[str, tuple[Document, At]]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    def section(self, name: str) -> Any:
        """The checked value of a section, None where the pack has none."""
        return self._sections.get(name)

    @property
    def sections(self) -> Sequence[str]:
        """The sections that it has."""
        return list(self._sections)

    def read(self, name: str) -> Any:
        """The parsed YAML of the data file `name`. Raises `Invalid` if the pack does not name it."""
        if name not in self.data:
            raise Invalid(f"包 {self.name} 没有数据 {name}", f"pack {self.name} has no data {name}", field=name)
        return self._documents[name].value

    def problem(self, section: str, error: PydanticCustomError) -> Problem:
        """Where in its files something that `broken` made is; the section may be a plain key."""
        document, at = self._places.get(section, (self._documents[""], (section,)))
        if document.node is None:
            document = read_document(self._folder, document.file)
        return document.broken(error, at)

    def forget_places(self) -> None:
        """Keep values, and not where they stand: that is read again when somebody asks."""
        self._documents = {name: replace(document, node=None) for name, document in self._documents.items()}
        self._places = {name: (replace(document, node=None), at) for name, (document, at) in self._places.items()}


@dataclass(frozen=True)
class LeftOut:
    """A pack that is not in the house, and why."""

    name: str
    version: str
    folder: Path
    problems: list[Problem] = field(default_factory=list)


def read_pack(folder: Path, sections: Mapping[str, Section]) -> Pack:
    """Read and check the files of a pack for themselves. Raises `Unreadable` with every problem."""
    head = read_document(folder, FILE)
    problems: list[Problem] = []
    if not isinstance(head.value, dict):
        raise Unreadable([head.problem((), "object", "应为对象", "must be an object")])
    try:
        pack = Pack.model_validate({key: value for key, value in head.value.items() if key not in sections})
    except ValidationError as error:
        problems += head.problems(error)
        pack = None
    values: dict[str, Any] = {}
    places: dict[str, tuple[Document, At]] = {}
    for name, section in sections.items():
        if name not in head.value:
            continue
        document, value = head, head.value[name]
        at: At = (name,)
        try:
            if isinstance(value, str):
                document, at = read_document(folder, value), ()
                value = document.value
            places[name] = document, at
            values[name] = section.adapter.validate_python(value)
        except Unreadable as error:
            problems += [_named(head, name, error)] if _unfound(error) else error.problems
        except ValidationError as error:
            problems += document.problems(error, at)
    documents = {"": head}
    data = head.value.get("data")
    for name, file in data.items() if isinstance(data, dict) else ():
        if not isinstance(file, str):
            continue  # said above
        try:
            documents[name] = read_document(folder, file)
        except Unreadable as error:
            problems += [_named(head, name, error, "data")] if _unfound(error) else error.problems
    if problems or pack is None:
        raise Unreadable(problems)
    pack._folder, pack._sections, pack._documents, pack._places = folder, values, documents, places
    return pack


def _unfound(error: Unreadable) -> bool:
    return error.problems[0].rule in ("file", "inside the pack")


def _named(head: Document, name: str, error: Unreadable, *within: str) -> Problem:
    """A file that is not there, where it is named."""
    first = error.problems[0]
    return head.problem((*within, name), first.rule, f"{first.file}：{first.zh}", f"{first.file}: {first.en}")


Judge = Callable[[Pack, "Packs"], Iterable[tuple[str, PydanticCustomError]]]


class Packs:
    """All packs of the house, and the models by type name: theirs, and those that organisations declared."""

    def __init__(self, folders: Iterable[Path] = (), sections: Mapping[str, Section] | None = None, judge: Judge | None = None) -> None:
        self.known = dict(sections or {})
        """The sections that engines own."""
        self.judge = judge
        """What engines have against a pack (the hook `judge_pack`)."""
        self.packs: dict[str, Pack] = {}
        self.left_out: list[LeftOut] = []
        """What is not in the house, and why."""
        self.own: dict[str, Model] = {}
        """The models of packs."""
        self.models: dict[str, Model] = {}
        """Those, and the models that organisations declared."""
        self.pack_of: dict[str, str] = {}
        """The pack of a type; of one that an organisation declared, `product of <organisation>`."""
        self.org_of: dict[str, str] = {}
        """The organisation that declared a type, of those that no pack has."""
        self.followers: list[Callable[[], Awaitable[None] | None]] = []
        """Called when the models of organisations have changed (`House.declare`): whoever holds what is made of models."""
        self.add(folders)

    def add(self, folders: Iterable[Path]) -> None:
        """Read the packs in these folders and take them, each after those that it requires; what is broken is left out."""
        waiting: list[Pack] = []
        for folder in folders:
            try:
                waiting.append(read_pack(folder, self.known))
            except Unreadable as error:
                self.leave_out(LeftOut(*name_of(folder), folder, error.problems))
        while waiting:
            names = {pack.name for pack in waiting}
            ready: list[Pack] = []
            later: list[Pack] = []
            for pack in waiting:
                (later if names & (pack.requires.keys() - {pack.name}) else ready).append(pack)
            if not ready:  # they require each other
                ready, later = later, []
            for pack in ready:
                problems = self._problems(pack)
                if problems:
                    self.leave_out(LeftOut(pack.name, pack.version, pack.folder, problems))
                else:
                    self._take(pack)
                    pack.forget_places()
            waiting = later

    def section(self, name: str) -> Iterator[tuple[Pack, Any]]:
        """The packs that have a section, with its value."""
        for pack in self.packs.values():
            if name in pack.sections:
                yield pack, pack.section(name)

    def _take(self, pack: Pack) -> None:
        self.packs[pack.name] = pack
        for name, model in pack.models.items():
            self.own[name] = self.models[name] = model
            self.pack_of[name] = pack.name

    def leave_out(self, out: LeftOut) -> None:
        """A pack is not in the house, and why."""
        self.left_out.append(out)

    def copy(self) -> Packs:
        """The same packs, to which others can be added; without what organisations declared."""
        same = Packs(sections=self.known, judge=self.judge)
        same.packs, same.left_out, same.own, same.models = dict(self.packs), list(self.left_out), dict(self.own), dict(self.own)
        same.pack_of = {name: self.pack_of[name] for name in self.own}
        return same

    def _problems(self, pack: Pack) -> list[Problem]:
        """Why a pack that is sound in itself does not go with those that are there."""
        problems = [pack.problem(key, error) for key, error in self._conflicts(pack)]
        if problems:
            return problems
        among = self.copy()
        among._take(pack)
        del among.packs[pack.name]
        if self.judge is not None:
            problems += [pack.problem(key, error) for key, error in self.judge(pack, among)]
        for name in pack.sections:
            check = self.known[name].check
            if check is not None:
                problems += [pack.problem(name, error) for error in check(pack.section(name), pack, among)]
        return problems

    def _conflicts(self, pack: Pack) -> Iterator[tuple[str, PydanticCustomError]]:
        if pack.name in self.packs:
            other = self.packs[pack.name]
            yield "name", broken("unique", f"已有包 {pack.name} {other.version}", f"there is a pack {pack.name} {other.version} already")
            return
        for name, wanted in pack.requires.items():
            version = __version__ if name == "tulou" else self.packs[name].version if name in self.packs else None
            if version is None:
                out = any(one.name == name for one in self.left_out)
                yield "requires", broken(
                    "requires", f"所需的包 {name} {'未能装入' if out else '不存在'}",
                    f"requires the pack {name}, which is {'left out' if out else 'not there'}", (name,),
                )
            elif not within_range(version, wanted):
                yield "requires", broken(
                    "requires", f"需要 {name} {wanted}，现为 {version}", f"requires {name} {wanted}, there is {version}", (name,))
        for name in pack.models:
            if name in self.own:
                yield "models", broken(
                    "unique", f"类型 {name} 已由包 {self.pack_of[name]} 声明", f"the type {name} is declared by the pack {self.pack_of[name]}",
                    (name,),
                )
        there = {seed.id: one.name for one in self.packs.values() for seed in one.organisations}
        placed = set(there)
        for number, seed in enumerate(pack.organisations):
            if seed.id in placed:
                yield "organisations", broken(
                    "unique", f"组织 {seed.id} 已由包 {there.get(seed.id, pack.name)} 声明",
                    f"the organisation {seed.id} is declared by the pack {there.get(seed.id, pack.name)}", (number, "id"),
                )
            elif seed.parent is not None and seed.parent not in placed:
                yield "organisations", broken(
                    "parent", f"上级 {seed.parent} 不在其前声明", f"the parent {seed.parent} is not declared before it", (number, "parent"))
            placed.add(seed.id)

    def declare(self, declared: Mapping[str, tuple[str, Model]]) -> bool:
        """The types that organisations declare are these from now on: type -> (organisation, model). A pack's type stays the
        pack's. Returns whether anything changed."""
        wanted = {name: of for name, of in declared.items() if name not in self.own}
        if wanted == {name: (org, self.models[name]) for name, org in self.org_of.items()}:
            return False
        for name in [name for name in self.org_of if name not in wanted]:
            del self.models[name], self.pack_of[name], self.org_of[name]
        for name, (org, model) in wanted.items():
            self.models[name], self.pack_of[name], self.org_of[name] = model, f"product of {org}", org
        return True

    def whole(self, within: Path) -> None:
        """Raises `Invalid` if a pack in the folder `within` is left out."""
        for one in self.left_out:
            if one.folder.is_relative_to(within):
                raise problems_first(one.problems, one.folder)


def left_out_finding(packs: Packs) -> tuple[bool, str, str]:
    """A finding of the doctor: whether every pack is in the house, and of each that is not the first reason."""
    if not packs.left_out:
        return True, f"{len(packs.packs)} 个包", f"{len(packs.packs)} packs"
    said = [
        "；".join(f"{one.name}：{one.problems[0].text('zh', one.folder.name)}" for one in packs.left_out),
        "; ".join(f"{one.name}: {one.problems[0].text('en', one.folder.name)}" for one in packs.left_out),
    ]
    return False, f"未装入的包：{said[0]}。详见 tulou pack list", f"packs left out: {said[1]}. See tulou pack list"


def name_of(folder: Path) -> tuple[str, str]:
    """The name and version that a broken pack says it has, so far as can be seen; the folder's name else."""
    try:
        value = read_document(folder, FILE).value
    except Unreadable:
        value = None
    said = value if isinstance(value, dict) else {}
    name, version = said.get("name"), said.get("version")
    return name if isinstance(name, str) and name else folder.name, version if isinstance(version, str) else ""


def refused(path: Path, error: ValidationError, within: str = "") -> Invalid:
    """The first rule that the value of a data file of a pack breaks; `within` is the key that holds it."""
    document = read_document(path.parent, path.name)
    return problems_first(document.problems(error, [within] if within else []), path.parent)
