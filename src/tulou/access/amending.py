"""Readings that are put in, replaced or taken out after they were stored, with all that is made of them.

Law: whoever amends holds the writer's gate. What will be touched is found, and kept by the caller where a crash does not lose it,
before anything is touched; after a crash the same is done again to the end, which changes nothing twice. Rules see nothing of an
amendment; the context has its latest values.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from tulou.access.writer import HOUR, Gate
from tulou.context import ContextService, Update
from tulou.kernel.readings import Reading, Readings, Touched
from tulou.kernel.readings.amend import identity
from tulou.kernel.readings.rows import rows_of

if TYPE_CHECKING:
    from tulou.kernel.house import House

OnAmended = Callable[[list[Reading], dict[int, dict[str, int]]], Awaitable[None]]
"""Takes the latest values that an amendment made anew, and the times of those that are no longer true."""
Touches = dict[str, Any]
"""What an amendment touches, as JSON: entities, hours, classes, and latest values with the times that they had."""


class Amender:
    """Amends stored readings. `fault` is called with the name of every step, so that tests can stop there."""

    def __init__(
        self, readings: Readings, gate: Gate, on_amended: OnAmended, fault: Callable[[str], None] = lambda step: None
    ) -> None:
        self.readings, self.gate, self.on_amended, self.fault = readings, gate, on_amended, fault

    async def touches(self, gone: Sequence[Reading], fresh: Sequence[Reading], before: Touches | None = None) -> Touches:
        """What taking out `gone` and putting in `fresh` touches, with what was to be touched when it was begun `before`."""
        both = [*gone, *fresh]
        before = before or {"entities": [], "hours": [], "classes": [], "latest": []}
        numbers = sorted({r.entity for r in both})
        latest = {(no, name): ts for no, name, ts in before["latest"]}
        current = await self.readings.latest(numbers, orgs=None) if numbers else {}
        removed = {identity(r) for r in gone}
        for r in both:
            known = current.get(r.entity, {}).get(r.property)
            if known is None or r.ts >= known.ts or (r.entity, r.property, known.ts) in removed:
                latest.setdefault((r.entity, r.property), None if known is None else known.ts)
        return {
            "entities": sorted({*before["entities"], *numbers}),
            "hours": sorted({*before["hours"], *(r.ts // HOUR for r in both)}),
            "classes": sorted({*((org, kind) for org, kind in before["classes"]), *((r.org, r.type) for r in both)}),
            "latest": sorted([no, name, ts] for (no, name), ts in latest.items()),
        }

    async def amend(self, touches: Touches, gone: Sequence[Reading], fresh: Sequence[Reading]) -> None:
        """Do it. When this raises, do it again with the same `touches`, and what is still to take out and put in."""
        rows = rows_of(fresh)
        await self.readings.amend(gone, rows)
        self.gate.watermarks.raise_to(rows.entity, rows.ts)
        self.fault("amended")
        latest = await self.readings.remake(Touched(
            touches["entities"], touches["hours"], [(org, kind) for org, kind in touches["classes"]],
            [(no, name) for no, name, _ in touches["latest"]],
        ), self.fault)
        self.fault("remade")
        amended: dict[int, dict[str, int]] = {}
        for no, name, ts in touches["latest"]:
            if ts is not None:
                amended.setdefault(no, {})[name] = ts
        await self.on_amended(latest, amended)
        self.fault("told")


def told(house: House) -> OnAmended:
    """Tells the context of latest values."""

    async def tell(latest: list[Reading], amended: dict[int, dict[str, int]]) -> None:
        await house.service(ContextService).project([
            Update(r.entity, r.property, r.ts, r.value, r.text or None, r.quality, r.origin) for r in latest
        ], amended)

    return tell
