"""Upstream attribution on a river: which sections and sources may have caused what a section shows.

Method (this house's, simple and stated; it is a screening, no water-quality model): the river is a graph of reaches that flow from a node
to a node, without circles. Water takes `hours` on a reach; where a river divides, `share` says which part of the flow takes each
branch. A load of a source shrinks by first-order decay, exp(-k t) (Chapra, Surface Water-Quality Modeling, 1997, ch. 2), on the
way. What arrives at the section of each source, over what arrives of all, is its share of the load. Where it is known when a source
began to discharge (or an upper section to exceed), it is consistent when the water needs about as long as passed meanwhile.

Law: only nodes from which water flows to the section are candidates; the shares add up to one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from tulou.methods.errors import InvalidInput, at_least


@dataclass(frozen=True)
class Reach:
    """Water flows from `upper` to `lower` in `hours`; `share` (0 to 1) of the flow of `upper` takes this way."""

    upper: str
    lower: str
    hours: float
    share: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """`hours`: from the source to the section, the mean over the ways weighted by what arrives. `arrives`: load that arrives, unit of
    `loads`. `share`: of all that arrives. `consistent`: the times fit; None when one of them is unknown."""

    node: str
    hours: float
    arrives: float
    share: float
    consistent: bool | None


def travel(reaches: Iterable[Reach], section: str, decay: float = 0.0) -> dict[str, tuple[float, float]]:
    """For every node above `section`: travel time in hours and the part (0 to 1) of a load that arrives.

    `decay`: first-order rate in 1/day. The time is the mean over the ways, weighted by the part that takes each. `InvalidInput`: a
    circle, a negative time or rate, a share outside 0 to 1, shares of a node that add up to more than one, an unknown section.
    """
    at_least("decay", decay, 0.0)
    below: dict[str, list[Reach]] = {}
    nodes: set[str] = set()
    for reach in reaches:
        at_least("hours", reach.hours, 0.0)
        below.setdefault(reach.upper, []).append(reach)
        nodes |= {reach.upper, reach.lower}
    for node, ways in below.items():
        if any(not 0 <= way.share <= 1 for way in ways) or sum(way.share for way in ways) > 1 + 1e-9:
            raise InvalidInput(
                f"{node} 的分流比之和应不大于 1", f"the shares of {node} are not between 0 and 1 in sum",
                field="share", value=[way.share for way in ways], rule="sum <= 1",
            )
    if section not in nodes:
        raise InvalidInput(f"河网中没有断面 {section}", f"no section {section} in the river", field="section", value=section)
    try:
        order = list(TopologicalSorter({node: [way.lower for way in below.get(node, ())] for node in nodes}).static_order())
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise InvalidInput(f"河网中有环：{circle}", f"the river flows in a circle: {circle}", field="reaches", value=circle) from error
    arrived: dict[str, tuple[float, float]] = {section: (0.0, 1.0)}
    for node in order:
        part, weighted = 0.0, 0.0
        for way in below.get(node, ()):
            if way.lower in arrived:
                beyond, rest = arrived[way.lower]
                got = way.share * rest * math.exp(-decay * way.hours / 24)
                part, weighted = part + got, weighted + got * (way.hours + beyond)
        if node != section and part > 0:
            arrived[node] = weighted / part, part
    del arrived[section]
    return arrived


def attribute(
    reaches: Iterable[Reach], section: str, loads: Mapping[str, float], *, decay: float = 0.0, horizon: float = math.inf,
    seen: float | None = None, since: Mapping[str, float] | None = None, tolerance: float = 6.0,
) -> list[Candidate]:
    """Candidates for an exceedance at `section`, the likeliest first.

    `loads`: of the sources by node, in one unit (kg/d), not negative. `decay`: 1/day. `horizon`: hours; what is farther away is no
    candidate. `seen`: when the section began to exceed, `since`: when a source began to discharge or a section to exceed, hours of
    one clock; consistent when they differ from the travel time by at most `tolerance` hours. Order: consistent, then unknown, then
    inconsistent; in each the greater share of the load, then the nearer. A source below the section is none. `InvalidInput` as for
    `travel`, and for a negative load.
    """
    for load in loads.values():
        at_least("loads", load, 0.0)
    ways = {node: way for node, way in travel(reaches, section, decay).items() if way[0] <= horizon}
    arrives = {node: loads[node] * ways[node][1] for node in loads if node in ways}
    total = sum(arrives.values())
    found = []
    for node, load in arrives.items():
        hours = ways[node][0]
        began = (since or {}).get(node)
        fits = None if seen is None or began is None else abs(seen - began - hours) <= tolerance
        found.append(Candidate(node, hours, load, load / total if total else 0.0, fits))
    order = {True: 0, None: 1, False: 2}
    return sorted(found, key=lambda candidate: (order[candidate.consistent], -candidate.share, candidate.hours, candidate.node))
