"""The cleaning of transient attributes: what has expired is taken out of the stored documents.

Law: answers never wait for it, they leave out what has expired anyhow (`forms.alive`); it makes the store, queries and
counts agree with them. Whoever writes a document that holds an `expiresAt` notes its number in the same transaction; these
are looked at in turns of a bounded number, and each removal is a change like any other, with its notifications.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.8 and 4.22.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.service import ContextService, now_us
from tulou.context.watching import Changed

if TYPE_CHECKING:
    from tulou.kernel.house import House

EVERY_S = 5
TURN = 2_000
"""Entities with any `expiresAt` that are looked at in one turn."""


class Transient:
    """The worker that cleans."""

    def __init__(self, house: House, entities: ContextService) -> None:
        self.db = house.db
        self.entities = entities
        self.store = entities.store
        self.at = 0

    async def run(self, _house: House) -> None:
        """Every 5 s: one turn."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.turn()

    async def turn(self) -> int:
        """Look at the next entities with an `expiresAt`, and clean those in which something has expired; returns how many."""
        sql = self.store.sql("SELECT no FROM transient_entities WHERE no>? ORDER BY no LIMIT ?")
        numbers = await self.db.read(
            lambda c: [row[0] for row in self.store.cursor(c).execute(sql, (self.at, TURN)).fetchall()]
        )
        self.at = numbers[-1] if len(numbers) == TURN else 0
        rows = await self.db.read(lambda c: self.store.by_no(self.store.cursor(c), numbers)) if numbers else {}
        due = [row.no for row in rows.values() if row.alive() != row.document]
        done = [no for no in numbers if no not in rows or '"expiresAt"' not in rows[no].text]
        return await self.db.write(lambda c: self._clean(c, due, done)) if due or done else 0

    def _clean(self, connection: sa.Connection, due: Sequence[int], done: Sequence[int]) -> int:
        """Clean the entities `due`, and forget those `done`, which hold nothing transient any more."""
        cursor, now = self.store.cursor(connection), now_us()
        found = self.store.by_no(cursor, done)  # read again: one may have been written since
        forgotten = [(no,) for no in done if no not in found or '"expiresAt"' not in found[no].text]
        cursor.executemany(self.store.sql("DELETE FROM transient_entities WHERE no=?"), forgotten)
        changes: list[Changed] = []
        for row in self.store.by_no(cursor, due).values():
            before, document = row.document, row.alive()
            gone = {name for name in forms.attributes(before) if document.get(name) != before[name]}
            if gone:
                self.entities.rewrite(cursor, row, before, document, dumped(document), row.times, now)
                self.entities.journal.change(cursor, row, before, document, list(gone), now)
                changes.append(Changed(row.org, document, gone, "entityUpdated", before))
        self.entities.subscriptions.queue(cursor, changes, now)
        return len(changes)
