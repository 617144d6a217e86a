"""YAML files of packs, with the place of everything in them.

Law: whatever the bytes are, they are read, or it is said at which line and column which rule is broken; nothing else is raised. The
YAML of packs has each key once, no tags of its own, no merge keys, and is not deeper or larger than a person writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from tulou.kernel.errors import Invalid, in_chinese

BYTES, DEPTH, VALUES = 8 << 20, 64, 500_000
"""What a file may have at most; the values count again for each alias."""
_OPENERS = 1000

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Node = yaml.nodes.Node
At = Sequence[str | int]
"""Keys and indices that lead to a place in a file."""


def broken(code: str, zh: str, en: str, at: At = ()) -> PydanticCustomError:
    """What a validator raises, and what a check of a section yields: a rule that is broken, in both languages, and its place below the
    value that is judged."""
    return PydanticCustomError(code, "{en}", {"zh": zh, "en": en, "at": tuple(at)})


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a pack: `file` within its folder, line and column from 1, the place in it, and the rule."""

    file: str
    line: int
    column: int
    place: str
    rule: str
    zh: str
    en: str
    value: Any = None

    def text(self, language: str, folder: str = "") -> str:
        """`file:line:column: place: rule` in a language."""
        where = f"{folder}/{self.file}" if folder else self.file
        parts = [f"{where}:{self.line}:{self.column}", *([self.place] if self.place else []), self.zh if language == "zh" else self.en]
        return ": ".join(parts)

    def error(self, folder: Path, more: int = 0) -> Invalid:
        """The problem as an error of the house; `more`: how many there are beside it."""
        zh, en = (f"（还有 {more} 处）", f" (and {more} more)") if more else ("", "")
        return Invalid(
            self.text("zh", str(folder)) + zh, self.text("en", str(folder)) + en, field=self.place, value=self.value, rule=self.rule,
        )


class Unreadable(Exception):
    """A file that is not read: `problems` say why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.text("en") for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Document:
    """A file that was read: its name within the pack, its value, and the nodes that say where everything stands."""

    file: str
    value: Any
    node: Node | None

    def problem(self, at: At, rule: str, zh: str, en: str, value: Any = None, *, key: bool = False) -> Problem:
        """A problem at a place; parts of `at` that are none in the file (a missing key, a branch of a union) are passed over. `key`: it
        is the key that is wrong."""
        node, mark, place = self.node, None if self.node is None else self.node.start_mark, []
        for part in at:
            name, found = str(part), None
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == part or pair[0].value == name), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = (node.value[part], node.value[part])
                name = _called(node.value[part]) or name
            if found is not None:
                place.append(name)
                node = found[1]
                mark = found[0].start_mark if key else node.start_mark
        if rule == "missing" and at:
            place.append(str(at[-1]))
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return Problem(self.file, line, column, ".".join(place), rule, zh, en, _short(value))

    def problems(self, error: ValidationError, within: At = ()) -> list[Problem]:
        """Every rule that is broken, in the order of the file; `within` is where the value that was judged begins."""
        found = []
        for one in error.errors(include_url=False):
            context = one.get("ctx", {})
            at = (*within, *one["loc"], *context.get("at", ()))
            found.append(self.problem(
                at, one["type"], _chinese(one), one["msg"], one.get("input"), key=one["type"] == "extra_forbidden" or "[key]" in at,
            ))
        return sorted(set(found), key=lambda problem: (problem.line, problem.column))

    def broken(self, error: PydanticCustomError, within: At = ()) -> Problem:
        """The problem that `broken` made."""
        context = dict(error.context or {})
        return self.problem((*within, *context.get("at", ())), error.type, context.get("zh") or str(error), str(error))


def _chinese(rule: Mapping[str, Any]) -> str:
    said = in_chinese(rule)
    return said if said != rule["msg"] else f"不合规则（{said}）"


def _called(node: Node) -> str:
    """The name of an item of a list that has one."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value in ("id", "name") and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    return ""


