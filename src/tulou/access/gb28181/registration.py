"""A device of GB/T 28181 that is registered: where it is, how long for, when it was heard.

Law: no I/O. `until` is the whole of presence: three keepalives after the last message, or the end of the registration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from tulou.access.authenticate import Speaker

if TYPE_CHECKING:
    from tulou.access.gb28181.commands import SipTarget
    from tulou.access.gb28181.door import SipConnection

PERIOD, LONGEST_PERIOD, MISSED, GRACE = 60.0, 600.0, 3, 10.0
"""Seconds between keepalives unless the device shows another, at most; how many may be missed (9.6); and how late they may be."""


@dataclass(slots=True, eq=False)
class Way:
    """Where a device is: an address, and the stream if there is one."""

    host: str
    port: int
    link: SipConnection | None = None

    @property
    def transport(self) -> str:
        return "UDP" if self.link is None else "TLS" if self.link.encrypted else "TCP"


@dataclass(slots=True)
class Subscription:
    """A subscription that is wanted, and its dialog once there is one."""

    event: str
    seconds: int
    interval: int
    channel: str | None
    until: float = 0.0
    target: str = ""
    dialog: list[tuple[str, str]] = field(default_factory=list)
    cseq: int = 0
    busy: bool = False


@dataclass(slots=True, eq=False)
class Registration:
    """A device that is registered. `heard` in µs, `expires` in seconds since 1970."""

    identity: str
    speaker: Speaker
    way: Way
    expires: float
    edition: str
    heard: int
    period: float = PERIOD
    beat: float = 0.0
    status: str = ""
    held: int = 0
    awake: bool = False
    gone: bool = False
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    target: SipTarget | None = None

    @property
    def until(self) -> int:
        """When it is offline if it says no more, in µs."""
        return min(self.heard + int((MISSED * self.period + GRACE) * 1e6), int(self.expires * 1e6))

    def record(self) -> bytes:
        """What a restart begins with."""
        return orjson.dumps({
            "identity": self.identity, "host": self.way.host, "port": self.way.port, "transport": self.way.transport,
            "expires": self.expires, "edition": self.edition, "heard": self.heard, "period": self.period,
            "subscriptions": [[s.event, s.seconds, s.interval, s.channel] for s in self.subscriptions.values()],
        })
