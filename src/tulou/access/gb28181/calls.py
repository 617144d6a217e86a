"""Calls of GB/T 28181: a device is invited to send a stream to the media server (9.2, 9.8), until one side says BYE.

Law: the house signals, the stream is the media server's. A call that ends, by whomever, is told to the media server once. A 2xx is
acknowledged whenever it comes (RFC 3261, 13.2.2.4), and one that nobody waits for is ended at once.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tulou.access.coap import Unreadable
from tulou.access.gb28181 import media, sip
from tulou.access.gb28181.media import LIVE, PLAYBACK
from tulou.access.gb28181.sip import Message
from tulou.kernel.errors import Conflict, Invalid, TulouError

if TYPE_CHECKING:
    from tulou.access.gb28181.door import SipDoor
    from tulou.access.gb28181.registration import Registration

log = logging.getLogger("tulou.gb28181")

OF_DEVICE = 64
"""Calls of one device."""


class Refused(TulouError):
    """The device said no."""


@dataclass(slots=True, eq=False)
class Call:
    """A call that was set up; `headers` are those of the dialog."""

    id: str
    registration: Registration
    channel: str
    ssrc: str
    kind: str
    call_id: str
    dialog: list[tuple[str, str]]
    target: str
    cseq: int

    def document(self) -> dict[str, Any]:
        return {"session": self.id, "channel": self.channel, "ssrc": self.ssrc, "kind": self.kind}


class Calls:
    """The calls of a door."""

    def __init__(self, door: SipDoor, server: media.MediaServer) -> None:
        self.door, self.server = door, server
        self.of_id: dict[str, Call] = {}
        self.of_call_id: dict[str, Call] = {}
        self.begun = self.ended = 0
        self._taken: set[str] = set()
        self._next = secrets.randbelow(media.STREAMS)

    async def play(self, registration: Registration, params: Any) -> dict[str, Any]:
        """Invite the device. Raises `TulouError`, `Lost`."""
        kind = PLAYBACK if hasattr(params, "start") else LIVE
        channel = params.channel or registration.identity
        times = (int(params.start.timestamp()), int(params.end.timestamp())) if kind == PLAYBACK else (0, 0)
        if times[1] < times[0]:
            raise Invalid("结束早于开始", "it ends before it starts", field="params.end", rule=">= start")
        if sum(call.registration is registration for call in self.of_id.values()) >= OF_DEVICE:
            raise Conflict(f"设备已有 {OF_DEVICE} 路点播", f"the device has {OF_DEVICE} calls already", rule=f"<= {OF_DEVICE}")
        ssrc = media.ssrc(kind, self.door.server, self._taken, self._next)
        self._next = (int(ssrc[6:]) + 1) % media.STREAMS
        session = secrets.token_urlsafe(9)
        self._taken.add(ssrc[6:])
        opened = False
        try:
            ip, port = await self.server.open({
                "session": session, "device": registration.identity, "channel": channel, "ssrc": ssrc, "kind": kind,
                "transport": params.transport, **({"start": times[0], "end": times[1]} if kind == PLAYBACK else {}),
            })
            opened = True
            call, sdp = await self._invite(registration, session, channel, ssrc, kind, media.offer(channel, ssrc, kind, params.transport, ip, port, *times))
        except BaseException:
            self._taken.discard(ssrc[6:])
            if opened:
                self.door.gateway.spawn(self._tell(session))
            raise
        self.of_id[session] = self.of_call_id[call.call_id] = call
        self.begun += 1
        try:
            await self.server.answered(session, sdp)
        except TulouError:
            self.end(call, "the media server did not take the answer")
            raise
        return {**call.document(), "device": media.answered(sdp), "media": {"ip": ip, "port": port}}

    async def _invite(
        self, registration: Registration, session: str, channel: str, ssrc: str, kind: str, sdp: bytes
    ) -> tuple[Call, bytes]:
        door = self.door
        made = door.request_to(registration, "INVITE", channel, body=sdp, more=[
            ("content-type", "APPLICATION/SDP"), ("subject", f"{channel}:{ssrc},{door.server}:0"), ("contact", door.contact(registration.way)),
        ])
        answer = await door.requests.ask(registration.way, made)
        if answer.status >= 300:
            raise Refused(f"设备回答 {answer.status}", f"the device answered {answer.status}", field="channel", value=channel, rule="2xx")
        call = Call(session, registration, channel, ssrc, kind, made.get("call-id"), dialog(made, answer), target_of(answer, made), made.cseq[0])
        self.acknowledge(call)
        try:
            media.answered(answer.body)
        except Unreadable as error:
            self._bye(call)
            raise Refused(error.refusal.zh, error.refusal.en, field="sdp", rule="a video") from None
        return call, answer.body

    def acknowledge(self, call: Call) -> None:
        """The ACK of a 2xx: a request of its own (13.2.2.4)."""
        door = self.door
        door.send(call.registration.way, door.within("ACK", call.target, call.dialog, call.cseq, call.registration.way))

    def stray(self, answer: Message, registration_way: Any) -> None:
        """A 2xx to an INVITE that no transaction waits for: a repeat, or one that came too late."""
        call = self.of_call_id.get(answer.get("call-id"))
        if call is not None:
            if call.registration.way.host == registration_way.host:
                self.acknowledge(call)
            return
        door = self.door
        if not answer.get("via").find(door.mark) >= 0:
            return
        lines = [("from", answer.get("from")), ("to", answer.get("to")), ("call-id", answer.get("call-id"))]
        target = target_of(answer, None)
        number = answer.cseq[0]
        door.send(registration_way, door.within("ACK", target, lines, number, registration_way))
        door.send(registration_way, door.within("BYE", target, lines, number + 1, registration_way))

    def stop(self, registration: Registration, session: str) -> dict[str, Any]:
        """End a call of a device. Raises `Invalid` if it has no such."""
        call = self.of_id.get(session)
        if call is None or call.registration is not registration:
            raise Invalid(f"设备没有媒体会话 {session}", f"the device has no session {session}", field="params.session", value=session, rule="a session")
        self.end(call, "stopped")
        return call.document()

    def bye(self, call_id: str, host: str) -> bool:
        """The device ended a call; whether there was one."""
        call = self.of_call_id.get(call_id)
        if call is None or call.registration.way.host != host:
            return False
        self._forget(call)
        return True

    def finished(self, registration: Registration, channel: str) -> None:
        """The device says that a recording came to its end (9.8.3)."""
        for call in [c for c in self.of_id.values() if c.registration is registration and c.channel == channel and c.kind == PLAYBACK]:
            self.end(call, "the recording is over")

    def gone(self, registration: Registration) -> None:
        """The device is there no more."""
        for call in [call for call in self.of_id.values() if call.registration is registration]:
            self.end(call, "the device is gone")

    def end(self, call: Call, why: str) -> None:
        log.debug("call %s of %s ends: %s", call.id, call.channel, why)
        self._bye(call)
        self._forget(call)

    def _bye(self, call: Call) -> None:
        door, way = self.door, call.registration.way
        call.cseq += 1
        door.gateway.spawn(door.requests.attempt(way, door.within("BYE", call.target, call.dialog, call.cseq, way)))

    def _forget(self, call: Call) -> None:
        if self.of_id.pop(call.id, None) is not None:
            del self.of_call_id[call.call_id]
            self._taken.discard(call.ssrc[6:])
            self.ended += 1
            self.door.gateway.spawn(self._tell(call.id))

    async def _tell(self, session: str) -> None:
        with contextlib.suppress(TulouError):
            await self.server.closed(session)

    async def close(self) -> None:
        """End every call, and tell the media server."""
        for call in list(self.of_id.values()):
            way = call.registration.way
            self.door.send(way, self.door.within("BYE", call.target, call.dialog, call.cseq + 1, way))
            await self._tell(call.id)
        self.of_id.clear()
        self.of_call_id.clear()
        await self.server.close()


def dialog(request: Message, answer: Message) -> list[tuple[str, str]]:
    """The headers of requests within the dialog that a request of ours and its answer made (RFC 3261, 12.1.2)."""
    routes = [("route", route) for route in reversed(answer.all("record-route"))]
    return [*routes, ("from", request.get("from")), ("to", answer.get("to")), ("call-id", request.get("call-id"))]


def target_of(answer: Message, request: Message | None) -> str:
    """Where requests within the dialog are addressed to: only a text, for they go where the device registered from."""
    contact = answer.get("contact")
    with contextlib.suppress(Unreadable):
        found, _ = sip.address(contact, "Contact")
        return f"sip:{found.user}@{found.host}" + (f":{found.port}" if found.port else "")
    found, _ = sip.address((request or answer).get("to"), "To")
    return f"sip:{found.user}@{found.host}"
