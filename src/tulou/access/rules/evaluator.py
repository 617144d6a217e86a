"""The evaluator: columns of readings in, changes of alarms out.

Law: pure and replayable. What it decides depends on the readings, their order and the clock in them (the time at which
their frames were received), and not on how they were cut into groups nor on when it was asked; so a crash and history give
the same alarms. Of readings that no rule watches only a look-up table is asked; of those that are watched, numpy finds
the few that break a rule or belong to one that is broken, and only those are walked one by one.

Time is that of the readings; between readings the last value holds. A duration is complete when the clock has passed its
end, or a later reading has. Of what an edge brings late, the clock is the time of its own frames; and where nothing of its entity
follows, the hub's clock must pass as long again, so that what is on its way may still contradict. A reading not newer than the last of its property changes nothing, and one outside the
property's `min` and `max` is a fault of the sensor. Silence is counted by the clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape

from tulou.access.batch import BAD, Batch
from tulou.access.rules.expression import parse
from tulou.access.rules.models import Absence, Expression, Geofence, Identity, Presence, Rate, Rule, Threshold
from tulou.kernel.packs import Model

SECOND = 1_000_000
NEVER = np.iinfo(np.int64).min

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Change(NamedTuple):
    """What was decided; times are µs. `worse` means an open alarm reached a new extreme. An alarm is known by its entity,
    rule and `raised_at`."""

    kind: Literal["raised", "worse", "cleared"]
    entity: int
    rule: Rule
    value: float | None
    at: int
    raised_at: int


@dataclass(slots=True)
class _State:
    """A rule that is broken: since when, its worst value, and whether its alarm is open, since when. `frame` is where its
    entity was last looked at; `due`: when the clock completes its duration if nothing follows."""

    since: int
    worst: float
    open: bool = False
    raised: int = 0
    frame: int = -1
    due: int = 0


@dataclass(slots=True)
class _Events:
    """Moments at which a track's values changed, entity after entity, in order within each."""

    slot: NDArray[np.intp]
    time: Ints
    values: Floats
    """[event, property]: what was known then; NaN if nothing."""
    before: Floats
    before_time: Ints
    """The first property's value and time at the moment before."""
    clock: Ints
    clock_before: Ints
    """The clock at the entity's moment before, `NEVER` without one."""
    pace: Ints
    """The clock, or for what an edge brought the time at which it received the frame."""
    frame: Ints
    order: Ints


class _Judge(NamedTuple):
    """The three questions about events. `breaks` is asked of all, the others of the few."""

    breaks: Callable[[_Events], Bools]
    clears: Callable[[_Events, NDArray[np.intp]], Bools]
    measure: Callable[[_Events, NDArray[np.intp]], Floats]
    sign: float
    """+1 where more is worse, -1 where less is."""


def _bounded(rule: Threshold | Rate, of: Callable[[_Events], Floats]) -> _Judge:
    bound = rule.above if rule.above is not None else rule.below
    assert bound is not None
    clear = bound if rule.clear is None else rule.clear
    if rule.above is not None:
        return _Judge(lambda e: of(e) > bound, lambda e, at: of(e)[at] <= clear, lambda e, at: of(e)[at], 1.0)
    return _Judge(lambda e: of(e) < bound, lambda e, at: of(e)[at] >= clear, lambda e, at: of(e)[at], -1.0)


def _judge(rule: Rule) -> _Judge:
    condition = rule.condition

    def unmeasured(_events: _Events, at: NDArray[np.intp]) -> Floats:
        return np.full(len(at), np.nan)

    if isinstance(condition, Threshold):
        return _bounded(condition, lambda e: e.values[:, 0])
    if isinstance(condition, Rate):
        scale = condition.per_s * SECOND

        def rate(e: _Events) -> Floats:
            with np.errstate(all="ignore"):
                changed: Floats = (e.values[:, 0] - e.before) / (e.time - e.before_time) * scale
            return changed

        return _bounded(condition, rate)
    if isinstance(condition, Geofence):
        area = shape(condition.area)
        shapely.prepare(area)
        wanted = condition.when == "inside"

        def within(e: _Events, at: Any, inside: bool) -> Bools:
            lon, lat = e.values[at, 0], e.values[at, 1]
            known = ~(np.isnan(lon) | np.isnan(lat))
            found = np.zeros(len(lon), bool)
            found[known] = shapely.intersects_xy(area, lon[known], lat[known]) == inside
            return found

        return _Judge(
            lambda e: within(e, slice(None), wanted), lambda e, at: within(e, at, not wanted), unmeasured, 0.0
        )
    assert isinstance(condition, Expression)
    names = condition.names()
    raised, cleared = parse(condition.raise_if), None if condition.clear_if is None else parse(condition.clear_if)

    def columns(e: _Events, at: Any = slice(None)) -> Mapping[str, Floats]:
        return {name: e.values[at, i] for i, name in enumerate(names)}

    def over(e: _Events, at: NDArray[np.intp]) -> Bools:
        known = columns(e, at)
        return raised.known(known) & ~raised.holds(known) if cleared is None else cleared.holds(known)

    return _Judge(lambda e: raised.holds(columns(e)), over, unmeasured, 0.0)


