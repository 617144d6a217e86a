"""The order of entities: `orderBy`, parsed once, compiled to SQL, or sorted here where SQL cannot.

Law: pure. Values are ordered by kind first (numbers, texts, objects, arrays, booleans), then by value, texts by code
point; what has no value comes last in either direction, and entities that are equal keep their order of creation.
SQL sorts all of it but distances and collations: those are sorted here, over a bounded number of candidates.

Source: ETSI GS CIM 009 v1.9.1 clauses 4.23, 5.2.43 and 5.7.2.4.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import shapely
from shapely.geometry import shape

from tulou.context import geo, query
from tulou.context.errors import BadRequestData, bad
from tulou.context.jsonld import Context

MAX_KEYS = 10
MAX_SORTED = 100_000
"""Most entities that SQL sorts by what only their documents hold."""
MAX_RANKED = 20_000
"""Most entities that are sorted here, by distance or a collation: it holds the interpreter while it lasts."""

_DIRECTIONS = frozenset({"asc", "desc", "dist-asc", "dist-desc"})
_COLUMNS = frozenset({"id", "type", "createdAt", "modifiedAt"})
_VALUES = ("value", "object", "vocab", "valueList", "json", "languageMap", "objectList")
_TAG = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_ROOT = frozenset({"und", "en", "de", "fr", "it", "nl", "pt", "id", "ms", "ga"})
"""Languages whose alphabet is in the order of the Unicode root collation (CLDR has no tailoring for them)."""

Collation = Callable[[str], Any]
"""A text -> its sort key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One member to order by. `path.core` alone is a system time; `column` is a member that has a column of its own."""

    path: query.Path
    column: str | None = None
    descending: bool = False
    distance: bool = False


@dataclass(frozen=True, slots=True)
class Ordering:
    """What to order by. `place` is what distances are measured from (a shapely geometry)."""

    keys: tuple[Key, ...]
    place: Any = None
    collation: Collation | None = None

    @property
    def in_sql(self) -> bool:
        """Whether SQL can sort by every key."""
        return self.collation is None and not any(key.distance for key in self.keys)

    @property
    def by_columns(self) -> bool:
        """Whether no document has to be read to sort."""
        return self.in_sql and all(key.column is not None for key in self.keys)

    @property
    def most(self) -> int:
        """How many entities can be put into this order."""
        return MAX_SORTED if self.in_sql else MAX_RANKED


def parse(
    order_by: Sequence[str], context: Context, *, coordinates: Any = None, geometry: Any = None, collation: Any = None
) -> Ordering:
    """Parse the members of OrderingParams (5.2.43): `order_by` holds `path[;direction]`.

    Raises `BadRequestData` naming the parameter.
    """
    if not 0 < len(order_by) <= MAX_KEYS:
        raise bad(f"orderBy 应有 1 至 {MAX_KEYS} 项", f"orderBy takes 1 to {MAX_KEYS} members", field="orderBy",
                  value=list(order_by), rule=f"1..{MAX_KEYS}")
    keys = tuple(_key(text, context) for text in order_by)
    place = _place(coordinates, geometry)
    if place is None and any(key.distance for key in keys):
        raise bad("按距离排序须给出 orderFrom（坐标）", "ordering by distance needs orderFrom, the coordinates",
                  field="orderFrom", rule="CIM 009, 4.23.3")
    return Ordering(keys, place, None if collation is None else collation_of(collation))


def _key(text: str, context: Context) -> Key:
    word, _, direction = text.partition(";")
    if direction and direction not in _DIRECTIONS:
        raise bad(f"orderBy 的方向应为 {', '.join(sorted(_DIRECTIONS))}",
                  f"the direction must be one of {', '.join(sorted(_DIRECTIONS))}", field="orderBy", value=text,
                  rule="CIM 009, 4.23.3")
    descending, distance = direction.endswith("desc"), direction.startswith("dist")
    if word in _COLUMNS and not distance:
        return Key(query.Path(()), word, descending)
    path = query.parse_path(word, context, "orderBy")
    if distance and path.core is not None:
        raise bad(f"{word} 没有位置", f"{word} is no place", field="orderBy", value=text, rule="GeoProperty")
    return Key(path, None, descending, distance)


def _place(coordinates: Any, geometry: Any) -> Any:
    if coordinates is None:
        if geometry is not None and not isinstance(geometry, str):
            raise bad("geometry 应为文本", "geometry must be a text", field="geometry", value=geometry, rule="RFC 7946, 1.4")
        return None
    if isinstance(coordinates, str):
        try:
            coordinates = orjson.loads(coordinates)
        except orjson.JSONDecodeError:
            raise bad("orderFrom 不是 JSON 数组", "orderFrom is not a JSON array", field="orderFrom", value=coordinates,
                      rule="RFC 7946, 3.1.1") from None
    target = {"type": "Point" if geometry is None else geometry, "coordinates": coordinates}
    geo.check(target, "orderFrom")
    found = shape(target)
    return found if found.is_valid else shapely.make_valid(found)


def split(text: str) -> list[str]:
    """The members of an `orderBy` parameter: commas separate them, except inside `[...]`."""
    found, depth, at = [], 0, 0
    for position, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            found.append(text[at:position])
            at = position + 1
    return [*found, text[at:]]


# ---- collation ----------------------------------------------------------------------------------------------------


def collation_of(tag: Any) -> Collation:
    """The sort keys of a collation, by its BCP 47 tag with `-u-co-` and `-u-ks-` (RFC 6067).

    Three levels, as UTS 10 has them: letters without marks and case, then marks, then case (small first). Offered are
    the root order (`und`), languages that use it unchanged, and German telephone-book order; others are refused, for an
    order that is not theirs would be wrong. Raises `BadRequestData`.
    """
    text = tag if isinstance(tag, str) and len(tag) <= 100 and _TAG.fullmatch(tag) else None
    language, _, extension = (text or "").lower().partition("-u-")
    words = extension.split("-") if extension else []
    options = dict(zip(words[::2], words[1::2], strict=False))
    kind = options.pop("co", "standard")
    strength = options.pop("ks", "level3")
    phonebook = kind == "phonebk" and language.partition("-")[0] == "de"
    if (
        text is None or len(words) % 2 or options or language.partition("-")[0] not in _ROOT or language == "fr-ca"
        or not (phonebook or kind in ("standard", "search")) or strength not in ("level1", "level2", "level3", "identic")
    ):
        raise bad(
            f"不提供排序规则 {str(tag)[:100]!r}", f"the collation {str(tag)[:100]!r} is not offered", field="collation",
            value=tag, rule=f"RFC 6067; {', '.join(sorted(_ROOT))}, de-u-co-phonebk",
        )
    levels = {"level1": 1, "level2": 2}.get(strength, 3)

    def key(value: str) -> Any:
        plain = unicodedata.normalize("NFKD", value.translate(_PHONEBOOK) if phonebook else value)
        letters = "".join(char for char in plain if not unicodedata.combining(char))
        primary = [(_class(char), char) for char in letters.casefold()]
        return (primary, plain.casefold(), letters.swapcase())[:levels]

    return key


_PHONEBOOK = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})


def _class(char: str) -> int:
    """Blanks before punctuation, symbols, digits and letters, as in the root collation."""
    return {"Z": 0, "P": 1, "S": 2, "N": 3}.get(unicodedata.category(char)[0], 4)


# ---- SQL ----------------------------------------------------------------------------------------------------------


def columns(ordering: Ordering, dialect: str) -> tuple[str, list[Any]]:
    """Select expressions `k0, v0, k1, v1 ...` over `entities e`: kind and value of each key; and their parameters.

    `k` is 0 number, 1 text, 2 object, 3 array, 4 boolean, 9 nothing; `v` is comparable within a kind. On PostgreSQL
    there are three a key, `n` for numbers beside `v` for texts. A key by distance has its geometry as JSON in `v`.
    """
    parts: list[str] = []
    parameters: list[Any] = []
    for number, key in enumerate(ordering.keys):
        sql, own = (_postgres if dialect == "postgresql" else _sqlite)(key, number)
        parts.append(sql)
        parameters += own
    return ", ".join(parts), parameters


def order(ordering: Ordering, dialect: str) -> str:
    """ORDER BY of what `columns` selects, ending with `no`."""
    parts = []
    for number, key in enumerate(ordering.keys):
        word = " DESC" if key.descending else ""
        if key.column is not None:
            parts.append(f"v{number}{word}")
            continue
        kinds = f"(k{number}=9), k{number}{word}"
        values = f"n{number}{word}, v{number}{word}" if dialect == "postgresql" else f"v{number}{word}"
        parts.append(f"{kinds}, {values}")
    return ", ".join([*parts, "no"])


_COLUMN = {"id": "e.id", "type": "e.type", "createdAt": "e.created_at", "modifiedAt": "e.modified_at"}


def _sqlite(key: Key, number: int) -> tuple[str, list[Any]]:
    path = key.path
    if key.column is not None:
        return f"1 AS k{number}, {_COLUMN[key.column]} AS v{number}", []
    first = f'$."{path.names[0]}"' if path.names else "$"
    if path.core in ("createdAt", "modifiedAt"):
        index = int(path.core == "modifiedAt")
        moment = "coalesce(json_extract(e.times,?),json_extract(e.times,?),e.created_at)"
        return (
            f"CASE WHEN json_type(e.doc,?) IS NULL THEN 9 ELSE 0 END AS k{number}, {moment} AS v{number}",
            [first, f"{first}[{index}]", f'$."*"[{index}]'],
        )
    if path.names:
        source = (
            "CASE json_type(e.doc,?) WHEN 'array' THEN coalesce((SELECT i.value FROM json_each(e.doc,?) i WHERE "
            "json_type(i.value,'$.datasetId') IS NULL LIMIT 1),json_extract(e.doc,?)) ELSE json_extract(e.doc,?) END"
        )
        own: list[Any] = [first, first, first + "[0]", first]
    else:
        source, own = "e.doc", []
    targets = ["$" + "".join(f'."{step}"' for step in steps) for steps in _members(path)]

    def found(function: str) -> str:
        return f"(SELECT coalesce({','.join([f'{function}(s.s,?)' for _ in targets] + ['NULL'])}) FROM (SELECT {source} AS s) s)"

    kind = (
        f"CASE {found('json_type')} WHEN 'integer' THEN 0 WHEN 'real' THEN 0 WHEN 'text' THEN 1 WHEN 'object' THEN 2 "
        "WHEN 'array' THEN 3 WHEN 'true' THEN 4 WHEN 'false' THEN 4 ELSE 9 END"
    )
    return f"{kind} AS k{number}, {found('json_extract')} AS v{number}", [*targets, *own] * 2


def _members(path: query.Path) -> list[tuple[str, ...]]:
    """Where an attribute instance may hold the value of a path."""
    if path.core is not None:
        return [(*path.names[1:], path.core)]
    return [(*path.names[1:], member, *path.trail) for member in _VALUES]


def _postgres(key: Key, number: int) -> tuple[str, list[Any]]:
    path = key.path

    def three(kind: str, value: str, count: str = "NULL::numeric") -> str:
        return f"{kind} AS k{number}, {count} AS n{number}, {value} AS v{number}"

    if key.column in ("createdAt", "modifiedAt"):
        return three("0", _COLUMN[key.column]), []
    if key.column is not None:
        return three("1", f'{_COLUMN[key.column]} COLLATE "C"'), []
    if path.core in ("createdAt", "modifiedAt"):
        index = int(path.core == "modifiedAt")
        moment = f"coalesce((e.times->?->>{index})::bigint,(e.times->'*'->>{index})::bigint,e.created_at)"
        return (
            three("CASE WHEN jsonb_exists(e.doc,?) THEN 0 ELSE 9 END", moment), [path.names[0], path.names[0]]
        )
    if path.names:
        source = (
            "CASE jsonb_typeof(e.doc->?) WHEN 'array' THEN coalesce((SELECT i.i FROM jsonb_array_elements(e.doc->?) i(i) "
            "WHERE NOT jsonb_exists(i.i,'datasetId') LIMIT 1),e.doc->?->0) ELSE e.doc->? END"
        )
        own: list[Any] = [path.names[0]] * 4
    else:
        source, own = "e.doc", []
    targets = [list(steps) for steps in _members(path)]
    value = f"(SELECT coalesce({','.join(['s.s #> ?::text[]'] * len(targets))}) FROM (SELECT {source} AS s) s)"
    kind = (
        f"CASE jsonb_typeof({value}) WHEN 'number' THEN 0 WHEN 'string' THEN 1 WHEN 'object' THEN 2 WHEN 'array' THEN 3 "
        "WHEN 'boolean' THEN 4 ELSE 9 END"
    )
    count = f"CASE jsonb_typeof({value}) WHEN 'number' THEN ({value} #>> '{{}}')::numeric END"
    text = f"CASE WHEN jsonb_typeof({value})<>'number' THEN {value} #>> '{{}}' END COLLATE \"C\""
    return three(kind, text, count), [*targets, *own] * 5


# ---- sorting here -------------------------------------------------------------------------------------------------


def ranked(ordering: Ordering, rows: list[tuple[Any, ...]], dialect: str) -> list[int]:
    """Numbers of entities in order; `rows` are (no, what `columns` selects), by rising number."""
    width = 3 if dialect == "postgresql" else 2
    for number in range(len(ordering.keys) - 1, -1, -1):
        key, at = ordering.keys[number], 1 + number * width

        def sort_key(row: tuple[Any, ...], key: Key = key, at: int = at) -> tuple[Any, ...]:
            kind, value = row[at], row[at + width - 1]
            if key.column is not None:
                return kind, value
            if kind == 0 and width == 3 and row[at + 1] is not None:
                value = row[at + 1]
            elif kind == 1 and ordering.collation is not None:
                value = ordering.collation(value)
            return (kind, value) if kind != 9 else _LAST

        if key.distance:
            metres = _metres(ordering.place, [row[at + width - 1] if row[at] == 2 else None for row in rows])
            keyed = [(_LAST if far is None else (0, far), row) for far, row in zip(metres, rows, strict=True)]
        else:
            keyed = [(sort_key(row), row) for row in rows]
        present = [pair for pair in keyed if pair[0] is not _LAST]
        present.sort(key=lambda pair: pair[0], reverse=key.descending)
        rows = [row for _, row in present] + [row for pair, row in keyed if pair is _LAST]
    return [row[0] for row in rows]


_LAST = (9,)


def _metres(place: Any, texts: Sequence[str | None]) -> list[float | None]:
    """Metres from `place` to geometries as JSON texts, None for what is none; points from a point all at once."""
    found: list[float | None] = [None] * len(texts)
    points: list[tuple[int, float, float]] = []
    for at, text in enumerate(texts):
        if text is None:
            continue
        geometry: dict[str, Any] = orjson.loads(text)
        try:
            geo.check(geometry, "location")
        except BadRequestData:
            continue
        if geometry["type"] == "Point" and place.geom_type == "Point":
            points.append((at, *geometry["coordinates"][:2]))
        else:
            found[at] = geo.distance(place, shape(geometry))
    if points:
        where, lon, lat = (np.asarray(column) for column in zip(*points, strict=True))
        for at, far in zip(where.tolist(), geo.haversine(lon, lat, place.x, place.y).tolist(), strict=True):
            found[at] = far
    return found
