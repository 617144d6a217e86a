"""`tulou device`, `tulou readings` and `tulou frames`.

Law: a command asks the house's own HTTP interface, so policy and audit see it like any other door.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

import click
import orjson

from tulou.kernel.hookspecs import hookimpl
from tulou.kernel.settings import API

DEVICE = ("id", "type", "name", "status", "synthetic", "token_prefix", "created_at")
COMMAND = ("no", "device", "method", "bearer", "state", "attempts", "created_at", "ended_at", "error")
IMPORTED = ("line", "id", "token", "created", "error")
MOST_SHOWN = 10_000
TOGETHER = 4
"""Requests of an import that are under way together."""
LINES = 512


def paged(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a list: how many, and where it goes on."""
    command = click.option("--after", help="上一页的游标 / cursor of the page before")(command)
    return click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))(command)


def _path(device_id: str) -> str:
    return f"{API}/devices/{quote(device_id, safe='')}"


@click.group()
def device() -> None:
    """设备：开通、查找、令牌。Devices: create, find, tokens."""


@device.command("create")
@click.option("--org", required=True, help="机构 / organisation")
@click.option("--type", "kind", required=True, help="实体类型 / entity type")
@click.option("--name", required=True, help="名称 / name")
@click.option("--id", "key", help="机构内的标识；不给则随机 / key within the organisation; random if absent")
@click.option("--lon", type=float, help="经度 / longitude (WGS 84)")
@click.option("--lat", type=float, help="纬度 / latitude (WGS 84)")
@click.option("--synthetic", is_flag=True, help="合成数据 / synthetic data")
@click.option("--protocol", help="现场协议，如 hj212 / field protocol, as hj212")
@click.option("--identity", help="协议标识：MN、终端手机号、VIN / its identity there: MN, terminal phone, VIN")
@click.option("--ask-password", is_flag=True, help="输入协议口令 / ask for the protocol's password")
@click.pass_obj
def create(
    session: Any, org: str, kind: str, name: str, key: str | None, lon: float | None, lat: float | None,
    synthetic: bool, protocol: str | None, identity: str | None, ask_password: bool,
) -> None:
    """开通设备；令牌只显示这一次。Create a device; its token is shown only now."""
    body = {"org": org, "type": kind, "name": name, "id": key, "lon": lon, "lat": lat, "synthetic": synthetic,
            "protocol": protocol, "identity": identity, "password": _password(session) if ask_password else None}
    session.output(session.call("POST", f"{API}/devices", json=body))


def _password(session: Any) -> str:
    """From the terminal, or a line of standard input: a command line would show it to everyone on the machine."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return str(click.prompt(session.text("协议口令", "protocol password"), hide_input=True))


@device.command("identity")
@click.argument("device_id")
@click.option("--protocol", required=True, help="现场协议，如 hj212 / field protocol, as hj212")
@click.option("--identity", required=True, help="MN、终端手机号、VIN / MN, terminal phone, VIN")
@click.option("--ask-password", is_flag=True, help="输入协议口令；不给则不验 / ask for its password; without, none is checked")
@click.option("--remove", is_flag=True, help="移除 / take it away")
@click.pass_obj
def identity(
    session: Any, device_id: str, protocol: str, identity: str, ask_password: bool, remove: bool
) -> None:
    """现场协议中的标识。The device's identity in a field protocol."""
    path = f"{_path(device_id)}/identities"
    if remove:
        session.call("DELETE", f"{path}/{quote(protocol, safe='')}/{quote(identity, safe='')}")
        return
    body = {"protocol": protocol, "identity": identity, "password": _password(session) if ask_password else None}
    session.output(session.call("POST", path, json=body))


