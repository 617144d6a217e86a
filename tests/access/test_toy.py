"""The one test that a new codec needs beside its place in test_codecs.py: what its document says, frame by frame."""

from __future__ import annotations

from tests.access import toy
from tulou.access.protocols import Broken, Message, beijing

SENT = toy.line(b"GATE01,SECRET,20260401080000,2.35,OK")


def test_a_line_is_read_and_answered() -> None:
    session = toy.codec.session()
    (message,) = session.feed(SENT)
    assert isinstance(message, Message)
    assert (message.identity, message.credential) == (b"GATE01", b"SECRET")
    assert toy.codec.decode(message.raw) == ([(beijing("20260401080000"), {"level": 2.35, "state": "OK"}, None)], [])
    assert session.accept(message, 0) == b"!GATE01*16\n"
    assert b"SECRET" not in message.raw


def test_a_gate_that_is_not_well_has_a_bad_level() -> None:
    (message,) = toy.codec.session().feed(toy.line(b"GATE01,SECRET,20260401080000,-0.10,FAULT"))
    assert isinstance(message, Message)
    ((_, values, worse),), _ = toy.codec.decode(message.raw)
    assert (values["level"], worse) == (-0.1, {"level": 2})


def test_what_is_wrong_is_named() -> None:
    (broken,) = toy.codec.session().feed(SENT.replace(b"2.35", b"2.36"))
    assert isinstance(broken, Broken)
    assert broken.refusal.rule == "checksum"
    (message,) = toy.codec.session().feed(toy.line(b"GATE01,SECRET,20261301080000,2.35,OK"))
    assert isinstance(message, Message)
    assert toy.codec.decode(message.raw)[1][0].field == "time"
