"""The codec of what LwM2M devices say, in the form in which it is kept.

Law: pure. A notification or an answer is kept as a CoAP message (`coap/payload.py`): Uri-Path is what was observed or
read, Content-Format what the device answered in, Uri-Query its endpoint name (`ep`), when it was received (`at`), and the
property's name for each resource that the device's model maps (`as=name=3303/0/5700`). Others are named by their path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from tulou.access.coap import Unreadable
from tulou.access.coap.message import CONTENT_FORMAT, URI_PATH, URI_QUERY, Message, parse
from tulou.access.coap.payload import micros, queried, received, stored
from tulou.access.lwm2m.content import decode, path_of, text_of
from tulou.access.protocols import Method, Sample
from tulou.access.protocols.params import Params, labelled
from tulou.access.telemetry import Refusal
from tulou.kernel.errors import Invalid

ENDPOINT = re.compile(r"[!-.0-~]{1,64}", re.ASCII)
"""Endpoint names (V1_0, 5.3.1, 6.3): printable, here without spaces and slashes."""


def _path(text: str) -> str:
    if not path_of(text):
        raise ValueError("a path of numbers")
    return text


class Where(Params):
    """A path, such as 3/0/13."""

    path: Annotated[str, AfterValidator(_path)] = labelled("路径", "path", description="3/0/13")


class Write(Where):
    value: float | bool | str = labelled("值", "value")


class Execute(Where):
    value: str = labelled("参数", "arguments", default="", max_length=500)


class Lwm2mMessages:
    """The codec (`protocols.Codec`)."""

    name = "lwm2m"
    passwords = False
    methods: Mapping[str, Method] = {
        "read": Method("读取", "read", Where), "write": Method("写入资源", "write a resource", Write),
        "execute": Method("执行", "execute", Execute),
    }

    def identity(self, text: str) -> bytes:
        if not ENDPOINT.fullmatch(text):
            raise Invalid("端点名须为 1 至 64 个可见 ASCII 字符，不含 / 与空格", "an endpoint name is 1 to 64 visible ASCII characters without / and space",
                          field="identity", value=text, rule="LwM2M endpoint client name")
        return text.encode()

    def identify(self, raw: bytes) -> bytes:
        try:
            return queried(parse(raw), "ep").encode()
        except Unreadable:
            return b""

    def masked(self, raw: bytes) -> bytes:
        return raw

    def decode(self, raw: bytes) -> tuple[list[Sample], list[Refusal]]:
        """The values of a kept message."""
        try:
            message = parse(raw)
            return _samples(message)
        except Unreadable as error:
            return [], [error.refusal]


def _samples(message: Message) -> tuple[list[Sample], list[Refusal]]:
    path = path_of("/".join(message.texts(URI_PATH)))
    names = {}
    for text in message.texts(URI_QUERY):
        if text.startswith("as="):
            name, _, where = text[3:].rpartition("=")
            names[where] = name
    at = received(message)
    samples: dict[int, dict[str, float | str]] = {}
    for node in decode(path, message.uint(CONTENT_FORMAT), message.payload):
        where = text_of(node.path)
        samples.setdefault(micros(node.time, at), {})[names.get(where, where)] = stored(node.value)
    return [(ts, values, None) for ts, values in samples.items()], []


codec = Lwm2mMessages()