@device.command("list")
@click.option("--q", default="", help="标识或名称的一部分 / part of id or name")
@click.option("--org", help="机构 / organisation")
@click.option("--type", "kind", help="实体类型 / entity type")
@click.option("--status", type=click.Choice(["active", "disabled"]))
@click.option("--group", type=click.IntRange(1), help="分组 / group")
@paged
@click.pass_obj
def list_devices(
    session: Any, q: str, org: str | None, kind: str | None, status: str | None, group: int | None, limit: int,
    after: str | None,
) -> None:
    """设备列表。List devices."""
    query = {"q": q or None, "org": org, "type": kind, "status": status, "group": group, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/devices", params=query), DEVICE)


@device.command("show")
@click.argument("device_id")
@click.pass_obj
def show(session: Any, device_id: str) -> None:
    """一个设备。One device."""
    session.output(session.call("GET", _path(device_id)))


@device.command("delete")
@click.argument("device_id")
@click.pass_obj
def delete(session: Any, device_id: str) -> None:
    """删除设备（实体与历史读数保留）。Delete a device; its entity and readings stay."""
    session.call("DELETE", _path(device_id))


@device.command("disable")
@click.argument("device_id")
@click.option("--undo", is_flag=True, help="恢复 / enable again")
@click.pass_obj
def disable(session: Any, device_id: str, undo: bool) -> None:
    """停用设备，立即断开。Refuse a device and disconnect it."""
    session.output(session.call("POST", _path(device_id) + ("/enable" if undo else "/disable")))


@device.command("token")
@click.argument("device_id")
@click.pass_obj
def token(session: Any, device_id: str) -> None:
    """换发令牌；旧令牌立即失效。Give a new token; the old one stops working."""
    session.output(session.call("POST", _path(device_id) + "/token"))


@device.command("claimable")
@click.argument("device_id")
@click.option("--seconds", default=86_400, show_default=True, type=click.IntRange(1), help="多少秒内 / within so many seconds")
@click.option("--undo", is_flag=True, help="不再开放 / not any more")
@click.pass_obj
def claimable(session: Any, device_id: str, seconds: int, undo: bool) -> None:
    """允许其他机构凭密码认领此设备。Let another organisation claim the device with a secret."""
    path = _path(device_id) + "/claim"
    if undo:
        session.call("DELETE", path)
    else:
        session.output(session.call("POST", path, json={"seconds": seconds}))


@device.command("claim")
@click.argument("device_id")
@click.option("--org", required=True, help="认领到的机构 / organisation that claims it")
@click.pass_obj
def claim(session: Any, device_id: str, org: str) -> None:
    """认领设备；密码从终端或标准输入读取。Claim a device; its secret is asked for, or read from standard input."""
    body = {"device": device_id, "org": org, "secret": _password(session)}
    session.output(session.call("POST", f"{API}/claims", json=body))


@device.command("poll")
@click.argument("device_id")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--remove", is_flag=True, help="不再轮询 / poll no more")
@click.pass_obj
def poll(session: Any, device_id: str, file: Any, remove: bool) -> None:
    """轮询网关（DTU）后的表计：给出文件（JSON 或 YAML）则设置，不给则显示。

    What is asked of the meters behind a gateway: set from a file (JSON or YAML), shown without one.
    """
    _document(session, f"{_path(device_id)}/poll", file, remove)


def _document(session: Any, path: str, file: Any, remove: bool) -> None:
    """Show, set or remove what a device has at this path."""
    if remove:
        session.call("DELETE", path)
        return
    if file is None:
        session.output(session.call("GET", path))
        return
    import yaml

    try:
        body = yaml.safe_load(file.read())
    except yaml.YAMLError as error:
        raise click.ClickException(f"YAML: {error}") from None
    session.output(session.call("PUT", path, json=body))


@device.command("opcua")
@click.argument("device_id")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--remove", is_flag=True, help="不再连接 / connect no more")
@click.pass_obj
def opcua(session: Any, device_id: str, file: Any, remove: bool) -> None:
    """设备的 OPC UA 服务器：给出文件（JSON 或 YAML）则设置，不给则显示。

    The server of OPC UA of a device: set from a file (JSON or YAML), shown without one.
    """
    _document(session, f"{_path(device_id)}/opcua", file, remove)


@device.command("browse")
@click.argument("device_id")
@click.argument("node", default="i=85")
@click.pass_obj
def browse(session: Any, device_id: str, node: str) -> None:
    """OPC UA 服务器中某节点之下的内容。What is below a node of its server of OPC UA."""
    found = session.call("GET", f"{_path(device_id)}/opcua/nodes", params={"node": node})
    session.output(found["items"], ("node", "class", "name", "type", "value", "status"))


@device.command("methods")
@click.argument("device_id")
@click.pass_obj
def methods(session: Any, device_id: str) -> None:
    """设备可接受的命令及其参数（JSON Schema）。What the device can be told, with the schema of the parameters."""
    session.output(session.call("GET", _path(device_id) + "/methods"))


@device.command("command")
@click.argument("device_id")
@click.argument("method")
@click.option("--params", help="参数，JSON / parameters as JSON")
@click.option("--no-answer", is_flag=True, help="不等设备应答 / the device need not answer")
@click.option("--once", is_flag=True, help="不知是否送达时不重发 / never sent again where it is unknown whether it arrived")
@click.option("--expires", type=click.FloatRange(1, 30 * 86400), help="多少秒后作废 / seconds until it expires")
@click.option("--bearer", help="json 或现场协议 / json or a field protocol")
@click.option("--key", help="重复提交时用同一个键 / the same key for the same command")
@click.option("--wait", default=20, show_default=True, type=click.IntRange(0, 120), help="等待结果的秒数 / seconds to wait for its end")
@click.pass_obj
def command(
    session: Any, device_id: str, method: str, params: str | None, no_answer: bool, once: bool, expires: float | None,
    bearer: str | None, key: str | None, wait: int,
) -> None:
    """向设备下发命令，并等它结束。Tell the device to do something, and wait for the end."""
    body: dict[str, Any] = {"method": method, "expires_s": expires, "bearer": bearer, "key": key}
    if params is not None:
        try:
            body["params"] = orjson.loads(params)
        except orjson.JSONDecodeError as error:
            raise click.ClickException(f"--params: {error}") from None
    body |= ({"answer": False} if no_answer else {}) | ({"repeat": False} if once else {})
    told = session.call("POST", _path(device_id) + "/commands", params={"wait": wait}, json=body)
    session.output(told)
    if told["state"] in ("failed", "expired", "cancelled"):
        sys.exit(1)


@device.command("commands")
@click.argument("device_id", required=False)
@click.option("--state", help="open 或某一状态 / open, or a state")
@paged
@click.pass_obj
def list_commands(session: Any, device_id: str | None, state: str | None, limit: int, after: str | None) -> None:
    """已下发的命令，新的在前。Commands, newest first."""
    query = {"device": device_id, "state": state, "limit": limit, "after": after}
    session.output(session.call("GET", f"{API}/commands", params=query), COMMAND)


@device.command("cancel")
@click.argument("no", type=int)
@click.pass_obj
def cancel(session: Any, no: int) -> None:
    """取消一条未结束的命令。Cancel a command that has not ended."""
    session.output(session.call("DELETE", f"{API}/commands/{no}"), COMMAND)


@device.command("shadow")
@click.argument("device_id")
@click.option("--set", "changes", multiple=True, metavar="NAME=JSON", help="期望值；null 为删除；可重复 / desired value, null removes; may be repeated")
@click.option("--version", type=int, help="所见的版本；已变则拒绝 / the version seen; refused where it is another")
@click.pass_obj
def shadow(session: Any, device_id: str, changes: tuple[str, ...], version: int | None) -> None:
    """设备影子：期望、上报与差异；--set 修改期望。The shadow: desired, reported, delta; --set changes what is desired."""
    path = _path(device_id) + "/shadow"
    if not changes:
        session.output(session.call("GET", path))
        return
    desired: dict[str, Any] = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            desired[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            desired[name] = value
    session.output(session.call("PATCH", path, json={"desired": desired, "version": version}))


@device.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, writable=True, path_type=Path),
              help="逐行结果（含令牌）写入此 CSV，已有则续写；超过一万行时必需 / "
                   "the answer to each line, with its token, as CSV; one that is there is continued; needed beyond 10,000 lines")
