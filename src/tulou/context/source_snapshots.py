"""Snapshots that are filled from the house and from registered context sources.

Law: sources are asked before anything is written, then the house's part is taken and put together with theirs in one
transaction. Whoever creates such a snapshot does not wait for sources: it is `preparing` until it is filled.

Source: ETSI GS CIM 009 v1.9.1 clauses 5.2.41, 5.2.42, 5.7.2.4 and 5.16.1.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tulou.context import selection as selecting
from tulou.context.errors import NS
from tulou.context.forms import Json
from tulou.context.forwarding import Caller
from tulou.context.selection import Selection
from tulou.context.service import now_us
from tulou.context.snapshots import CREATE, Part, Snapshots
from tulou.context.sources import Filters, Sources, bare, moments
from tulou.context.store import Row
from tulou.kernel.errors import TulouError
from tulou.kernel.policy import Actor, Orgs, operation

if TYPE_CHECKING:
    from tulou.kernel.house import House

log = logging.getLogger("tulou.context.snapshots")

Asked = tuple[Selection, Filters]
"""One of the queries of a snapshot, and how it is executed."""


class SourceSnapshots:
    """The creation of snapshots over sources."""

    def __init__(self, house: House, snapshots: Snapshots, sources: Sources) -> None:
        self.policy = house.policy
        self.snapshots = snapshots
        self.sources = sources
        self._running: set[asyncio.Task[None]] = set()

    @operation(CREATE)
    async def create(
        self, actor: Actor, raw: Any, queries: Sequence[Asked], caller: Caller, *, tenant: str | None = None
    ) -> Json:
        """Create a snapshot and have it filled with what its queries find here and at the sources (5.16.1.4).

        Where no source is asked it is filled at once. Raises `BadRequestData`, `AlreadyExists`.
        """
        self.policy.require(actor, CREATE, self.sources.entities.tenant(actor, tenant, CREATE))
        index = self.sources.index(actor, tenant)
        if index is None or not any(self.sources.asked(index, selection, caller, own) for selection, own in queries):
            return await self.snapshots.create(actor, raw, [selection for selection, _ in queries], tenant=tenant)
        no, orgs, document = await self.snapshots.begin(actor, raw, tenant=tenant)
        task = asyncio.create_task(self._fill(actor, no, orgs, queries, caller, tenant))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return document

    async def _fill(
        self, actor: Actor, no: int, orgs: Orgs, queries: Sequence[Asked], caller: Caller, tenant: str | None
    ) -> None:
        try:
            parts = [await self._part(actor, selection, filters, caller, tenant) for selection, filters in queries]
            await self.snapshots.fill(no, orgs, parts)
        except Exception as error:
            log.exception("snapshot %d could not be filled", no)
            failure = error if isinstance(error, TulouError) else TulouError("内部错误，已记入日志", "internal error; it has been logged")
            await self.snapshots.fill(no, orgs, [Part(selection, error=failure) for selection, _ in queries])

    async def _part(
        self, actor: Actor, selection: Selection, filters: Filters, caller: Caller, tenant: str | None
    ) -> Part:
        """One query: what sources have is asked for now."""
        caller.warnings.clear()
        try:
            remote = await self.sources.remote(actor, selection, caller, filters, tenant)
        except TulouError as error:
            return Part(selection, error=error)
        claims = self.sources.claims(actor, selection, filters, tenant)
        org, put = self.sources.org(actor, tenant), self.sources.put

        def join(own: list[Row]) -> list[Row]:
            now = now_us()
            rows = [put(row, remote.get(row.id, []), claims(row.id), org, now) for row in own]
            rows += [put(None, remote[id], (), org, now) for id in sorted(remote.keys() - {row.id for row in own})]
            return [
                row for row in rows if row is not None
                and (not filters.split or selecting.matches(selection, row.document, moments(row)))
            ]

        problems = [
            {"type": f"{NS}InternalError", "title": "A context source did not take part", "detail": text} for text in caller.warnings
        ]
        return Part(bare(selection) if filters.split else selection, join, problems)