def _short(value: Any) -> Any:
    return value if isinstance(value, int | float | bool) or value is None else str(value)[:200]


def read_document(folder: Path, file: str) -> Document:
    """Parse the YAML file `file` of the pack in `folder`. Raises `Unreadable`."""

    def bad(zh: str, en: str, rule: str = "YAML", mark: Any = None) -> Unreadable:
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return Unreadable([Problem(file, line, column, "", rule, zh, en)])

    path = folder / file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise bad("文件应在包内", "the file is in the pack", "inside the pack")
        if not path.is_file():
            raise bad("没有这个文件", "there is no such file", "file")
        if path.stat().st_size > BYTES:
            raise bad(f"文件超过 {BYTES} 字节", f"the file has more than {BYTES} bytes", f"<= {BYTES}")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad(f"第 {error.start} 字节起不是 UTF-8", f"byte {error.start} is not UTF-8", "UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise bad(f"文件不能读：{why}", f"the file cannot be read: {why}", "file") from None
    try:
        # libyaml's composer calls itself, and a file that is deep enough ends the process
        if text.count("[") + text.count("{") > _OPENERS or re.search(r"^[-?: ]{200,}", text, re.M):
            _shallow(text, bad)
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            values = _Values(file, loader)
            value = None if node is None else values.of(node, 0)
            if values.problems:
                raise Unreadable(values.problems)
            return Document(file, value, node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise bad(f"不是有效的 YAML：{error.problem}", f"not valid YAML: {error.problem}", mark=error.problem_mark or error.context_mark) from None
    except yaml.YAMLError as error:
        raise bad(f"不是有效的 YAML：{error}", f"not valid YAML: {error}") from None


def _shallow(text: str, bad: Any) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                raise bad(f"嵌套超过 {DEPTH} 层", f"nested deeper than {DEPTH}", f"<= {DEPTH}", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Values:
    """Values of nodes: what `SafeLoader` makes of them, under the law of this module; `problems` gathers what breaks it."""

    def __init__(self, file: str, loader: Any) -> None:
        self.file, self.loader = file, loader
        self.problems: list[Problem] = []
        self.left = VALUES

    def _bad(self, node: Node, rule: str, zh: str, en: str) -> None:
        mark = node.start_mark
        self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, "", rule, zh, en))

    def of(self, node: Node, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            if self.left == -1:
                self._bad(node, f"<= {VALUES}", f"值超过 {VALUES} 个", f"more than {VALUES} values")
            return None
        tag = node.tag
        if isinstance(node, yaml.ScalarNode):
            if tag == "tag:yaml.org,2002:str":
                return node.value
            if tag in _SCALARS:
                try:
                    return self.loader.construct_object(node)
                except Exception:  # a number of a million digits, a 13th month
                    return self._bad(node, "YAML", f"{node.value[:50]} 不是值", f"{node.value[:50]} is no value")
        elif depth > DEPTH:
            return self._bad(node, f"<= {DEPTH}", f"嵌套超过 {DEPTH} 层", f"nested deeper than {DEPTH}")
        elif isinstance(node, yaml.MappingNode) and tag == "tag:yaml.org,2002:map":
            return self._mapping(node, depth)
        elif isinstance(node, yaml.SequenceNode) and tag == "tag:yaml.org,2002:seq":
            return [self.of(item, depth + 1) for item in node.value]
        return self._bad(node, "no tags", f"没有标签 {tag}", f"there is no tag {tag}")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._bad(key_node, "text", "键应为文本", "a key is text")
                continue
            key = self.of(key_node, depth + 1)
            if key in found:
                self._bad(key_node, "unique key", f"键 {key} 重复", f"the key {key} is there twice")
            found[key] = self.of(value_node, depth + 1)
        return found


_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null", "timestamp")}


def problems_first(problems: Iterable[Problem], folder: Path) -> Invalid:
    """The first problem as an error, with how many more there are."""
    first, *more = problems
    return first.error(folder, len(more))
