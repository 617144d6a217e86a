"""A camera of GB/T 28181 for the tests: a socket, its own digest, and what it was told. Not the house's code, but for reading."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import socket
from collections.abc import Callable
from typing import Any

CODE = "34020000001320000001"
SERVER = "35000000002000000001"
REALM = "3500000000"
PASSWORD = "camera secret"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Said:
    """A message that came: start line, headers by name in small letters, body."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.start, *lines = head.decode().split("\r\n")
        self.headers: list[tuple[str, str]] = [(n.lower(), t.strip()) for n, _, t in (line.partition(":") for line in lines)]

    def __getitem__(self, name: str) -> str:
        return next((text for key, text in self.headers if key == name), "")

    def all(self, name: str) -> list[str]:
        return [text for key, text in self.headers if key == name]

    @property
    def status(self) -> int:
        return int(self.start.split()[1]) if self.start.startswith("SIP/2.0") else 0

    @property
    def method(self) -> str:
        return "" if self.status else self.start.split()[0]

    def text(self, name: str) -> str:
        found = re.search(rf"<{name}>(.*?)</{name}>".encode(), self.body)
        return found[1].decode("gb18030") if found else ""


class Camera:
    """`answers` makes the answer to a request of the house: status and, afterwards, bodies of MESSAGEs."""

    def __init__(self, port: int, code: str = CODE, password: str = PASSWORD, stream: bool = False) -> None:
        self.port, self.code, self.password, self.stream = port, code, password, stream
        self.told: list[Said] = []
        self.answers: Callable[[Said], tuple[int, list[str]]] = lambda said: (200, [])
        self.sdp = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=Play\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 15060 RTP/AVP 96\r\na=sendonly\r\ny=0\r\n"
        self.mute = False
        self.version = ""
        self._waiting: dict[tuple[str, str], asyncio.Future[Said]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._buffer = b""
        self.cseq = 0

    async def open(self) -> Camera:
        loop = asyncio.get_running_loop()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        if self.stream:
            await loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        else:
            self.socket.bind(("127.0.0.1", 0))
        self.here = self.socket.getsockname()
        self.reading = asyncio.create_task(self._read())
        return self

    async def close(self) -> None:
        self.reading.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.reading, *self._tasks, return_exceptions=True)
        self.socket.close()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(self.socket, 70_000)
            if not data:
                return
            if not self.stream:
                self._take(Said(data))
                continue
            self._buffer += data
            while b"\r\n\r\n" in self._buffer:
                said = Said(self._buffer)
                size = self._buffer.index(b"\r\n\r\n") + 4 + int(said["content-length"])
                if len(self._buffer) < size:
                    break
                self._take(Said(self._buffer[:size]))
                self._buffer = self._buffer[size:]

    def _take(self, said: Said) -> None:
        if said.status:
            waiting = self._waiting.get((said["call-id"], said["cseq"]))
            if waiting is not None and not waiting.done():
                waiting.set_result(said)
            return
        if self.mute:
            return
        self.told.append(said)
        if said.method != "ACK":
            task = asyncio.ensure_future(self._answer(said))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, said: Said) -> None:
        status, more = self.answers(said)
        if not status:
            return
        sdp = self.sdp if said.method == "INVITE" and status == 200 else b""
        lines = [f"SIP/2.0 {status} X", *(f"Via: {via}" for via in said.all("via")), f"From: {said['from']}",
                 f"To: {said['to']}" + ("" if "tag=" in said["to"] else ";tag=cam"), f"Call-ID: {said['call-id']}", f"CSeq: {said['cseq']}",
                 f"Contact: <sip:{self.code}@10.9.9.9:5060>", *(["Content-Type: application/sdp"] if sdp else []),
                 f"Content-Length: {len(sdp)}", "", ""]
        await self.write("\r\n".join(lines).encode() + sdp)
        for body in more:
            assert (await self.say(body)).status == 200

    async def write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.stream:
            await loop.sock_sendall(self.socket, data)
        else:
            await loop.sock_sendto(self.socket, data, ("127.0.0.1", self.port))

    def build(self, method: str, headers: list[str], body: bytes = b"", **changes: str) -> bytes:
        """A request; `changes` are parts of it: via, call_id, branch, cseq, code."""
        self.cseq += 1
        code = changes.get("code", self.code)
        lines = [
            f"{method} sip:{SERVER}@{REALM} SIP/2.0",
            f"Via: SIP/2.0/{'TCP' if self.stream else 'UDP'} {changes.get('via') or ':'.join(map(str, self.here[:2]))};rport;branch={changes.get('branch') or 'z9hG4bK' + secrets.token_hex(6)}",
            f"From: <sip:{code}@{REALM}>;tag={secrets.token_hex(4)}", f"To: <sip:{code if method == 'REGISTER' else SERVER}@{REALM}>",
            f"Call-ID: {changes.get('call_id') or secrets.token_hex(8)}", f"CSeq: {changes.get('cseq') or self.cseq} {method}", "Max-Forwards: 70",
            *([f"X-GB-Ver: {self.version}"] if self.version else []), *headers, f"Content-Length: {len(body)}", "", "",
        ]
        return "\r\n".join(lines).encode() + body

    async def send(self, data: bytes, seconds: float = 20) -> Said:
        """Send a request, again and again over UDP as the timers say, and return its answer."""
        said = Said(data)
        key = said["call-id"], said["cseq"]
        waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        pause = 0.5
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.write(data)
                    done, _ = await asyncio.wait([waiting], timeout=None if self.stream else pause)
                    if done:
                        return waiting.result()
                    pause = min(pause * 2, 4)
        finally:
            del self._waiting[key]

    async def say(self, xml: str, method: str = "MESSAGE", encoding: str = "gb18030", headers: tuple[str, ...] = (), **changes: str) -> Said:
        body = f'<?xml version="1.0" encoding="GB2312"?>\r\n{xml}'.encode(encoding)
        return await self.send(self.build(method, ["Content-Type: Application/MANSCDP+xml", *headers], body, **changes))

    async def keepalive(self, status: str = "OK") -> Said:
        return await self.say(f"<Notify><CmdType>Keepalive</CmdType><SN>1</SN><DeviceID>{self.code}</DeviceID><Status>{status}</Status></Notify>")

    def credentials(self, challenge: str, password: str | None = None, qop: bool = False, nc: str = "00000001") -> str:
        """An Authorization header for a challenge."""
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', challenge))
        uri, name = f"sip:{SERVER}@{REALM}", fields.get("algorithm", "MD5")
        h = sha256 if name == "SHA-256" else md5
        ha1, ha2 = h(f"{self.code}:{fields['realm']}:{self.password if password is None else password}"), h(f"REGISTER:{uri}")
        realm, nonce = fields["realm"], fields["nonce"]
        base = f'Digest username="{self.code}", realm="{realm}", nonce="{nonce}", uri="{uri}", algorithm={name}'
        if qop:
            proof = h(f"{ha1}:{nonce}:{nc}:0a4f113b:auth:{ha2}")
            return f'{base}, response="{proof}", qop=auth, nc={nc}, cnonce="0a4f113b"'
        proof = h(f"{ha1}:{nonce}:{ha2}")
        return f'{base}, response="{proof}"'

    def registering(self, expires: int, authorization: str = "", **changes: str) -> bytes:
        headers = [f"Contact: <sip:{self.code}@{self.here[0]}:{self.here[1]}>", f"Expires: {expires}"]
        return self.build("REGISTER", headers + ([f"Authorization: {authorization}"] if authorization else []), **changes)

    async def register(self, expires: int = 3600, password: str | None = None, qop: bool = False) -> Said:
        """REGISTER, and once more with credentials if it is challenged."""
        answer = await self.send(self.registering(expires))
        if answer.status == 401:
            answer = await self.send(self.registering(expires, self.credentials(answer["www-authenticate"], password, qop)))
        return answer
