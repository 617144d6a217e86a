"""Those who are told of alarms, as real servers on the loopback address: HTTP and SMTP."""

from __future__ import annotations

import asyncio
import email
import email.policy
from dataclasses import dataclass, field
from email.message import EmailMessage

from tulou.kernel.bus import free_port


@dataclass
class HttpReceiver:
    """Keeps what is posted to it, and answers with the next of `answers`, then with 200."""

    port: int = field(default_factory=free_port)
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    refused: int = 0

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._talk, "127.0.0.1", self.port)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status = self.answers.pop(0) if self.answers else 200
                if status == 200:
                    self.got.append((headers, body))
                else:
                    self.refused += 1
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@dataclass
class SmtpReceiver:
    """Takes letters (RFC 5321 without extensions)."""

    port: int = field(default_factory=free_port)
    letters: list[tuple[list[str], EmailMessage]] = field(default_factory=list)

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._talk, "127.0.0.1", self.port)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(line.encode() + b"\r\n")
            await writer.drain()

        to: list[str] = []
        await say("220 here")
        while line := (await reader.readline()).decode().strip():
            match line.split(":")[0].split()[0].upper():
                case "RCPT":
                    to.append(line.partition("<")[2].rstrip(">"))
                    await say("250 ok")
                case "DATA":
                    await say("354 go on")
                    raw = await reader.readuntil(b"\r\n.\r\n")
                    letter = email.message_from_bytes(raw[:-3], policy=email.policy.default)
                    assert isinstance(letter, EmailMessage)
                    self.letters.append((to, letter))
                    to = []
                    await say("250 taken")
                case "QUIT":
                    await say("221 bye")
                    break
                case _:
                    await say("250 ok")
        writer.close()
