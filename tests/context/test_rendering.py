"""What is kept of an answer is of the row's version and of the context's terms."""

from __future__ import annotations

from typing import Any

import orjson

from tulou.context.jsonld import CORE, Context
from tulou.context.rendering import Rendered
from tulou.context.store import Row

SPEED = "https://example.org/speed"


def row(value: int, version: int = 1, no: int = 7) -> Row:
    document = {"id": "urn:x:1", "type": "Vehicle", SPEED: {"type": "Property", "value": value}}
    return Row(no, "urn:x:1", "fuzhou", "Vehicle", orjson.dumps(document).decode(), None, False, 0, 0, version)


def shown(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(text)
    return {name: value["value"] for name, value in found.items() if isinstance(value, dict)}


def test_a_new_version_and_other_terms_are_seen_at_once() -> None:
    rendered, context = Rendered(), Context({"speed": SPEED})
    assert shown(rendered.json(row(1), context)) == {"speed": 1}
    assert rendered.json(row(1), context) is rendered.json(row(1), context)
    assert shown(rendered.json(row(2, version=2), context)) == {"speed": 2}
    context.become({"velocity": SPEED})
    assert shown(rendered.json(row(2, version=2), context)) == {"velocity": 2}
    assert shown(rendered.json(row(2, version=2), Context({"v": SPEED}))) == {"v": 2}
    assert shown(rendered.json(row(2, version=2), CORE)) == {SPEED: 2}


def test_what_is_not_kept_is_not_looked_up_either() -> None:
    rendered, context = Rendered(), Context({"speed": SPEED})
    rendered.json(row(1), context)
    assert shown(rendered.json(row(9), context, keep=False)) == {"speed": 9}
    assert shown(rendered.json(row(1), context)) == {"speed": 1}


def test_it_is_bounded() -> None:
    rendered, context = Rendered(most=1_000), Context({"speed": SPEED})
    for no in range(100):
        assert shown(rendered.json(row(no, no=no), context)) == {"speed": no}
    assert len(rendered._kept) < 20