@click.pass_obj
def import_devices(session: Any, file: Path, out: Path | None) -> None:
    """批量开通：CSV、Parquet（org,type,name,id,lon,lat,synthetic,protocol,identity,password）或 JSON 行；可重复执行。

    Create devices from CSV, Parquet or JSON lines; sending a file again creates nothing twice, and goes on where it was
    interrupted. Without --out it prints a line per device.
    """
    total, items = _items(file)
    kept: list[dict[str, Any]] = []
    counts = {"created": 0, "known": 0, "refused": 0}
    parts: deque[tuple[int, int]] = deque()
    broken: list[click.ClickException] = []

    def asked() -> Iterator[tuple[str, str, dict[str, Any]]]:
        sent = 0
        while out or sent < MOST_SHOWN:
            try:
                part = list(itertools.islice(items, LINES))
            except click.ClickException as error:
                broken.append(error)  # after the answers to what was sent: a token is shown only once
                return
            if not part:
                return
            sent += len(part)
            parts.append((part[-1][0], len(part)))
            yield "POST", f"{API}/devices/bulk", {
                "content": orjson.dumps({"items": [item for _, item in part]}), "headers": {"content-type": "application/json"},
            }

    with contextlib.ExitStack() as stack:
        target = stack.enter_context(_continued(out)) if out else None
        writer = csv.writer(target) if target else None
        if writer and target and not target.tell():
            writer.writerow(IMPORTED)
        bar = stack.enter_context(click.progressbar(
            length=total, label=session.text("开通设备", "devices"), file=sys.stderr, hidden=session.json, show_pos=False
        ))
        line = done = 0
        for response in session.responses(asked(), TOGETHER):
            if response.status_code >= 400:
                session.fail(response)
            answers = orjson.loads(response.content)["items"]
            for answer in answers:
                answer["line"] += line
                problem = answer.get("error")
                counts["refused" if problem else "created" if answer["created"] else "known"] += 1
                if problem and not session.json:
                    answer["error"] = problem["detail_zh" if session.language == "zh" else "detail_en"]
            if writer and target:
                writer.writerows([answer.get(name, "") for name in IMPORTED] for answer in answers)
                target.flush()
                os.fsync(target.fileno())
            else:
                kept += answers
            place, count = parts.popleft()
            bar.update(place - done)
            line, done = line + count, place
    if out:
        session.output({"lines": line, **counts, "out": str(out)})
    else:
        session.output(kept, IMPORTED)
    if broken:
        raise broken[0]
    if next(items, None) is not None:
        session.stop(f"已开通前 {line} 行；更多请用 --out", f"the first {line} lines are done; use --out for more")
    if counts["refused"]:
        sys.exit(1)


