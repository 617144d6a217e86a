"""One UDP socket that speaks CoAP: answers requests, asks, and observes (RFC 7252, 7641, 7959).

Law: what a stranger can make it hold is nothing. Messages are remembered against repetition (4.2), and blocks are
collected, only for an `owner` that a door has recognised, and both are bounded for each owner and together. An answer
is sent when the door has one; until then a repeat of the request is silent, so the client's own retransmission waits
for it. Requests and notifications of our own are confirmable and
retransmitted (4.2); the door sees to one at a time for each peer (4.7).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tulou.access.coap import Unreadable
from tulou.access.coap import message as m
from tulou.access.coap.message import Block, Message, parse

log = logging.getLogger("tulou.coap")

Address = tuple[str | int, ...]

ACK_TIMEOUT, ACK_RANDOM, MAX_RETRANSMIT = 2.0, 1.5, 4
"""Transmission parameters (RFC 7252, 4.8)."""
EXCHANGE_LIFETIME = 247.0
"""Seconds for which a message id is remembered (4.8.2)."""
SEPARATE = 60.0
"""Seconds to wait for a response after an empty acknowledgement (5.2.2)."""
PER_OWNER, REMEMBERED = 1024, 500_000
"""Message ids remembered for one owner, and for all."""
TRANSFERS, TRANSFER_BYTES, TRANSFER_TIME = 4, 16 << 20, 120.0
"""Unfinished block-wise requests of one owner; bytes of all of them; seconds for which one may rest."""
RECEIVE = 4 << 20
"""Bytes asked of the system for datagrams that wait."""


class Lost(Exception):
    """The peer did not answer, or answered with a reset."""


@dataclass(slots=True)
class Request:
    """A request that came in; `path` is decoded."""

    endpoint: Endpoint
    message: Message
    peer: Address
    path: list[str]
    owner: str = ""

    @property
    def key(self) -> tuple[Address, int]:
        return self.peer, self.message.id

    def answer(self, code: int, payload: bytes = b"", *options: tuple[int, bytes]) -> None:
        """Send the response, piggybacked where the request was confirmable (5.2.1)."""
        asked = self.message
        if asked.kind == m.CON:
            kind, number = m.ACK, asked.id
        else:
            kind, number = m.NON, self.endpoint.next_id()
        data = Message(kind, code, number, asked.token, list(options), payload).encode()
        if self.owner:
            self.endpoint.recent.put(self.owner, self.key, data)
        self.endpoint.send(data, self.peer)

    def repeated(self, owner: str) -> bool:
        """Whether this message came before (4.2): then its answer, if there is one, is sent again. Else it is
        remembered as the owner's."""
        recent = self.endpoint.recent
        before = recent.get(owner, self.key)
        if before is not None:
            self.endpoint.repeats += 1
            if before:
                self.endpoint.send(before, self.peer)
            return True
        self.owner = owner
        recent.put(owner, self.key, b"")
        return False


class Recent:
    """Answers by owner and message, empty while there is none yet. Bounded; the oldest go first."""

    def __init__(self, per_owner: int = PER_OWNER, most: int = REMEMBERED) -> None:
        self._per_owner, self._most = per_owner, most
        self._owners: OrderedDict[str, OrderedDict[Hashable, tuple[float, bytes]]] = OrderedDict()
        self.count = 0

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __contains__(self, owner: object) -> bool:
        return owner in self._owners

    def get(self, owner: str, key: Hashable) -> bytes | None:
        """What was answered; None if the message is new."""
        of = self._owners.get(owner)
        found = of.get(key) if of is not None else None
        return None if found is None or found[0] < time.monotonic() - EXCHANGE_LIFETIME else found[1]

    def put(self, owner: str, key: Hashable, answer: bytes) -> None:
        of = self._owners.get(owner)
        if of is None:
            of = self._owners[owner] = OrderedDict()
        self._owners.move_to_end(owner)
        if key not in of:
            self.count += 1
        of[key] = (time.monotonic(), answer)
        if len(of) > self._per_owner:
            of.popitem(last=False)
            self.count -= 1
        while self.count > self._most:
            _, gone = self._owners.popitem(last=False)
            self.count -= len(gone)

    def forget(self, owner: str) -> bool:
        """Drop what is remembered of an owner; whether there was anything."""
        gone = self._owners.pop(owner, None)
        if gone is not None:
            self.count -= len(gone)
        return gone is not None

    def sweep(self) -> list[str]:
        """Drop what is too old; the owners that were silent for so long."""
        silent = []
        before = time.monotonic() - EXCHANGE_LIFETIME
        for owner, of in list(self._owners.items()):
            while of and next(iter(of.values()))[0] < before:
                of.popitem(last=False)
                self.count -= 1
            if not of:
                del self._owners[owner]
                silent.append(owner)
        return silent