class _Watched:
    """A rule within its track, and its states by slot."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.absent = rule.condition.after_s * SECOND if isinstance(rule.condition, Absence) else 0
        self.hold = 0 if isinstance(rule.condition, Absence | Presence) else rule.condition.for_s * SECOND
        self.judge = None if isinstance(rule.condition, Absence) else _judge(rule)
        self.states: dict[int, _State] = {}
        self.active = np.zeros(0, bool)
        self.applies = np.zeros(0, bool)
        self.everyone = rule.org is None and rule.entities is None

    def extend(self, nos: Ints, orgs: Sequence[str]) -> None:
        """Further slots: entities and their organisations."""
        rule = self.rule
        may = np.fromiter(
            ((rule.org is None or rule.org == org) and (rule.entities is None or no in rule.entities)
             for no, org in zip(nos.tolist(), orgs, strict=True)), bool, len(nos)
        )
        self.applies = np.concatenate([self.applies, may])
        self.active = np.concatenate([self.active, np.zeros(len(nos), bool)])

    def put(self, slot: int, state: _State) -> None:
        self.states[slot] = state
        self.active[slot] = True

    def forget(self, slot: int) -> None:
        del self.states[slot]
        self.active[slot] = False


class _Track:
    """The rules over the same properties of one type, and what they remember of each entity (a slot)."""

    def __init__(self, kind: str, properties: tuple[str, ...]) -> None:
        self.kind, self.properties = kind, properties
        self.rules: list[_Watched] = []
        self.nos: Ints = np.zeros(0, np.int64)
        self.orgs: list[str] = []
        self._sorted: Ints = np.zeros(0, np.int64)
        self._slot: NDArray[np.intp] = np.zeros(0, np.intp)
        width = len(properties)
        self.values: Floats = np.zeros((0, width), np.float64)
        self.times: Ints = np.zeros((0, width), np.int64)
        self.heard: Ints = np.zeros(0, np.int64)

    def add(self, nos: Ints, orgs: Sequence[str]) -> None:
        """Make slots for entities that have none."""
        many, width = len(nos), len(self.properties)
        self.nos = np.concatenate([self.nos, nos])
        self.orgs.extend(orgs)
        self._slot = np.argsort(self.nos, kind="stable")
        self._sorted = self.nos[self._slot]
        self.values = np.concatenate([self.values, np.full((many, width), np.nan)])
        self.times = np.concatenate([self.times, np.full((many, width), NEVER)])
        self.heard = np.concatenate([self.heard, np.full(many, NEVER)])
        for watched in self.rules:
            watched.extend(nos, orgs)

    def find(self, nos: Ints) -> tuple[NDArray[np.intp], Bools]:
        """Slots of the entities, and which have one."""
        if not len(self._sorted):
            return np.zeros(len(nos), np.intp), np.zeros(len(nos), bool)
        at = np.minimum(np.searchsorted(self._sorted, nos), len(self._sorted) - 1)
        return self._slot[at], self._sorted[at] == nos

    def slots(self, nos: Ints, classes: NDArray[np.intp], names: Sequence[str]) -> NDArray[np.intp]:
        """Slots of the entities; `classes` says in `names` whose an entity is that has none yet."""
        slots, known = self.find(nos)
        if not known.all():
            new, first = np.unique(nos[~known], return_index=True)
            of = classes[~known][first]
            self.add(new, [names[i] for i in of.tolist()])
            slots, _ = self.find(nos)
        return slots

    def fresh(self, slot: NDArray[np.intp], prop: NDArray[np.intp], ts: Ints) -> Bools:
        """Which rows are newer than everything of their entity and property before them."""
        key = slot * len(self.properties) + prop
        order = np.argsort(key, kind="stable")
        ordered, times = key[order], ts[order]
        begins = np.empty(len(order), bool)
        begins[0] = True
        begins[1:] = ordered[1:] != ordered[:-1]
        before = np.empty(len(order), np.int64)
        before[1:] = times[:-1]
        before[begins] = self.times.ravel()[ordered[begins]]
        newer = times > before
        if not newer.all():
            for bad in np.unique(ordered[~newer]).tolist():
                low, high = np.searchsorted(ordered, bad), np.searchsorted(ordered, bad, side="right")
                last = int(self.times.ravel()[bad])
                for at in range(low, high):
                    newer[at] = times[at] > last
                    last = max(last, int(times[at]))
        answer = np.empty(len(order), bool)
        answer[order] = newer
        return answer

    def events(
        self, slot: NDArray[np.intp], prop: NDArray[np.intp], ts: Ints, value: Floats, clock: Ints, pace: Ints, frame: Ints,
        row: Ints,
    ) -> _Events:
        """Rows put together: what one frame says of one time is one event. Remembers the last of every entity."""
        order = np.argsort(slot, kind="stable")
        slot, prop, ts, value = slot[order], prop[order], ts[order], value[order]
        clock, pace, frame, row = clock[order], pace[order], frame[order], row[order]
        width = len(self.properties)
        head = np.ones(len(order), bool)
        head[1:] = slot[1:] != slot[:-1]
        if width == 1:
            values, times = value[:, None], ts[:, None]
        else:
            begins = head.copy()
            begins[1:] |= (frame[1:] != frame[:-1]) | (ts[1:] != ts[:-1])
            number = np.cumsum(begins) - 1
            keep = np.flatnonzero(begins)
            told = np.full((len(keep), width), -1, np.intp)
            told[number, prop] = np.arange(len(order))
            slot, clock, pace, frame, head = slot[keep], clock[keep], pace[keep], frame[keep], head[keep]
            row = row[np.append(keep[1:], len(order)) - 1]
            first = np.maximum.accumulate(np.where(head, np.arange(len(keep)), 0))
            values, times = self.values[slot], self.times[slot]
            for j in range(width):
                at = np.maximum.accumulate(np.where(told[:, j] >= 0, np.arange(len(keep)), -1))
                here = at >= first
                source = told[at[here], j]
                values[here, j], times[here, j] = value[source], ts[source]
        time = times[:, 0] if width == 1 else times.max(axis=1)
        before, before_time, clock_before = np.empty(len(slot)), np.empty(len(slot), np.int64), np.empty(len(slot), np.int64)
        before[1:], before_time[1:], clock_before[1:] = values[:-1, 0], times[:-1, 0], clock[:-1]
        heads = slot[head]
        before[head], before_time[head], clock_before[head] = self.values[heads, 0], self.times[heads, 0], self.heard[heads]
        tail = np.append(head[1:], True)
        ends = slot[tail]
        self.values[ends], self.times[ends], self.heard[ends] = values[tail], times[tail], clock[tail]
        return _Events(slot, time, values, before, before_time, clock, clock_before, pace, frame, row)


@dataclass(slots=True)
class _Feed:
    """Rows of a group of batches that some rule watches."""

    entity: Ints
    kind: NDArray[np.intp]
    prop: NDArray[np.intp]
    of: NDArray[np.intp]
    ts: Ints
    value: Floats
    clock: Ints
    pace: Ints
    frame: Ints
    orgs: list[str]


class Evaluator:
    """Rules, and what they remember. `models` say which values are faults."""

    def __init__(self, rules: Iterable[Rule], models: Mapping[str, Model]) -> None:
        self.clock = 0
        """The newest time at which a frame was received here, µs; the clocks of edges are not ours."""
        self._tracks: dict[tuple[str, tuple[str, ...]], _Track] = {}
        self._watched: dict[Identity, tuple[_Track, _Watched]] = {}
        for rule in rules:
            track = self._tracks.setdefault(
                (rule.type, rule.condition.names()), _Track(rule.type, rule.condition.names())
            )
            watched = _Watched(rule)
            track.rules.append(watched)
            self._watched[rule.identity] = track, watched
        self._kinds = {kind: i for i, kind in enumerate(dict.fromkeys(kind for kind, _ in self._tracks))}
        self._props = {name: i for i, name in enumerate(dict.fromkeys(p for _, names in self._tracks for p in names))}
        self._low = np.full((len(self._kinds), len(self._props)), np.inf)
        self._high = np.full((len(self._kinds), len(self._props)), -np.inf)
        for kind, names in self._tracks:
            model = models.get(kind)
            for name in names:
                prop = model.properties.get(name) if model else None
                at = self._kinds[kind], self._props[name]
                self._low[at] = -np.inf if prop is None or prop.min is None else prop.min
                self._high[at] = np.inf if prop is None or prop.max is None else prop.max
        self._frames = 0
        self._due: list[tuple[int, int, _Track, _Watched, int]] = []
        self._pushed = 0

    # -- readings

    def take(self, batches: Sequence[Batch]) -> list[Change]:
        """The next readings of the stream."""
        feed = self._feed(batches)
        found: list[tuple[int, int, Change]] = []
        if len(feed.entity):
            for (kind, names), track in self._tracks.items():
                columns = np.full(len(self._props), -1, np.intp)
                columns[[self._props[name] for name in names]] = range(len(names))
                prop = columns[feed.prop]
                rows = np.flatnonzero((feed.kind == self._kinds[kind]) & (prop >= 0))
                if len(rows):
                    self._follow(track, feed, rows, prop[rows], found)
        found.sort(key=lambda item: item[:2])
        return [change for _, _, change in found] + self.tick(self.clock)

    def _feed(self, batches: Sequence[Batch]) -> _Feed:
        parts: list[list[NDArray[Any]]] = [[] for _ in range(9)]
        orgs: dict[str, int] = {}
        for b in batches:
            clock = self.clock
            if b.edge:
                ticks = np.full(len(b.f_ts), clock, np.int64)
            elif len(b.f_ts):
                ticks = np.maximum.accumulate(b.f_ts)
                np.maximum(ticks, clock, out=ticks)
                self.clock = int(ticks[-1])
            base, self._frames = self._frames, self._frames + len(b.f_ts)
            kinds = np.array([self._kinds.get(kind, -1) for _, kind, _ in b.classes], np.intp)
            names = np.array([self._props.get(name, -1) for name in b.props], np.intp)
            if not (len(b.r_val) and (kinds >= 0).any() and (names >= 0).any()):
                continue
            of = b.f_class[b.r_frame]
            rows = np.flatnonzero((kinds[of] >= 0) & (names[b.r_prop] >= 0) & (b.r_quality != BAD))
            kind, prop, value = kinds[of[rows]], names[b.r_prop[rows]], b.r_val[rows]
            inside = (value >= self._low[kind, prop]) & (value <= self._high[kind, prop])
            rows, kind, prop, value = rows[inside], kind[inside], prop[inside], value[inside]
            whose = np.array([orgs.setdefault(org, len(orgs)) for org, _, _ in b.classes], np.intp)
            frame = b.r_frame[rows]
            for part, column in zip(parts, (
                b.r_entity[rows].astype(np.int64), kind, prop, whose[of[rows]], b.r_ts[rows], value,
                ticks[frame], b.f_ts[frame] if b.edge else ticks[frame], np.add(frame, base, dtype=np.int64),
            ), strict=True):
                part.append(column)
        if not parts[0]:
            empty = np.zeros(0, np.int64)
            return _Feed(empty, empty, empty, empty, empty, empty.astype(np.float64), empty, empty, empty, [])
        entity, kind, prop, whose, ts, value, tick, pace, number = (np.concatenate(part) for part in parts)
        return _Feed(entity, kind, prop, whose, ts, value, tick, pace, number, list(orgs))

    def _follow(
        self, track: _Track, feed: _Feed, rows: NDArray[np.intp], prop: NDArray[np.intp],
        found: list[tuple[int, int, Change]],
    ) -> None:
        slot = track.slots(feed.entity[rows], feed.of[rows], feed.orgs)
        new = track.fresh(slot, prop, feed.ts[rows])
        if not new.all():
            rows, prop, slot = rows[new], prop[new], slot[new]
            if not len(rows):
                return
        events = track.events(
            slot, prop, feed.ts[rows], feed.value[rows], feed.clock[rows], feed.pace[rows], feed.frame[rows], rows
        )
        for place, watched in enumerate(track.rules):
            changes = self._absent(track, watched, events) if watched.absent else self._walk(track, watched, events)
            found.extend((order, place, change) for order, change in changes)

    def _walk(self, track: _Track, watched: _Watched, e: _Events) -> list[tuple[int, Change]]:
        """What a rule makes of events."""
        judge, states, hold, rule = watched.judge, watched.states, watched.hold, watched.rule
        assert judge is not None
        breaks = judge.breaks(e)
        if not watched.everyone:
            breaks &= watched.applies[e.slot]
        if not (states or breaks.any()):
            return []
        concerned = watched.active.copy()
        concerned[e.slot[breaks]] = True
        at = np.flatnonzero(concerned[e.slot])
        out: list[tuple[int, Change]] = []
        for slot, ts, clock, pace, frame, order, breaking, over, value in zip(
            e.slot[at].tolist(), e.time[at].tolist(), e.clock[at].tolist(), e.pace[at].tolist(), e.frame[at].tolist(), e.order[at].tolist(),
            breaks[at].tolist(), judge.clears(e, at).tolist(), judge.measure(e, at).tolist(), strict=True,
        ):
            state = states.get(slot)
            if state is None and not breaking:
                continue  # cleared by an event just before
            no = int(track.nos[slot])
            if state is not None and not state.open:
                due = state.since + hold
                if ts > due or (frame != state.frame and pace >= due):
                    out.append((order, self._raise(state, no, rule, due)))
                elif not breaking:
                    watched.forget(slot)
                    continue
            if state is None:
                state = _State(ts, value, frame=frame, due=(clock if pace < clock else ts) + hold)
                watched.put(slot, state)
                if hold:
                    self._pushed += 1
                    heapq.heappush(self._due, (state.due, self._pushed, track, watched, slot))
            state.frame = frame
            worse = (value - state.worst) * judge.sign > 0 or (math.isnan(state.worst) and not math.isnan(value))
            if state.open:
                if over:
                    watched.forget(slot)
                    out.append((order, Change("cleared", no, rule, _known(value), ts, state.raised)))
                elif worse and breaking:
                    state.worst = value
                    out.append((order, Change("worse", no, rule, value, ts, state.raised)))
                continue
            if worse:
                state.worst = value
            if ts - state.since >= hold:
                out.append((order, self._raise(state, no, rule, ts)))
        return out

    def _absent(self, track: _Track, watched: _Watched, e: _Events) -> list[tuple[int, Change]]:
        """What a rule about silence makes of events: who speaks ends it; who was silent for too long had been."""
        late = (e.clock_before != NEVER) & (e.clock - np.maximum(e.clock_before, 0) > watched.absent)
        late &= watched.applies[e.slot]
        at = np.flatnonzero(late | watched.active[e.slot])
        out: list[tuple[int, Change]] = []
        for slot, clock, before, order in zip(
            e.slot[at].tolist(), e.clock[at].tolist(), e.clock_before[at].tolist(), e.order[at].tolist(), strict=True
        ):
            no, state = int(track.nos[slot]), watched.states.get(slot)
            if state is None:
                if clock - before <= watched.absent:
                    continue
                state = _State(before, math.nan, True, before + watched.absent)
                out.append((order, Change("raised", no, watched.rule, None, state.raised, state.raised)))
            else:
                watched.forget(slot)
            out.append((order, Change("cleared", no, watched.rule, None, clock, state.raised)))
        return out

    @staticmethod
    def _raise(state: _State, no: int, rule: Rule, at: int) -> Change:
        state.open, state.raised = True, at
        return Change("raised", no, rule, _known(state.worst), at, at)

    # -- time

    def tick(self, now: int) -> list[Change]:
        """The clock reached `now` (µs): durations that nothing contradicted are complete, and who was silent is absent."""
        self.clock = max(self.clock, now)
        changes: list[Change] = []
        while self._due and self._due[0][0] <= now:
            due, _, track, watched, slot = heapq.heappop(self._due)
            state = watched.states.get(slot)
            if state is not None and not state.open and state.due <= due:
                changes.append(self._raise(state, int(track.nos[slot]), watched.rule, state.since + watched.hold))
        for track, watched in self._watched.values():
            if watched.absent and len(track.heard):
                late = (track.heard != NEVER) & (np.maximum(track.heard, 0) + watched.absent < self.clock)
                for slot in np.flatnonzero(late & ~watched.active & watched.applies).tolist():
                    heard = int(track.heard[slot])
                    watched.put(slot, _State(heard, math.nan, True, heard + watched.absent))
                    changes.append(Change(
                        "raised", int(track.nos[slot]), watched.rule, None, heard + watched.absent, heard + watched.absent
                    ))
        return changes

    def listen(self, now: int) -> None:
        """The house heard nobody until now: silence of those who are not absent yet counts from here."""
        for track in self._tracks.values():
            np.maximum(track.heard, now, out=track.heard, where=track.heard != NEVER)

    # -- entities and rules

    def entities(self) -> set[int]:
        """Entities that break a rule."""
        return {
            int(track.nos[slot]) for track, watched in self._watched.values() for slot in watched.states
        }

    def drop(self, gone: Collection[int], now: int) -> list[Change]:
        """These entities exist no more: forget what they break, and clear what is open."""
        changes = []
        for track, watched in self._watched.values():
            for slot, state in list(watched.states.items()):
                if int(track.nos[slot]) in gone:
                    watched.forget(slot)
                    if state.open:
                        changes.append(Change("cleared", int(track.nos[slot]), watched.rule, None, now, state.raised))
        for track in self._tracks.values():
            slots, known = track.find(np.array(sorted(gone), np.int64))
            track.heard[slots[known]] = NEVER
        return changes

    def rule(self, identity: Identity) -> Rule | None:
        """The rule of this identity, if it is evaluated."""
        found = self._watched.get(identity)
        return None if found is None else found[1].rule

    def reopen(self, identity: Identity, entity: int, org: str, raised_at: int, worst: float) -> None:
        """An alarm that is open although nothing is remembered of it."""
        track, watched = self._watched[identity]
        slot = int(track.slots(np.array([entity], np.int64), np.zeros(1, np.intp), [org])[0])
        if slot not in watched.states:
            watched.put(slot, _State(raised_at, worst, True, raised_at))

    # -- what it remembers

    def snapshot(self) -> dict[str, Any]:
        """Everything it remembers, for msgpack."""
        return {
            "clock": self.clock,
            "tracks": [
                [kind, list(names), track.nos.tobytes(), list(dict.fromkeys(track.orgs)), _codes(track.orgs),
                 track.values.tobytes(), track.times.tobytes(), track.heard.tobytes()]
                for (kind, names), track in self._tracks.items()
            ],
            "states": [
                [list(identity), [
                    [int(track.nos[slot]), state.since, state.worst, state.open, state.raised, state.due]
                    for slot, state in watched.states.items()
                ]]
                for identity, (track, watched) in self._watched.items() if watched.states
            ],
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Remember what `snapshot` said, as far as the rules are the same; only before the first reading."""
        self.clock = kept["clock"]
        for kind, names, nos, orgs, codes, values, times, heard in kept["tracks"]:
            track = self._tracks.get((kind, tuple(names)))
            if track is None:
                continue
            track.add(np.frombuffer(nos, np.int64), [orgs[i] for i in np.frombuffer(codes, np.int32).tolist()])
            track.values = np.frombuffer(values, np.float64).reshape(track.values.shape).copy()
            track.times = np.frombuffer(times, np.int64).reshape(track.times.shape).copy()
            track.heard = np.frombuffer(heard, np.int64).copy()
        for identity, states in kept["states"]:
            kind, about, key, version = identity
            known = self._watched.get((kind, about, key, version))
            if known is None:
                continue
            track, watched = known
            slots, _ = track.find(np.array([state[0] for state in states], np.int64))
            for slot, (_, since, worst, is_open, raised, *due) in zip(slots.tolist(), states, strict=True):
                state = _State(since, worst, is_open, raised, due=due[0] if due else since + watched.hold)
                watched.put(slot, state)
                if not is_open:
                    self._pushed += 1
                    heapq.heappush(self._due, (state.due, self._pushed, track, watched, slot))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _codes(names: Sequence[str]) -> bytes:
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int32).tobytes()
