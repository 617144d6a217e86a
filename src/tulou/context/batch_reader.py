"""Large batches of entities are read in a process beside the house's, which is left to write them.

Law: what comes back is what `Reader` and `insertion` make of the body, for bodies that are right throughout. Of any
other comes nothing back, and who asked reads it himself: he words the errors.

A request is two lengths of four bytes, then `marshal` of (organisation, now, terms of the house, terms of the body) and
the body. An answer is a length, then `marshal` of the rows or of None.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import marshal
import struct
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from tulou.context.columns import Prepared, Span, insertion, observed
from tulou.context.forms import Reader
from tulou.context.jsonld import CORE, Context

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context")

LEAST = 32_768
"""Bytes of a body from which the way to the other process is worth it."""
MOST = 8
"""Bodies that may be under way; what comes above that is read here."""
IDLE = 60.0
"""Seconds without a batch after which the process ends, until the next comes."""
CONTEXTS = 32

_LENGTH = struct.Struct("!I")
_LENGTHS = struct.Struct("!II")


def rows(
    body: bytes, context: Context, names: Context, org: str, now: int
) -> list[tuple[tuple[Any, ...], Span]] | None:
    """The parameters of the inserts of a JSON array of whole entities, each with its span of times; None where anything
    is not as it should be."""
    raw = orjson.loads(body)
    if type(raw) is not list:
        return None
    reader, found = Reader(context), []
    for item in raw:
        if type(item) is not dict or "@context" in item:
            return None
        row = insertion(reader.entity(item), org, now, names.shown)
        found.append((row, observed(row[5], now)))
    return found


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until their source ends, which it does with the process that asks."""
    contexts: dict[bytes, Context] = {b"": CORE}
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    while head := source.read(_LENGTHS.size):
        first, second = _LENGTHS.unpack(head)
        org, now, *terms = marshal.loads(source.read(first))  # noqa: S302 - of our own making
        body = source.read(second)
        found = None
        with contextlib.suppress(Exception):  # whoever asked reads it himself, and says what is wrong
            for text in terms:
                if text not in contexts:
                    if len(contexts) >= CONTEXTS:
                        contexts = {b"": CORE}
                    contexts[text] = Context(orjson.loads(text))
            found = rows(body, contexts[terms[1]], contexts[terms[0]], org, now)
        answer = marshal.dumps(found)
        sink.write(_LENGTH.pack(len(answer)) + answer)
        sink.flush()


class BatchReader:
    """The other process, started with the first large batch."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._wanted = asyncio.Event()
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._terms: dict[int, tuple[dict[str, str], bytes]] = {}

    async def read(
        self, body: bytes, context: Context, names: Context, org: str, now: int
    ) -> list[Prepared] | None:
        """The entities of a body; None where they are to be read here."""
        process = self._process
        if process is None or len(self._waiting) >= MOST:
            self._wanted.set()
            return None
        head = marshal.dumps((org, now, self._text(names), self._text(context)))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        assert process.stdin is not None
        process.stdin.writelines((_LENGTHS.pack(len(head), len(body)), head, body))
        with contextlib.suppress(ConnectionError):
            found = marshal.loads(await answer)  # noqa: S302 - of our own making
            return None if found is None else [Prepared(row, None, span) for row, span in found]
        return None

    def _text(self, context: Context) -> bytes:
        """The terms of a context as JSON, empty for the core context."""
        if context is CORE:
            return b""
        terms = context.terms
        known = self._terms.get(id(terms))
        if known is None:
            if len(self._terms) >= CONTEXTS:
                self._terms.clear()
            known = self._terms[id(terms)] = (terms, orjson.dumps(terms))
        return known[1]

    async def run(self, _house: House) -> None:
        """Start the process when it is wanted, hand out its answers, end it when it is idle."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._serve()
            except (OSError, asyncio.IncompleteReadError) as error:
                log.warning("the reader of batches ended: %r", error)

    async def _serve(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"from {__name__} import main; main()",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20,
        )
        self._process = process
        try:
            assert process.stdout is not None
            while True:
                try:
                    async with asyncio.timeout(None if self._waiting else IDLE):
                        head = await process.stdout.readexactly(_LENGTH.size)
                except TimeoutError:
                    if self._waiting:
                        continue
                    return
                answer = await process.stdout.readexactly(_LENGTH.unpack(head)[0])
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_result(answer)
        finally:
            self._process = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_exception(ConnectionError("the reader of batches ended"))
            self._waiting.clear()
            await process.wait()


def main() -> None:
    """The other process: requests on standard input, answers on standard output."""
    serve(sys.stdin.buffer, sys.stdout.buffer)
