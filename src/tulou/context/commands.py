"""`tulou context load`, `recount` and `index`.

Law: entities go in through the house's own HTTP interface in batches, so policy, audit and notifications see them like any
other. What the house has acknowledged is noted beside the home's other files, and the same command goes on from there; a
batch that was taken twice changes nothing, for each is an upsert. A few batches are under way at a time, never two with the
same entity, so its last line stands. Memory holds these batches, whatever the size of the file.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import click
import orjson

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.settings import API

BATCH = "/ngsi-ld/v1/entityOperations/upsert"
BATCH_BYTES = 12 << 20
"""Most bytes of a request; the house takes 16 MiB."""
LINE_BYTES = 8 << 20
"""Longest line that is read."""
TOGETHER = 3
"""Batches under way at a time: the house reads one while it stores another."""


class Item(NamedTuple):
    """An entity as JSON bytes and its id, or why it is none; its line (or row), and where the file is read on after it."""

    line: int
    id: str
    body: bytes
    error: str
    place: int


@click.group("context")
def context() -> None:
    """实体：批量装载、重新计数、属性值索引。Entities: bulk load, recount, indexes over values."""


INDEXES = f"{API}/context/indexes"


@context.group("index")
def index() -> None:
    """属性值索引：让选择性的 q 不必查看所有实体。Indexes over the values of attributes, for a selective q."""


@index.command("list")
@click.pass_obj
def index_list(session: Any) -> None:
    """列出已有索引的属性。List the attributes that have one."""
    session.output(session.call("GET", INDEXES))


@index.command("add")
@click.argument("attribute")
@click.pass_obj
def index_add(session: Any, attribute: str) -> None:
    """为一个属性建索引；其间写入会等待（每实体约 3 微秒）。Index an attribute; writes wait meanwhile (about 3 µs an entity)."""
    session.call("POST", INDEXES, json={"attribute": attribute})


@index.command("remove")
@click.argument("attribute")
@click.pass_obj
def index_remove(session: Any, attribute: str) -> None:
    """删除一个属性的索引。Drop the index of an attribute."""
    session.call("DELETE", f"{INDEXES}/{quote(attribute, safe='')}")


@context.command("recount")
@click.pass_obj
def recount(session: Any) -> None:
    """重新清点各机构各类型的实体数。Count the entities of every organisation and type anew."""
    session.output(session.call("POST", f"{API}/context/recount"))


@context.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--type", "kind", help="没有类型的实体用的类型 / type of entities that name none")
@click.option("--batch", default=5000, show_default=True, type=click.IntRange(1, 10_000), help="每批实体数 / entities a batch")
@click.option("--errors", type=click.Path(dir_okay=False, path_type=Path), help="出错行写入 / where refused lines go [FILE.errors.ndjson]")
@click.option("--restart", is_flag=True, help="从头开始，不续传 / from the first line, not from where it stopped")
@click.pass_obj
def load(
    session: Any, file: Path, org: str, kind: str | None, batch: int, errors: Path | None, restart: bool
) -> None:
    """批量装载实体：每行一个 NGSI-LD 实体（.ndjson），或表格（.csv、.parquet，一列 id，其余为属性）；中断后再次运行即续传。

    Load entities: one a line (NDJSON; normalised, concise or simplified), or a table (.csv, .parquet: a column `id`, `lon`
    and `lat` as the location, the others attributes). Interrupted, the same command goes on.
    """
    progress = Progress(session.settings.home, file, org, kind)
    if not restart:
        progress.resume()
    refused = errors or file.with_name(file.name + ".errors.ndjson")
    if progress.line == 0:
        refused.unlink(missing_ok=True)
    elif not session.json:
        click.echo(session.text(f"从第 {progress.line + 1} 行继续", f"going on from line {progress.line + 1}"), err=True)
    total, items = items_of(file, progress, kind)
    with click.progressbar(
        length=total, label=session.text("装载", "loading"), file=sys.stderr, hidden=session.json, show_pos=False
    ) as bar:
        bar.update(progress.place)
        for parts in groups(batches(items, batch)):
            problems = list(sent(session, org, parts))
            if problems:
                with refused.open("ab") as out:
                    out.writelines(orjson.dumps(problem) + b"\n" for problem in problems)
            bar.update(parts[-1][-1].place - progress.place)
            progress.reached(parts, len(problems))
    progress.done()
    answer = {"file": str(file), "lines": progress.line, "loaded": progress.loaded, "refused": progress.refused}
    session.output({**answer, "errors": str(refused)} if progress.refused else answer)
    if progress.refused:
        sys.exit(1)


class Progress:
    """How far a file is loaded into an organisation: kept in `<home>/loads/` until it is all there."""

    def __init__(self, home: Path, file: Path, org: str, kind: str | None) -> None:
        found = file.stat()
        self.same = {"file": str(file.resolve()), "size": found.st_size, "mtime": found.st_mtime_ns, "org": org, "type": kind}
        name = hashlib.blake2b(f"{self.same['file']}\0{org}".encode(), digest_size=12).hexdigest()
        self.path = home / "loads" / f"{name}.json"
        self.line = self.place = self.loaded = self.refused = 0

    def resume(self) -> None:
        """Take up what an earlier run reached; of a file that has changed since, nothing."""
        try:
            known = orjson.loads(self.path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return
        if known.get("of") == self.same:
            self.line, self.place, self.loaded, self.refused = known["reached"]

    def reached(self, parts: list[list[Item]], refused: int) -> None:
        """The house has acknowledged these batches."""
        self.line, self.place = parts[-1][-1].line, parts[-1][-1].place
        self.loaded += sum(map(len, parts)) - refused
        self.refused += refused
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps({"of": self.same, "reached": [self.line, self.place, self.loaded, self.refused]}))
        os.replace(fresh, self.path)

    def done(self) -> None:
        """Everything is in the house."""
        self.path.unlink(missing_ok=True)


# ---- sending ------------------------------------------------------------------------------------------------------


def batches(items: Iterator[Item], most: int) -> Iterator[list[Item]]:
    """Items in batches of at most `most` and of `BATCH_BYTES`; those with an `@context` of their own apart."""
    part: list[Item] = []
    size, linked = 0, False
    for item in items:
        own = b'"@context"' in item.body
        if part and (len(part) == most or size + len(item.body) > BATCH_BYTES or own != linked):
            yield part
            part, size = [], 0
        part.append(item)
        size, linked = size + len(item.body) + 1, own
    if part:
        yield part


def groups(parts: Iterator[list[Item]]) -> Iterator[list[list[Item]]]:
    """Batches that may be under way together: no entity is in two of them."""
    group: list[list[Item]] = []
    ids: set[str] = set()
    for part in parts:
        own = {item.id for item in part if item.id}
        if group and (len(group) == TOGETHER or not ids.isdisjoint(own)):
            yield group
            group, ids = [], set()
        group.append(part)
        ids |= own
    if group:
        yield group


def sent(session: Any, org: str, parts: list[list[Item]]) -> Iterator[dict[str, Any]]:
    """Upsert batches; yields `{line, id, error}` of each line that was refused. Ends the program where the house refuses
    all of them for what they are not to blame: no right, no such organisation, no room."""
    yield from ({"line": item.line, "error": item.error} for part in parts for item in part if item.error)
    good = [items for part in parts if (items := [item for item in part if not item.error])]
    for items, response in zip(good, session.requests([_request(org, items) for items in good]), strict=True):
        if response.status_code in (201, 204):
            continue
        if response.status_code == 207:
            lines: dict[str, list[int]] = {}
            for item in items:
                lines.setdefault(item.id, []).append(item.line)
            for problem in orjson.loads(response.content)["errors"]:
                own = lines.get(problem["entityId"])
                yield {"line": own.pop(0) if own else None, "id": problem["entityId"], "error": problem["error"]}
        elif response.status_code not in (400, 413):
            session.fail(response)
        elif len(items) == 1:
            yield {"line": items[0].line, "id": items[0].id, "error": orjson.loads(response.content)}
        else:  # one of them spoils the batch: its halves find it
            half = len(items) // 2
            yield from sent(session, org, [items[:half]])
            yield from sent(session, org, [items[half:]])


def _request(org: str, items: list[Item]) -> tuple[str, str, dict[str, Any]]:
    media = "application/ld+json" if b'"@context"' in items[0].body else "application/json"
    return "POST", BATCH, {
        "content": b"[" + b",".join(item.body for item in items) + b"]",
        "headers": {"content-type": media, "ngsild-tenant": org},
    }


# ---- reading ------------------------------------------------------------------------------------------------------


def items_of(file: Path, progress: Progress, kind: str | None) -> tuple[int, Iterator[Item]]:
    """The size of a file in the unit of its items' places (bytes, or rows of a Parquet file), and what is left to load."""
    if file.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.ParquetFile(file)
        rows = (row for part in table.iter_batches(1000) for row in part.to_pylist())
        numbered = itertools.islice(enumerate(rows, 1), progress.line, None)
        return table.metadata.num_rows, (_of_row(row, number, number, kind) for number, row in numbered)
    return file.stat().st_size, (_csv if file.suffix == ".csv" else _ndjson)(file, progress, kind)