class Holding:
    """Bytes that devices have handed in and that are not durable yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, int] = {}

    def full(self, owner: str) -> bool:
        """Whether nothing more is taken of this owner now."""
        return self._of.get(owner, 0) > self._most

    def add(self, owner: str, size: int) -> None:
        self._of[owner] = self._of.get(owner, 0) + size

    def release(self, owner: str, size: int) -> None:
        """So much of it is durable."""
        held = self._of.pop(owner, size) - size
        if held > 0:
            self._of[owner] = held


@dataclass(slots=True)
class _Transfer:
    """The blocks of a request so far."""

    szx: int
    at: float
    data: bytearray = field(default_factory=bytearray)


class Transfers:
    """Block-wise requests under way (RFC 7959, 2.5; RFC 9175, 3.3), by owner, peer, path and Request-Tag."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._owners: dict[str, OrderedDict[tuple[object, ...], _Transfer]] = {}
        self.held = 0

    def take(self, request: Request) -> tuple[int, bytes, bytes]:
        """The request's whole payload with code 0, or the code and diagnosis to answer, and the Block1 option's value
        to answer with. Raises `Unreadable`."""
        message = request.message
        block = message.block(m.BLOCK1)
        if block is None:
            return (0, message.payload, b"") if len(message.payload) <= self._most else (m.TOO_LARGE, b"", b"")
        echo = block.value()
        of = self._owners.setdefault(request.owner, OrderedDict())
        key = (request.peer, message.code, *request.path, *message.all(m.REQUEST_TAG))
        if block.number == 0:
            self._drop(of, key)
            of[key] = _Transfer(block.szx, time.monotonic())
            if len(of) > TRANSFERS:
                self._drop(of, next(iter(of)))
        transfer = of.get(key)
        offset = block.number * block.size
        if transfer is None or offset != len(transfer.data):
            return m.INCOMPLETE, f"Block1 {block.number}".encode(), b""
        if block.more and len(message.payload) != block.size:
            raise Unreadable("block", "块的长度与 SZX 不符", "a block that is not the last has the length of its SZX (RFC 7959, 2.2)", "Block1")
        if offset + len(message.payload) > self._most:
            self._drop(of, key)
            return m.TOO_LARGE, b"", b""  # with Block1, it would ask for smaller blocks (2.9.3)
        if self.held + len(message.payload) > TRANSFER_BYTES:
            return m.UNAVAILABLE, b"too many unfinished transfers", b""
        self.held += len(message.payload)
        transfer.data += message.payload
        transfer.at = time.monotonic()
        if block.more:
            return m.CONTINUE, b"", echo
        whole = bytes(transfer.data)
        self._drop(of, key)
        return 0, whole, echo

    def _drop(self, of: OrderedDict[tuple[object, ...], _Transfer], key: tuple[object, ...]) -> None:
        gone = of.pop(key, None)
        if gone is not None:
            self.held -= len(gone.data)

    def sweep(self) -> None:
        """Drop the transfers that rest too long."""
        before = time.monotonic() - TRANSFER_TIME
        for owner, of in list(self._owners.items()):
            for key in [key for key, transfer in of.items() if transfer.at < before]:
                self._drop(of, key)
            if not of:
                del self._owners[owner]


@dataclass(slots=True)
class _Exchange:
    """A request of ours that waits for its answer."""

    answer: asyncio.Future[Message]
    acknowledged: asyncio.Event


@dataclass(slots=True)
class Observation:
    """A resource of a peer that is observed; `take` is called with each notification and calls `Endpoint.received`
    when it is durable."""

    peer: Address
    path: tuple[str, ...]
    take: Callable[[Observation, Message], None]
    token: bytes = b""


