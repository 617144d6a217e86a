"""Topic names and filters (MQTT 5.0, 4.7 and 4.8)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulou.access.topics import Names, Subscriptions, matches, shared

LEVELS = st.sampled_from([b"", b"a", b"b", "厦门".encode(), b"$x"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map(b"/".join).filter(bool)
FILTERS = st.tuples(st.lists(st.one_of(LEVELS, st.just(b"+")), min_size=1, max_size=5), st.booleans()).map(
    lambda made: b"/".join([*made[0], b"#"] if made[1] else made[0])
).filter(bool) | st.just(b"#")


def expected(wanted: bytes, topic: bytes) -> bool:
    """4.7.1 and 4.7.2 once more, as a regular expression."""
    if topic.startswith(b"$") and wanted[:1] in (b"+", b"#"):
        return False
    pattern = b"/".join(b"[^/]*" if part == b"+" else re.escape(part) for part in wanted.split(b"/"))
    if wanted == b"#":
        return True
    pattern = re.sub(rb"/\\#\Z", b"(/.*)?", pattern)
    return re.fullmatch(pattern, topic, re.DOTALL) is not None


@pytest.mark.parametrize(("wanted", "topic", "meets"), [
    ("sport/tennis/player1/#", "sport/tennis/player1", True), ("sport/#", "sport", True), ("#", "/", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False), ("sport/+", "sport", False), ("sport/+", "sport/", True),
    ("+/+", "/finance", True), ("/+", "/finance", True), ("+", "/finance", False),
    ("#", "$SYS/monitor", False), ("+/monitor/Clients", "$SYS/monitor/Clients", False), ("$SYS/#", "$SYS/x", True),
    ("ACCOUNTS", "Accounts", False),
])
def test_the_examples_of_the_standard(wanted: str, topic: str, meets: bool) -> None:
    tree: Subscriptions[str, int] = Subscriptions()
    tree.add(wanted.encode(), "k", 1)
    names: Names[str] = Names()
    names.set(topic.encode(), "v")
    assert matches(wanted.encode(), topic.encode()) is meets
    assert bool(tree.match(topic.encode())) is meets
    assert bool(list(names.match(wanted.encode()))) is meets


@given(st.lists(FILTERS, max_size=12), TOPICS, st.data())
def test_the_tree_finds_what_matches_and_forgets_what_was_removed(filters: list[bytes], topic: bytes, data: st.DataObject) -> None:
    tree: Subscriptions[int, bytes] = Subscriptions()
    for number, wanted in enumerate(filters):
        tree.add(wanted, number, wanted)
    assert len(tree) == len(filters)
    assert sorted(tree.match(topic)) == [(n, f) for n, f in enumerate(filters) if expected(f, topic)]
    assert all(matches(f, topic) is expected(f, topic) for f in filters)
    gone = data.draw(st.sets(st.integers(0, max(0, len(filters) - 1))))
    for number in gone & set(range(len(filters))):
        assert tree.remove(filters[number], number)
        assert not tree.remove(filters[number], number)
    assert sorted(tree.match(topic)) == [(n, f) for n, f in enumerate(filters) if expected(f, topic) and n not in gone]
    for number, wanted in enumerate(filters):
        tree.remove(wanted, number)
    assert not tree._root.children
    assert len(tree) == 0


@given(st.lists(TOPICS, max_size=12), FILTERS)
def test_names_are_found_by_filter_and_pruned(topics: list[bytes], wanted: bytes) -> None:
    names: Names[bytes] = Names()
    for topic in topics:
        names.set(topic, topic)
    assert len(names) == len(set(topics))
    assert sorted(names.match(wanted)) == sorted({t for t in topics if expected(wanted, t)})
    for topic in topics:
        assert names.get(topic) in (topic, None)
        names.delete(topic)
    assert not names._root.children


def test_depth_costs_no_stack() -> None:
    deep = b"/".join([b"a"] * 30_000)
    tree: Subscriptions[int, int] = Subscriptions()
    tree.add(deep, 1, 1)
    tree.add(b"/".join([b"+"] * 30_000), 2, 2)
    assert len(tree.match(deep)) == 2
    names: Names[int] = Names()
    names.set(deep, 1)
    assert list(names.match(b"#")) == [1]
    names.delete(deep)
    assert not tree.match(b"a/a")


def test_shared_filters() -> None:
    assert shared("$share/g/a/+") == ("g", "a/+")
    assert shared("$shared/g/a") is None
    for bad in ("$share/g", "$share//a", "$share/g/", "$share/+/a", "$share/#"):
        with pytest.raises(ValueError):
            shared(bad)
