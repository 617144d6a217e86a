"""Splitting an operation among the house and context sources, and putting the answers together.

Law: pure. A document is in stored form; times are as `forms.stamp` takes them. What is held elsewhere alone is never taken
from here, auxiliary data never stands in for other data, and of two values the more recent one counts.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.3.6.2, 4.3.6.3, 4.5.5.3, 5.6 and 6.3.17.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tulou.context import forms
from tulou.context.columns import dumped
from tulou.context.errors import NS, bad, ngsi_problem
from tulou.context.forms import Json, Reader
from tulou.context.jsonld import Context
from tulou.context.matching import EVERY, Registration
from tulou.context.store import Row
from tulou.kernel.errors import TulouError


class Piece(NamedTuple):
    """What one source knows of an entity: document, times, the attributes that it was asked for, its mode."""

    document: Json
    times: Json
    names: frozenset[str]
    mode: str
    registration: str


def piece_of(raw: Any, context: Context, registration: Registration, names: frozenset[str]) -> Piece:
    """An entity that a source answered, cut to what it is registered for. Raises `BadRequestData`."""
    document = Reader(context).entity(raw)
    for name in list(forms.attributes(document)):
        if names is not EVERY and name not in names:
            del document[name]
    times: Json = {"@": _pair(raw)}
    for name, value in raw.items():
        if isinstance(value, dict | list):
            stored = context.stored(name)
            if stored in document and stored not in forms.ENTITY_MEMBERS:
                for item in forms.instances(value):
                    if isinstance(item, dict):
                        times[_key(stored, item)] = _pair(item)
    return Piece(document, times, names, registration.mode, registration.id)


def _pair(raw: Mapping[str, Any]) -> list[int]:
    found = []
    for member in ("createdAt", "modifiedAt"):
        text = raw.get(member)
        found.append(forms.micros(forms.datetime_text(text, member)) if text is not None else 0)
    return [found[0] or found[1], found[1] or found[0]]


def _key(name: str, instance: Json) -> str:
    dataset = instance.get("datasetId")
    return f"{name} {dataset}" if dataset else name


def _times(times: Json, name: str, instance: Json) -> list[int]:
    found: list[int] | None = times.get(_key(name, instance)) or times.get(name) or times.get("*")
    return list(found or [times["@"][0]] * 2)


def newer(first: Json, first_times: Sequence[int], second: Json, second_times: Sequence[int]) -> bool:
    """Whether the second instance is more recent: by `observedAt` where both have it, else by `modifiedAt` (4.5.5.3)."""
    if "observedAt" in first and "observedAt" in second:
        return forms.micros(second["observedAt"]) > forms.micros(first["observedAt"])
    return second_times[1] > first_times[1]


def merged(row: Row | None, pieces: Sequence[Piece], claims: Collection[frozenset[str]], now: int) -> Row | None:
    """One entity of what the house holds (`row`) and what sources answered; None where nobody has it.

    `claims`: the attributes that exclusive and redirect registrations keep for themselves; the house's own are passed over.
    """
    document: Json = {}
    times: Json = {}
    everything = any(claim is EVERY for claim in claims)
    if row is not None and not (everything and any(piece.mode in ("exclusive", "redirect") for piece in pieces)):
        document, own = row.document, row.times
        times["@"] = own["@"]
        for name in list(forms.attributes(document)):
            if any(claim is EVERY or name in claim for claim in claims):
                del document[name]
            else:
                for item in forms.instances(document[name]):
                    times[_key(name, item)] = _times(own, name, item)
    for piece in sorted(pieces, key=lambda item: item.mode == "auxiliary"):
        expires = piece.document.get("expiresAt")
        if expires is None or forms.micros(expires) > now:
            _add(document, times, piece)
    if "id" not in document:
        return None
    created, modified = times.pop("@")
    kind = forms.types_of(document)[0]
    return Row(
        row.no if row is not None else 0, document["id"], row.org if row is not None else "", kind, dumped(document),
        dumped(times) if times else None, "synthetic" in document and forms.plain(document["synthetic"]) is True,
        created, modified, row.version if row is not None else 0,
    )


def _add(document: Json, times: Json, piece: Piece) -> None:
    if "id" not in document:
        document.update({key: value for key, value in piece.document.items() if key in forms.ENTITY_MEMBERS})
        times["@"] = list(piece.times["@"])
    else:
        forms.add_types(document, piece.document)
        if "scope" in piece.document:
            document.setdefault("scope", piece.document["scope"])
        created, modified = piece.times["@"]
        times["@"] = [min(filter(None, (times["@"][0], created)), default=0), max(times["@"][1], modified)]
    fixed = frozenset(document) if piece.mode == "auxiliary" else frozenset()
    for name in forms.attributes(piece.document):
        if name in fixed:
            continue
        for item in forms.instances(piece.document[name]):
            fresh = _times(piece.times, name, item)
            known = forms.find_instance(document.get(name), item.get("datasetId"))
            if known is None or newer(known, _times(times, name, known), item, fresh):
                forms.put_instance(document, name, item)
                times[_key(name, item)] = fresh


# ---- writing


class Part(NamedTuple):
    """A part of a write. `registration` None: the house's own; `names` the attributes in it; `error` why it is not done:
    the registration does not offer the operation."""

    registration: Registration | None
    names: frozenset[str]
    refused: bool = False


def parts_of(
    names: frozenset[str], serving: Iterable[tuple[Registration, frozenset[str]]], operations: Sequence[str], *,
    whole: bool = False,
) -> list[Part]:
    """Who does which part of a write of these attributes (5.6.1.4 and alike): exclusive sources before redirected ones
    before the house and inclusive ones.

    `whole`: the operation is about the entity itself (a deletion), so the house takes part in any case.
    """
    parts: list[Part] = []
    rest = names
    matched = [(item, offered) for item, offered in serving if item.mode != "auxiliary"]
    taken = False
    for mode in ("exclusive", "redirect"):
        left = rest
        for item, offered in matched:
            if item.mode != mode:
                continue
            share = rest if offered is EVERY else rest & offered
            if not share and not whole and not (offered is EVERY and not taken):
                continue
            taken = True
            left = left - share
            parts.append(Part(item, share, item.offers(*operations) is None))
        rest = left
    for item, offered in matched:
        if item.mode == "inclusive" and item.offers(*operations) is not None:
            share = rest if offered is EVERY else rest & offered
            if share or whole or (offered is EVERY and not taken):
                parts.append(Part(item, share))
    if whole or rest or not taken:
        parts.append(Part(None, rest))
    return parts


class RemoteProblem(TulouError):
    """What a source answered instead of doing what it was asked: its status and its problem details."""

    def __init__(self, status: int, body: Any, registration: str) -> None:
        problem = body if isinstance(body, dict) else {}
        detail = str(problem.get("detail") or problem.get("title") or f"status {status}")[:500]
        super().__init__(f"来源（注册 {registration}）应答：{detail}", f"the source of registration {registration} answered: {detail}",
                         field="endpoint", value=registration)
        self.status = status if 400 <= status < 600 else 502
        kind = problem.get("type")
        self.ngsi = kind[len(NS):] if isinstance(kind, str) and kind.startswith(NS) else None


def error_entry(id: str, error: TulouError, registration: str | None) -> Json:
    """A BatchEntityError (5.2.17)."""
    entry: Json = {"entityId": id, "error": ngsi_problem(error)}
    if registration is not None:
        entry["registrationId"] = registration
    return entry


def entries_of(body: Any, id: str, registration: str) -> list[Json]:
    """The errors in a 207 that a source answered (5.2.16 or 5.2.18)."""
    if isinstance(body, dict):
        errors = body.get("errors")
        if isinstance(errors, list) and errors:
            return [{**item, "registrationId": registration} for item in errors if isinstance(item, dict)]
    return [error_entry(id, RemoteProblem(502, {"detail": "only a part was done"}, registration), registration)]


def rewritten(fragment: Mapping[str, Any], source: Context, target: Context) -> Json:
    """An attribute fragment as a client wrote it, with the names of its sub-attributes in another context."""
    return {
        key if key in forms.MEMBERS or key in forms.SYSTEM else target.shown(source.stored(key)): value
        for key, value in fragment.items()
    }


def json_text(value: Any) -> bytes:
    """JSON bytes. Raises `BadRequestData` for what cannot be written."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise bad("无法写成 JSON", f"cannot be written as JSON: {error}", field="body", rule="JSON") from None