class Endpoint(asyncio.DatagramProtocol):
    """The socket. `serve` is called with every request."""

    def __init__(self, serve: Callable[[Request], None], largest: int) -> None:
        self.serve = serve
        self.recent = Recent()
        self.transfers = Transfers(largest)
        self.observations: dict[tuple[Address, bytes], Observation] = {}
        self.received_count = self.broken = self.repeats = self.resets = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._exchanges: dict[tuple[Address, bytes], _Exchange] = {}
        self._waiting: dict[tuple[Address, int], _Exchange] = {}
        self._number = random.randrange(1 << 16)  # noqa: S311 - only to tell runs apart
        self._largest = largest

    async def open(self, host: str, port: int) -> int:
        """Bind; the port. `port` below 1 is any free one."""
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: self, local_addr=(host, max(port, 0))
        )
        with contextlib.suppress(OSError, AttributeError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE)
        bound: int = transport.get_extra_info("sockname")[1]
        return bound

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def next_id(self) -> int:
        self._number = self._number + 1 & 0xFFFF
        return self._number

    def send(self, data: bytes, peer: Address) -> None:
        if self._transport is not None:
            self._transport.sendto(data, peer)

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def error_received(self, exc: Exception) -> None:
        log.debug("a datagram was not delivered: %r", exc)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.received_count += 1
        try:
            message = parse(data)
        except Unreadable as error:
            self.broken += 1
            log.debug("not CoAP from %s: %s", addr[0], error)
            if len(data) >= 4 and data[0] >> 4 == 4:  # a confirmable message of version 1 is rejected (4.2)
                self.send(Message(m.RST, 0, int.from_bytes(data[2:4])).encode(), addr)
            return
        try:
            self._handle(message, addr)
        except Exception:  # what one message makes go wrong must not close the socket of all
            log.exception("defect in CoAP")

    def _handle(self, message: Message, peer: Address) -> None:
        asked = 0 < message.code < 32 and message.kind in (m.CON, m.NON)
        try:
            if asked:
                self.serve(Request(self, message, peer, message.texts(m.URI_PATH)))
            elif message.code or message.kind in (m.ACK, m.RST):
                self._response(message, peer)
            elif message.kind == m.CON:  # a ping (4.3)
                self.reset(message, peer)
        except Unreadable as error:
            if asked:
                Request(self, message, peer, []).answer(m.BAD_REQUEST, diagnosis(error))
            elif message.kind in (m.CON, m.NON):
                self.reset(message, peer)

    def reset(self, message: Message, peer: Address) -> None:
        """Say that the message is not wanted (4.2, 4.3); an observation ends by it (RFC 7641, 3.6)."""
        self.send(Message(m.RST, 0, message.id).encode(), peer)

    def received(self, message: Message, peer: Address) -> None:
        """Acknowledge a confirmable response."""
        if message.kind == m.CON:
            self.send(Message(m.ACK, 0, message.id).encode(), peer)

    def _response(self, message: Message, peer: Address) -> None:
        waiting = self._waiting.get((peer, message.id)) if message.kind in (m.ACK, m.RST) else None
        if waiting is not None:
            waiting.acknowledged.set()
            if message.kind == m.RST and not waiting.answer.done():
                waiting.answer.set_exception(Lost("the device answered with a reset"))
        if message.code < 32:
            return
        key = (peer, message.token)
        exchange = self._exchanges.get(key)
        if exchange is not None:
            exchange.acknowledged.set()
            if not exchange.answer.done():
                exchange.answer.set_result(message)
            self.received(message, peer)
            return
        observation = self.observations.get(key)
        if observation is not None:
            observation.take(observation, message)
        elif message.kind in (m.CON, m.NON):
            self.resets += 1
            self.reset(message, peer)

    # Requests of our own

    async def request(
        self, peer: Address, code: int, path: Sequence[str], *, options: Sequence[tuple[int, bytes]] = (),
        payload: bytes = b"", token: bytes = b"",
    ) -> Message:
        """Ask, and return the response; request and response go in blocks where they are large (RFC 7959, 2.4 and 2.5).
        Raises `Lost`."""
        base = [*m.path_options(path), *options]
        block, at, szx = None, 0, 6
        while True:
            more = at + (16 << szx) < len(payload)
            if len(payload) > m.BLOCK:
                block = Block(at >> szx + 4, more, szx)
                part = payload[at : at + block.size]
                answer = await self._ask(peer, code, [*base, (m.BLOCK1, block.value())], part, token)
                theirs = answer.block(m.BLOCK1)
                if theirs is not None and theirs.szx < szx and at == 0:
                    szx = theirs.szx
                at += len(part) if theirs is None or at else 16 << szx
                if more and answer.code == m.CONTINUE:
                    continue
            else:
                answer = await self._ask(peer, code, base, payload, token)
            break
        return await self._further(peer, code, base, answer)

    async def _further(
        self, peer: Address, code: int, options: Sequence[tuple[int, bytes]], start: Message
    ) -> Message:
        """The response that begins with `start`, with the blocks that follow (RFC 7959, 2.4). Of what is observed they
        are asked for in its content format, for a device may answer a plain read in another."""
        block, said = start.block(m.BLOCK2), start.uint(m.CONTENT_FORMAT)
        if block is None or not block.more:
            return start
        number, size, body = block.number + 1, block.szx, bytearray(start.payload)
        base = [option for option in options if option[0] not in (m.OBSERVE, m.BLOCK1)]
        if said is not None and (start.uint(m.OBSERVE) is not None or len(base) < len(options)):
            base.append((m.ACCEPT, m.uint(said)))
        while True:
            part = await self._ask(peer, code, [*base, (m.BLOCK2, Block(number, False, size).value())], b"", b"")
            block = part.block(m.BLOCK2)
            if part.code != start.code or block is None or block.number != number or part.uint(m.CONTENT_FORMAT) != said:
                raise Lost(f"block {number} of the answer did not come: {m.code_text(part.code)}")
            body += part.payload
            if len(body) > self._largest:
                raise Lost(f"the answer is larger than {self._largest} bytes")
            if not block.more:
                return replace(start, payload=bytes(body))
            number += 1

    async def rest(self, peer: Address, path: Sequence[str], start: Message) -> Message:
        """A notification whole, of which `start` is the first block (RFC 7959, 2.6). Raises `Lost`."""
        return await self._further(peer, m.GET, m.path_options(path), start)

    async def _ask(
        self, peer: Address, code: int, options: list[tuple[int, bytes]], payload: bytes, token: bytes
    ) -> Message:
        token = token or secrets.token_bytes(4)
        number = self.next_id()
        data = Message(m.CON, code, number, token, options, payload).encode()
        exchange = _Exchange(asyncio.get_running_loop().create_future(), asyncio.Event())
        self._exchanges[peer, token] = self._waiting[peer, number] = exchange
        try:
            await self._transmit(data, peer, exchange)
            try:
                return await asyncio.wait_for(exchange.answer, SEPARATE)
            except TimeoutError:
                raise Lost("the device acknowledged, but did not answer") from None
        finally:
            exchange.answer.cancel()
            self._exchanges.pop((peer, token), None)
            self._waiting.pop((peer, number), None)

    async def _transmit(self, data: bytes, peer: Address, exchange: _Exchange) -> None:
        """Send until it is acknowledged (RFC 7252, 4.2). Raises `Lost`."""
        pause = ACK_TIMEOUT * random.uniform(1, ACK_RANDOM)  # noqa: S311
        for _ in range(MAX_RETRANSMIT + 1):
            self.send(data, peer)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(exchange.acknowledged.wait(), pause)
                return
            pause *= 2
        raise Lost("the device does not answer")

    async def notify(self, peer: Address, token: bytes, options: list[tuple[int, bytes]], payload: bytes) -> None:
        """Send a confirmable notification, and wait until the client has it (RFC 7641, 4.5). Raises `Lost`, also for a reset."""
        await self._confirm(peer, Message(m.CON, m.CONTENT, self.next_id(), token, options, payload), reset=False)

    async def ping(self, peer: Address) -> None:
        """Ask whether the peer lives; it answers with a reset (RFC 7252, 4.3). Raises `Lost`."""
        await self._confirm(peer, Message(m.CON, 0, self.next_id()), reset=True)

    async def _confirm(self, peer: Address, message: Message, *, reset: bool) -> None:
        exchange = _Exchange(asyncio.get_running_loop().create_future(), asyncio.Event())
        self._waiting[peer, message.id] = exchange
        try:
            await self._transmit(message.encode(), peer, exchange)
            if exchange.answer.done() and (lost := exchange.answer.exception()) is not None and not reset:
                raise lost
        finally:
            exchange.answer.cancel()
            self._waiting.pop((peer, message.id), None)

    async def observe(self, observation: Observation) -> Message:
        """Observe a resource (RFC 7641, 3.1); returns the first answer. It is observed if that has an Observe option.
        Raises `Lost`."""
        token = observation.token = secrets.token_bytes(4)
        key = (observation.peer, token)
        self.observations[key] = observation
        try:
            answer = await self.request(observation.peer, m.GET, observation.path, options=[(m.OBSERVE, b"")], token=token)
        except BaseException:
            self.observations.pop(key, None)
            raise
        if answer.uint(m.OBSERVE) is None:
            self.observations.pop(key, None)
        return answer

    def unobserve(self, observation: Observation) -> None:
        """Forget an observation; its next notification is answered with a reset, which ends it (RFC 7641, 3.6)."""
        self.observations.pop((observation.peer, observation.token), None)

    def sweep(self) -> None:
        """Once in a while: drop what is too old."""
        self.transfers.sweep()
        self.recent.sweep()


def diagnosis(error: Unreadable) -> bytes:
    """A diagnostic payload (RFC 7252, 5.5.2) naming field, value and rule."""
    refusal = error.refusal
    return told(refusal.zh, refusal.en, refusal.field, refusal.value)


def told(zh: str, en: str, field: str = "", value: object = None) -> bytes:
    """A diagnostic payload of at most 512 bytes."""
    place = f"{field}{'' if value is None else f'={value}'}: " if field else ""
    return f"{place[:160]}{zh} ({en})".encode()[:512].decode("utf-8", "ignore").encode()