def _ndjson(file: Path, progress: Progress, kind: str | None) -> Iterator[Item]:
    with file.open("rb") as source:
        source.seek(progress.place)
        line = progress.line
        while text := source.readline(LINE_BYTES + 1):
            line += 1
            if len(text) > LINE_BYTES:
                _skip_line(source, text)
                yield Item(line, "", b"", f"一行最多 {LINE_BYTES} 字节 / a line has at most {LINE_BYTES} bytes", source.tell())
                continue
            body = text.strip().removeprefix(b"\xef\xbb\xbf")
            if body:
                yield _of_line(body, line, source.tell(), kind)


def _skip_line(source: BinaryIO, text: bytes) -> None:
    """Read on to the end of a line of which `text` is the beginning."""
    while text and not text.endswith(b"\n"):
        text = source.readline(LINE_BYTES)


def _of_line(body: bytes, line: int, place: int, kind: str | None) -> Item:
    """A line as it is, unless a type is to be added."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Item(line, "", b"", f"JSON: {error}", place)
    if not isinstance(found, dict):
        return Item(line, "", b"", "每行应为一个 JSON 对象 / a line must be a JSON object", place)
    if kind is not None and "type" not in found:
        found["type"] = kind
        body = orjson.dumps(found)
    return Item(line, _id_of(found), body, "", place)


def _id_of(entity: dict[str, Any]) -> str:
    """The id of an entity as the house names it in an error: empty where there is none."""
    id = entity.get("id")
    return "" if id is None else str(id)[:2048]


def _csv(file: Path, progress: Progress, kind: str | None) -> Iterator[Item]:
    with file.open("rb") as raw:
        texts = (text.decode("utf-8-sig" if number == 0 else "utf-8", "replace") for number, text in enumerate(raw))
        for number, row in itertools.islice(enumerate(csv.DictReader(texts), 1), progress.line, None):
            found = {name: _value(text) for name, text in row.items() if name and isinstance(text, str) and text != ""}
            yield _of_row(found, number, raw.tell(), kind, also=row)


def _value(text: str) -> Any:
    """A cell: a number, a truth value, a JSON object or array, else the text."""
    if text[0] in "-0123456789{[" or text in ("true", "false"):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text


def _of_row(
    row: dict[str, Any], number: int, place: int, kind: str | None, also: dict[str, Any] | None = None
) -> Item:
    """An entity of a row in simplified form; `also`: the same as texts, for what must be one."""
    texts = also or row
    entity = {name: value for name, value in row.items() if value is not None and value == value}
    for name in ("id", "type"):
        if texts.get(name):
            entity[name] = str(texts[name])
    if kind is not None:
        entity.setdefault("type", kind)
    lon, lat = entity.pop("lon", None), entity.pop("lat", None)
    if lon is not None and lat is not None:
        entity["location"] = {"type": "Point", "coordinates": [lon, lat]}
    try:
        return Item(number, _id_of(entity), orjson.dumps(entity, default=str), "", place)
    except TypeError as error:
        return Item(number, "", b"", f"JSON: {error}", place)


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou context`."""
    return [context]
