"""Meters that speak when they are asked: what their codecs share, and what is kept of an answer.

Law: pure. An answer says too little to be read alone (a register's value without its number), so what is kept is the
question with it: a line of JSON with the request and the points that were asked for, a line feed, the bytes of the answer.
So history can be read again. An answer belongs to a question only if it says so itself: address, function, identifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson

from tulou.access.batch import BAD
from tulou.access.protocols import Method, Sample, Session
from tulou.access.telemetry import NAN, Refusal
from tulou.kernel.errors import Invalid


class Point(NamedTuple):
    """What is asked of a meter: the property that its value becomes, the protocol's own name of it, how it is laid out
    (empty: as the protocol says), and the factor by which the number is multiplied (0: as the protocol says)."""

    property: str
    item: str
    type: str = ""
    scale: float = 0.0


class Ask(NamedTuple):
    """A request, and the points that its answer has values for."""

    request: bytes
    points: tuple[Point, ...]


class Unreadable(ValueError):
    """Why a value cannot be read: Chinese and English."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(zh, en)
        self.zh, self.en = zh, en


def sealed(ask: Ask, answer: bytes) -> bytes:
    """What is kept of an answer."""
    return orjson.dumps({"request": ask.request.hex(), "points": [list(point) for point in ask.points]}) + b"\n" + answer


def opened(raw: bytes) -> tuple[Ask, bytes]:
    """The question and the answer in what was kept. Raises `ValueError`."""
    head, _, answer = raw.partition(b"\n")
    found = orjson.loads(head)
    try:
        return Ask(bytes.fromhex(found["request"]), tuple(Point(*point) for point in found["points"])), answer
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(str(error)) from None


class Meter:
    """A codec of a protocol that is polled; also a `Codec`, for what was kept. A subclass knows frames and values."""

    name = ""
    idle = first = 0.0
    passwords = False
    methods: Mapping[str, Method] = {}

    def asks(self, address: str, points: Sequence[Point]) -> list[Ask]:
        """The requests for these points of the meter. Raises `Invalid`, naming the field."""
        raise NotImplementedError

    def find(self, request: bytes, data: bytes) -> tuple[int, int] | None:
        """Where the first sound frame in `data` begins and ends; None if there is none yet."""
        raise NotImplementedError

    def answers(self, request: bytes, answer: bytes) -> Refusal | None:
        """Why this sound frame is no answer to the request; None if it is, be it to say that it will not."""
        raise NotImplementedError

    def refusal(self, request: bytes, answer: bytes) -> Refusal | None:
        """The meter's refusal, if the answer is one."""
        raise NotImplementedError

    def value(self, request: bytes, answer: bytes, point: Point) -> float | str:
        """The value of a point in an answer; not-a-number where the meter says that it has none. Raises `Unreadable`."""
        raise NotImplementedError

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        try:
            ask, answer = opened(raw)
        except ValueError:
            return [], [Refusal("kept", "不是保留的应答", "not an answer that was kept")]
        whole = self.find(ask.request, answer)
        if whole is None:
            return [], [Refusal("frame", "应答不是完整的帧", "the answer is no whole frame")]
        answer = answer[whole[0] : whole[1]]
        refusal = self.answers(ask.request, answer) or self.refusal(ask.request, answer)
        if refusal is not None:
            return [], [refusal]
        values: dict[str, float | str] = {}
        refusals: list[Refusal] = []
        for point in ask.points:
            try:
                values[point.property] = self.value(ask.request, answer, point)
            except Unreadable as error:
                refusals.append(Refusal("value", error.zh, error.en, point.property, point.item))
        worse = {name: BAD for name, value in values.items() if value != value}
        return ([(0, values, worse or None)] if values else []), refusals

    def identity(self, text: str) -> bytes:
        raise Invalid(
            f"协议 {self.name} 由平台轮询，设备无需标识（见 tulou device poll）",
            f"{self.name} is polled; its devices have no identity (see tulou device poll)",
            field="protocol", value=self.name, rule="a protocol whose devices speak by themselves",
        )

    def identify(self, raw: bytes) -> bytes:
        return b""

    def masked(self, raw: bytes) -> bytes:
        return raw

    def session(self) -> Session:
        raise NotImplementedError("a meter speaks when it is asked")


def wrong(field: str, value: object, rule: str, zh: str, en: str) -> Invalid:
    """The error for an address or a point that cannot be asked for."""
    return Invalid(zh, en, field=field, value=value, rule=rule)


def bcd(raw: bytes) -> float:
    """The number of BCD bytes, the last one the highest; not-a-number if a digit is none (FF: the meter has no value)."""
    digits = raw[::-1].hex()
    return float(int(digits)) if digits.isdigit() else NAN
