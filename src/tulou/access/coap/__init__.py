"""CoAP (RFC 7252) for devices: messages, the endpoint that speaks them, payloads, and the door of telemetry.

Law: `message.py`, `senml.py` and `payload.py` are pure: bytes in, values out, and for bytes that are not what they should
be one `Unreadable`, nothing else.
"""

from __future__ import annotations

from typing import Any

from tulou.access.telemetry import Refusal


class Unreadable(ValueError):
    """Bytes that cannot be read; `refusal` names the field, the value and the rule."""

    def __init__(self, rule: str, zh: str, en: str, field: str = "", value: Any = None) -> None:
        super().__init__(en)
        self.refusal = Refusal(rule, zh, en, field, value)
