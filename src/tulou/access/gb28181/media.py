"""What a media server is told of calls (GB/T 28181-2016, 9.2 and 9.8): the house signals, it receives the stream.

Law: the server's address is the house's setting, judged by `kernel.outbound` like every other. Three requests, JSON:

    POST   {url}            {session, device, channel, ssrc, kind: live|playback, transport, start?, end?} -> 2xx {ip, port}
    PUT    {url}/{session}  {sdp}: what the device answered; 2xx, or the call is ended
    DELETE {url}/{session}  the call is over, or did not come about

`ip` and `port` are where the device is to send to; with `transport` tcp-active the server connects to the device's address in `sdp`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

import orjson

from tulou.access.coap import Unreadable
from tulou.kernel.errors import Conflict, Invalid, Unavailable

if TYPE_CHECKING:
    from tulou.kernel.outbound import Outbound

PATIENCE = 5.0
"""Seconds for an answer of the media server."""
LIVE, PLAYBACK = "live", "playback"
STREAMS = 10_000
"""Stream numbers of a domain: the last four digits of an SSRC."""


def ssrc(kind: str, server: str, taken: Container[str], start: int) -> str:
    """A free SSRC (annex C.2.4): 0 live or 1 history, digits 4 to 8 of the domain's code, and a number from `start` on. Raises
    `Conflict` if none is free."""
    for step in range(STREAMS):
        made = f"{0 if kind == LIVE else 1}{server[3:8]}{(start + step) % STREAMS:04d}"
        if made[6:] not in taken:
            return made
    raise Conflict("没有空闲的媒体流号", "no stream number is free", rule=f"<= {STREAMS}")


def offer(channel: str, ssrc: str, kind: str, transport: str, ip: str, port: int, start: int = 0, end: int = 0) -> bytes:
    """The SDP of an INVITE (annex F); `start` and `end` in seconds since 1970."""
    tcp = transport != "udp"
    lines = [
        "v=0", f"o={channel} 0 0 IN IP{6 if ':' in ip else 4} {ip}", f"s={'Play' if kind == LIVE else 'Playback'}",
        *([f"u={channel}:0"] if kind == PLAYBACK else []), f"c=IN IP{6 if ':' in ip else 4} {ip}", f"t={start} {end}",
        f"m=video {port} {'TCP/' if tcp else ''}RTP/AVP 96 97 98", "a=recvonly",
        "a=rtpmap:96 PS/90000", "a=rtpmap:97 MPEG4/90000", "a=rtpmap:98 H264/90000",
        *([f"a=setup:{transport[4:]}", "a=connection:new"] if tcp else []), f"y={ssrc}",
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


def answered(body: bytes) -> dict[str, Any]:
    """Address, port and SSRC in the SDP of a device. Raises `Unreadable`."""
    found: dict[str, Any] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        kind, _, text = line.partition("=")
        words = text.split()
        if kind == "c" and len(words) == 3:
            found["ip"] = words[2][:64]
        elif kind == "m" and len(words) > 2 and words[0] == "video" and words[1].isdecimal() and len(words[1]) < 6:
            found["port"], found["protocol"] = int(words[1]), words[2][:20]
        elif kind == "y" and text.strip().isdecimal():
            found["ssrc"] = text.strip()[:10]
    if "port" not in found:
        raise Unreadable("sdp", "SDP 没有视频", "the SDP has no video", "m")
    return found


class MediaServer:
    """The media server at `url`; the judge of addresses is made when it is first needed."""

    def __init__(self, url: str, outbound: Callable[[], Outbound]) -> None:
        self.url = url.rstrip("/")
        self._make = outbound
        self._outbound: Outbound | None = None

    async def open(self, session: dict[str, Any]) -> tuple[str, int]:
        """Where the stream is to go. Raises `TulouError`."""
        if not self.url:
            raise Invalid("未设媒体服务器（gb28181_media），不能点播", "no media server is set (gb28181_media), so nothing can be played",
                          field="gb28181_media", rule="an address of a media server")
        answer = await self._request("POST", "", session)
        try:
            found = orjson.loads(answer)
            ip, port = str(ipaddress.ip_address(found["ip"])), found["port"]
            if type(port) is not int or not 0 < port < 65536:
                raise ValueError(port)
        except (ValueError, KeyError, TypeError):
            raise Unavailable("媒体服务器的应答不是 {ip, port}", "the media server's answer is not {ip, port}", field="gb28181_media",
                              rule="ip, port") from None
        return ip, port

    async def answered(self, session: str, sdp: bytes) -> None:
        """What the device answered. Raises `TulouError`."""
        await self._request("PUT", f"/{session}", {"sdp": sdp.decode("utf-8", "replace")})

    async def closed(self, session: str) -> None:
        """The call is over. Raises `TulouError`."""
        await self._request("DELETE", f"/{session}", None)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        if self._outbound is None:
            self._outbound = self._make()
        answer = await self._outbound.request(
            method, self.url + path, content=None if body is None else orjson.dumps(body),
            headers={"Content-Type": "application/json"} if body is not None else None, timeout=PATIENCE,
        )
        if not answer.ok:
            raise Unavailable(f"媒体服务器回答 {answer.status}", f"the media server answered {answer.status}", field="gb28181_media", rule="2xx")
        return answer.body

    async def close(self) -> None:
        if self._outbound is not None:
            await self._outbound.close()


