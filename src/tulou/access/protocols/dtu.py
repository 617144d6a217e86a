"""Transparent gateways (DTU) that dial in: who one is, by the first packet that it sends.

Law: pure. There is no standard; makers let an operator write the packet. What it says is the identity: letters and digits
as they are, without spaces, line ends and zeros around them; anything else by its hexadecimal digits, in small letters.
What a gateway carries is polled (`poll_door.py`), so this codec has no frames of its own.
"""

from __future__ import annotations

import re

from tulou.access.protocols.polled import Meter
from tulou.kernel.errors import Invalid

LONGEST = 32
"""Bytes of a registration packet."""


def identity_of(packet: bytes) -> bytes:
    """The identity that a registration packet stands for; empty if it is none."""
    if len(packet) > LONGEST:
        return b""
    words = packet.strip(b" \r\n\t\0")
    return words if words.isalnum() else packet.hex().encode()


class Dtu(Meter):
    """The codec: identities alone."""

    name = "dtu"

    def identity(self, text: str) -> bytes:
        if not re.fullmatch(r"[0-9A-Za-z]{1,64}", text):
            raise Invalid("注册包应为字母与数字，其他内容写成十六进制", "a registration packet is letters and digits; others are written in "
                          "hexadecimal", field="identity", value=text, rule="[0-9A-Za-z]{1,64}")
        return text.encode()


codec = Dtu()
