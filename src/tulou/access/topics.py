"""Topic names and topic filters (MQTT 5.0, 4.7 and 4.8): which subscriptions a name meets, and which names a filter.

Law: pure; no recursion over what a client sent, so that depth costs no stack, and a look-up visits only branches that
exist. Names and filters are bytes of valid UTF-8; a filter has passed `mqtt`'s checks of its wildcards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

LEVELS = 128
"""Most levels of a name or filter here."""


def matches(wanted: bytes, topic: bytes) -> bool:
    """Whether the topic name meets the filter (4.7.1; 4.7.2: no wildcard for a first level that begins with `$`)."""
    levels = topic.split(b"/")
    parts = wanted.split(b"/")
    if topic[:1] == b"$" and parts[0] in (b"#", b"+"):
        return False
    for number, part in enumerate(parts):
        if part == b"#":
            return True
        if number >= len(levels) or (part != b"+" and part != levels[number]):
            return False
    return len(parts) == len(levels)


def shared(wanted: str) -> tuple[str, str] | None:
    """The share name and the filter of a shared subscription (4.8.2), None of a plain one.

    Raises `ValueError` for a share name that is empty or has a wildcard, or where no filter follows.
    """
    if not wanted.startswith("$share/"):
        return None
    name, _, rest = wanted[7:].partition("/")
    if not name or not rest or "+" in name or "#" in name:
        raise ValueError("not $share/<name>/<filter> [MQTT-4.8.2-1]")
    return name, rest


class _Node(Generic[K, V]):
    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[K, V]] = {}
        self.values: dict[K, V] = {}

    def reach(self, levels: bytes) -> _Node[K, V]:
        """The node below this one, made where it is missing."""
        node = self
        for level in levels.split(b"/"):
            following = node.children.get(level)
            if following is None:
                following = node.children[level] = _Node()
            node = following
        return node


class Subscriptions(Generic[K, V]):
    """Filters, each with values by key."""

    def __init__(self) -> None:
        self._root: _Node[K, V] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """Values of all filters."""
        return self._count

    def add(self, wanted: bytes, key: K, value: V) -> None:
        """Put the value, in place of an earlier one of the same filter and key."""
        node = self._root.reach(wanted)
        self._count += key not in node.values
        node.values[key] = value

    def remove(self, wanted: bytes, key: K) -> bool:
        """Take the value away; False if there is none."""
        path: list[tuple[_Node[K, V], bytes]] = []
        node = self._root
        for part in wanted.split(b"/"):
            following = node.children.get(part)
            if following is None:
                return False
            path.append((node, part))
            node = following
        if key not in node.values:
            return False
        del node.values[key]
        self._count -= 1
        while path and not node.values and not node.children:
            node, part = path.pop()
            del node.children[part]
        return True

    def match(self, topic: bytes) -> list[tuple[K, V]]:
        """Every (key, value) whose filter the topic name meets; a key comes once for each of its filters."""
        found: list[tuple[K, V]] = []
        nodes = [self._root]
        wild = topic[:1] != b"$"
        for level in topic.split(b"/"):
            following = []
            for node in nodes:
                children = node.children
                if wild:
                    child = children.get(b"#")
                    if child is not None:
                        found += child.values.items()
                    child = children.get(b"+")
                    if child is not None:
                        following.append(child)
                child = children.get(level)
                if child is not None:
                    following.append(child)
            wild = True
            nodes = following
            if not nodes:
                return found
        for node in nodes:
            found += node.values.items()
            child = node.children.get(b"#")
            if child is not None:
                found += child.values.items()
        return found


class Names(Generic[V]):
    """Topic names, each with one value: the retained messages of a topic space."""

    def __init__(self) -> None:
        self._root: _Node[None, V] = _Node()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def get(self, topic: bytes) -> V | None:
        node = self._root
        for level in topic.split(b"/"):
            following = node.children.get(level)
            if following is None:
                return None
            node = following
        return node.values.get(None)

    def set(self, topic: bytes, value: V) -> None:
        node = self._root.reach(topic)
        self._count += not node.values
        node.values[None] = value

    def delete(self, topic: bytes) -> None:
        """Take the name away, if it is there."""
        path: list[tuple[_Node[None, V], bytes]] = []
        node = self._root
        for level in topic.split(b"/"):
            following = node.children.get(level)
            if following is None:
                return
            path.append((node, level))
            node = following
        self._count -= len(node.values)
        node.values.clear()
        while path and not node.values and not node.children:
            node, level = path.pop()
            del node.children[level]

    def match(self, wanted: bytes) -> Iterator[V]:
        """The values of the names that meet the filter."""
        nodes = [self._root]
        parts = wanted.split(b"/")
        for number, part in enumerate(parts):
            if part == b"#":
                yield from self._below(nodes, number == 0)
                return
            following = []
            for node in nodes:
                if part == b"+":
                    following += [
                        child for level, child in node.children.items() if number or level[:1] != b"$"
                    ]
                else:
                    child = node.children.get(part)
                    if child is not None:
                        following.append(child)
            nodes = following
        for node in nodes:
            yield from node.values.values()

    @staticmethod
    def _below(nodes: list[_Node[None, V]], first: bool) -> Iterator[V]:
        stack = list(nodes)
        while stack:
            node = stack.pop()
            yield from node.values.values()
            stack += [child for level, child in node.children.items() if not (first and level[:1] == b"$")]
            first = False
