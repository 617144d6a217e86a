"""`tulou context load` and `tulou context recount`.

Law: entities go in through the house's own HTTP interface in batches, so policy, audit and notifications see them like any
other. What the house has acknowledged is noted beside the home's other files, and the same command goes on from there; a
batch that was taken twice changes nothing, for each is an upsert. Memory holds one batch, whatever the size of the file.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click
import orjson

BATCH = "/ngsi-ld/v1/entityOperations/upsert"
BATCH_BYTES = 12 << 20
"""Most bytes of a request; the house takes 16 MiB."""
LINE_BYTES = 8 << 20
"""Longest line that is read."""


class Item(NamedTuple):
    """An entity as JSON bytes, or why it is none; its line (or row), and where the file is read on after it."""

    line: int
    body: bytes
    error: str
    place: int


@click.group("context")
def context() -> None:
    """实体：批量装载、重新计数。Entities: bulk load, recount."""


@context.command("recount")
@click.pass_obj
def recount(session: Any) -> None:
    """重新清点各机构各类型的实体数。Count the entities of every organisation and type anew."""
    session.output(session.call("POST", "/api/v1/context/recount"))


@context.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--type", "kind", help="没有类型的实体用的类型 / type of entities that name none")
@click.option("--batch", default=2000, show_default=True, type=click.IntRange(1, 10_000), help="每批实体数 / entities a batch")
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
        for part in batches(items, batch):
            problems = [problem for problem in sent(session, org, part)]
            if problems:
                with refused.open("ab") as out:
                    out.writelines(orjson.dumps(problem) + b"\n" for problem in problems)
            bar.update(part[-1].place - progress.place)
            progress.reached(part, len(problems))
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

    def reached(self, part: list[Item], refused: int) -> None:
        """The house has acknowledged a batch."""
        self.line, self.place = part[-1].line, part[-1].place
        self.loaded += len(part) - refused
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


def sent(session: Any, org: str, part: list[Item]) -> Iterator[dict[str, Any]]:
    """Upsert a batch; yields `{line, id, error}` of each line that was refused. Ends the program where the house refuses
    all of them for what they are not to blame: no right, no such organisation, no room."""
    yield from ({"line": item.line, "error": item.error} for item in part if item.error)
    good = [item for item in part if not item.error]
    if not good:
        return
    media = "application/ld+json" if b'"@context"' in good[0].body else "application/json"
    response = session.request(
        "POST", BATCH, content=b"[" + b",".join(item.body for item in good) + b"]",
        headers={"content-type": media, "ngsild-tenant": org},
    )
    if response.status_code in (201, 204):
        return
    if response.status_code == 207:
        lines: dict[str, list[int]] = {}
        for item in good:
            lines.setdefault(_id_of(item.body), []).append(item.line)
        for problem in orjson.loads(response.content)["errors"]:
            own = lines.get(problem.get("entityId", "")) or [0]
            yield {"line": own.pop(0), "id": problem.get("entityId"), "error": problem.get("error")}
        return
    if response.status_code not in (400, 413):
        session.fail(response)
    if len(good) == 1:
        yield {"line": good[0].line, "id": _id_of(good[0].body), "error": orjson.loads(response.content)}
        return
    half = len(good) // 2  # what is no JSON, or too large, spoils its batch: the halves find it
    yield from sent(session, org, good[:half])
    yield from sent(session, org, good[half:])


def _id_of(body: bytes) -> str:
    """The id of an entity as the house names it in an error: empty where there is none."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    id = found.get("id") if isinstance(found, dict) else None
    return "" if id is None else str(id)[:2048]


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
                yield Item(line, b"", f"一行最多 {LINE_BYTES} 字节 / a line has at most {LINE_BYTES} bytes", source.tell())
                continue
            body = text.strip().removeprefix(b"\xef\xbb\xbf")
            if body:
                yield _of_line(body, line, source.tell(), kind)


def _skip_line(source: BinaryIO, text: bytes) -> None:
    """Read on to the end of a line of which `text` is the beginning."""
    while text and not text.endswith(b"\n"):
        text = source.readline(LINE_BYTES)


def _of_line(body: bytes, line: int, place: int, kind: str | None) -> Item:
    """A line as it is: the house reads it. Only where a type may be missing, or it is no object, it is read here."""
    if kind is None and body[:1] == b"{":
        return Item(line, body, "", place)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return Item(line, b"", f"JSON: {error}", place)
    if not isinstance(found, dict):
        return Item(line, b"", "每行应为一个 JSON 对象 / a line must be a JSON object", place)
    if kind is not None:
        found.setdefault("type", kind)
    return Item(line, orjson.dumps(found), "", place)


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
        return Item(number, orjson.dumps(entity, default=str), "", place)
    except TypeError as error:
        return Item(number, b"", f"JSON: {error}", place)