def _continued(out: Path) -> TextIO:
    """A file of answers, open at its end: the tokens of an earlier run are nowhere else. A row cut short gets its end."""
    torn = False
    if out.exists() and out.stat().st_size:
        with out.open("rb") as earlier:
            earlier.seek(-1, os.SEEK_END)
            torn = earlier.read() != b"\n"
    target = out.open("a", newline="", encoding="utf-8")
    if torn:
        target.write("\r\n")
    return target


def _items(file: Path) -> tuple[int, Iterator[tuple[int, dict[str, Any]]]]:
    """How far it goes (bytes, or rows), and the devices with how far each is."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file)
        rows = (row for batch in table.iter_batches(LINES) for row in batch.to_pylist())
        return table.metadata.num_rows, (
            (at, {key: value for key, value in row.items() if value is not None}) for at, row in enumerate(rows, 1)
        )
    return file.stat().st_size, _lines(file)


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as raw:
        first = raw.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        raw.seek(0)
        if first == b"{":
            for line in raw:
                if line.strip():
                    try:
                        yield raw.tell(), orjson.loads(line.removeprefix(codecs.BOM_UTF8))
                    except orjson.JSONDecodeError as error:
                        raise click.ClickException(f"JSON: {error}") from None
            return
        for row in csv.DictReader(line.decode("utf-8-sig") for line in raw):
            item: dict[str, Any] = {key: value for key, value in row.items() if key and value}
            for key in ("lon", "lat"):
                try:
                    item[key] = float(item[key])
                except (KeyError, ValueError):
                    continue
            if "synthetic" in item:
                item["synthetic"] = str(item["synthetic"]).lower() in ("1", "true", "yes", "是")
            yield raw.tell(), item


@click.group()
def readings() -> None:
    """读数：最新值、曲线、SQL、导出。Readings: latest, series, SQL, export."""


@readings.command("latest")
@click.argument("no", type=int)
@click.pass_obj
def latest(session: Any, no: int) -> None:
    """一个实体的最新值。Latest values of a thing."""
    thing = session.call("GET", f"{API}/things/{no}")
    session.output(
        [{"property": name, **value} for name, value in thing["latest"].items()], ("property", "value", "unit", "ts")
    )


@readings.command("series")
@click.argument("no", type=int)
@click.argument("prop")
@click.option("--from", "start", help="起 / from (RFC 3339)")
@click.option("--to", "end", help="止 / to (RFC 3339)")
@click.option("--points", default=500, show_default=True)
@click.pass_obj
def series(session: Any, no: int, prop: str, start: str | None, end: str | None, points: int) -> None:
    """一个属性的曲线。A property over time."""
    answer = _series(session, no, prop, start, end, points)
    if session.json:
        session.output(answer)
    else:
        names = ("ms", "avg", "min", "max")
        session.output([dict(zip(names, point, strict=True)) for point in answer["points"]], names)


def _series(session: Any, no: int, prop: str, start: str | None, end: str | None, points: int) -> Any:
    query = {"property": prop, "from": start, "to": end, "points": points}
    return session.call("GET", f"{API}/things/{no}/series", params=query)


@readings.command("sql")
@click.argument("query")
@click.option("--max-rows", default=10_000, show_default=True)
@click.pass_obj
def sql(session: Any, query: str, max_rows: int) -> None:
    """只读 SQL（ClickHouse 方言），需全屋读数权限。Read-only SQL; needs the right to read the whole house."""
    answer = session.call("POST", f"{API}/readings/sql", json={"sql": query, "max_rows": max_rows})
    if session.json:
        session.output(answer)
    else:
        columns = answer["columns"]
        session.output([dict(zip(columns, row, strict=True)) for row in answer["rows"]], columns)


@readings.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--type", "kind", required=True, help="实体类型 / entity type")
@click.option("--from", "start", required=True, help="起 / from (RFC 3339)")
@click.option("--to", "end", required=True, help="止（不含）/ to, exclusive (RFC 3339)")
@click.option("--org", help="机构 / organisation")
@click.pass_obj
def export(session: Any, file: Path, kind: str, start: str, end: str, org: str | None) -> None:
    """导出一类实体的全部读数到 .csv 或 .parquet。Export every reading of a type."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if file.suffix not in (".csv", ".parquet"):
        raise click.BadParameter(".csv | .parquet", param_hint="FILE")
    schema = pa.schema([
        ("org", pa.string()), ("entity", pa.string()), ("no", pa.int64()), ("property", pa.string()),
        ("ts", pa.timestamp("us", "UTC")), ("value", pa.float64()), ("text", pa.string()), ("quality", pa.uint8()),
        ("origin", pa.uint8()),
    ])
    count = 0
    opened = (
        pyarrow.csv.CSVWriter(file, schema) if file.suffix == ".csv" else pyarrow.parquet.ParquetWriter(file, schema)
    )
    with opened as writer:
        for rows in _history(session, kind, start, end, org):
            columns = list(zip(*rows, strict=True))
            arrays = [pa.array(c, pa.int64()).cast(t.type) if t.name == "ts" else pa.array(c, t.type)
                      for c, t in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
            count += len(rows)
            if not session.json:
                click.echo(f"\r{count}", nl=False, err=True)
    session.output({"file": str(file), "readings": count})


def _history(session: Any, kind: str, start: str, end: str, org: str | None) -> Iterator[list[list[Any]]]:
    after = None
    while True:
        query = {"type": kind, "from": start, "to": end, "org": org, "limit": 20, "after": after}
        page = session.call("GET", f"{API}/readings", params=query)
        if page["items"]:
            yield page["items"]
        after = page["next"]
        if after is None:
            return


@click.group()
def frames() -> None:
    """原始报文。Raw frames."""


@frames.command("redecode")
@click.option("--protocol", required=True, help="现场协议，如 hj212 / field protocol, as hj212")
@click.option("--org", help="机构 / organisation")
@click.option("--device", "device_id", help="设备 / device")
@click.option("--from", "start", required=True, help="收到时间起 / received from (RFC 3339)")
@click.option("--to", "end", help="收到时间止（不含），缺省为现在 / received to, exclusive (RFC 3339); now if absent")
@click.option("--dry-run", is_flag=True, help="只显示将改变什么 / only show what would change")
@click.pass_obj
def redecode(
    session: Any, protocol: str, org: str | None, device_id: str | None, start: str, end: str | None, dry_run: bool
) -> None:
    """编解码器修正后，从保留的原始报文重读历史；可重复执行，中断后在屋中继续。

    Read history again from the raw frames after a codec was mended. May be repeated. The house does the work: ending this
    command does not end it (`tulou frames cancel`).
    """
    body = {"protocol": protocol, "org": org, "device": device_id, "from": start, "to": end, "dry_run": dry_run}
    run = session.call("POST", f"{API}/redecodes", json=body)
    with click.progressbar(length=1, label=session.text("重读报文", "frames"), file=sys.stderr, hidden=session.json) as bar:
        while run["state"] in ("queued", "running"):
            time.sleep(0.5)
            run = session.call("GET", f"{API}/redecodes/{run['id']}")
            bar.length = max(run["total"] or 0, 1)
            bar.update(min(run["counts"]["frames"], bar.length) - bar.pos)
    if session.json:
        session.output(run)
        return
    session.output([{"id": run["id"], "state": run["state"], **run["counts"]}],
                   ("id", "state", *run["counts"]))
    if run["examples"]:
        session.output(run["examples"], ("no", "property", "ts", "before", "after"))


@frames.command("runs")
@click.pass_obj
def runs(session: Any) -> None:
    """重读的进展与结果。Runs of redecode, newest first."""
    items = session.call("GET", f"{API}/redecodes")["items"]
    session.output([{**item, **item["counts"]} for item in items],
                   ("id", "protocol", "state", "dry_run", "frames", "total", "changed", "added", "removed", "error"))


@frames.command("cancel")
@click.argument("number", type=int)
@click.pass_obj
def cancel_run(session: Any, number: int) -> None:
    """在当前一片之后结束重读。End a run after the slice under way."""
    session.output(session.call("POST", f"{API}/redecodes/{number}/cancel"))


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou device`, `readings`, `frames`, `rule`, `firmware`, `rollout`, `certificate`, `authority`, `provision`, `quota`, `group`, `card`,
    `edges`, `lorawan`, `product`."""
    from tulou.access.certificates.commands import authority, certificate
    from tulou.access.edge.commands import edges
    from tulou.access.groups.commands import group
    from tulou.access.lorawan.commands import lorawan
    from tulou.access.ocpp.commands import card
    from tulou.access.ota.commands import firmware, rollout
    from tulou.access.products.commands import product
    from tulou.access.provisioning.commands import provision
    from tulou.access.quotas.commands import quota
    from tulou.access.rules.commands import rule

    return [device, readings, frames, rule, firmware, rollout, certificate, authority, provision, quota, group, card, edges, lorawan, product]
