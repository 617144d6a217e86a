"""The command line: `tulou`.

Law: a command is a door like any other. It speaks to the running house over HTTP, and when none runs it opens the
house in this process and asks the same routes; either way the policy and the audit see it. `--json` prints exactly
the answer; exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the house is not reachable.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson

from tulou import __version__
from tulou.kernel.errors import TulouError
from tulou.kernel.plugins import COMMANDS, ROLES, flat, plugins
from tulou.kernel.settings import Settings

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

    from tulou.app import Running

ERROR, UNREACHABLE = 1, 3
Asked = tuple[str, str, dict[str, Any]]
"""A request: method, path, and what httpx takes beside them."""


class Session:
    """What commands get as `ctx.obj`: `call` asks the house, `output` prints its answer."""

    def __init__(self, settings: Settings, as_json: bool, language: str) -> None:
        self.settings = settings
        self.json = as_json
        self.language = language
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._stack = contextlib.AsyncExitStack()

    @functools.cached_property
    def console(self) -> Console:
        """Where tables are written."""
        from rich.console import Console

        return Console()

    def call(
        self, method: str, path: str, json: Any = None, params: dict[str, Any] | None = None, content: bytes | None = None
    ) -> Any:
        """The parsed JSON of `method path` (None for 204). Exits with 1 and the house's message on an error."""
        response = self.request(method, path, json=json, params=params, content=content)
        if response.status_code >= 400:
            self.fail(response)
        if response.status_code == 204 or not response.content:
            return None
        return orjson.loads(response.content)

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """The raw response."""
        return self.requests([(method, path, kwargs)])[0]

    def requests(self, asked: Sequence[Asked]) -> list[httpx.Response]:
        """The raw responses to several requests that are under way together."""
        return list(self.responses(asked, len(asked)))

    def responses(self, asked: Iterable[Asked], together: int) -> Iterator[httpx.Response]:
        """The raw responses to requests, in their order; so many are under way while the caller looks at one."""
        import httpx

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        waiting: deque[asyncio.Task[httpx.Response]] = deque()
        try:
            client = self._loop.run_until_complete(self._open())
            for method, path, more in asked:
                waiting.append(self._loop.create_task(client.request(method, path, **_given(more))))
                if len(waiting) == together:
                    yield self._loop.run_until_complete(waiting.popleft())
            while waiting:
                yield self._loop.run_until_complete(waiting.popleft())
        except httpx.TransportError as error:
            self.stop(f"联系不上运行中的土楼：{error}", f"the running house cannot be reached: {error}", UNREACHABLE)
        except TulouError as error:
            self.stop(error.zh, error.en)
        finally:
            for task in waiting:
                task.cancel()

    def running(self) -> dict[str, Any] | None:
        """The run file of a live house in this home, or None."""
        try:
            run: dict[str, Any] = orjson.loads((self.settings.home / "run.json").read_bytes())
            os.kill(run["pid"], 0)
        except (OSError, ValueError, KeyError):
            return None
        return run

    async def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            run = self.running()
            if run is not None:
                if "api" not in run["roles"]:
                    roles = ", ".join(run["roles"])
                    self.stop(
                        f"这个数据目录里的进程只承担 {roles}；请在承担 api 的进程的数据目录中运行",
                        f"the process of this home plays {roles} only; run this in the home of one that plays api",
                        UNREACHABLE,
                    )
                client = httpx.AsyncClient(base_url=run["address"], timeout=600, verify=False, trust_env=False)  # noqa: S501
                client.headers["authorization"] = f"Bearer {run['token']}"
            else:
                from tulou.app import Front
                from tulou.kernel.house import House

                house = House(dataclasses.replace(self.settings))
                self._stack.push_async_callback(house.stop)
                await house.start(("api",))
                client = httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=Front(house)), base_url="http://house", timeout=3600
                )
                client.headers["authorization"] = f"Bearer {house.local_token}"
            self._client = await self._stack.enter_async_context(client)
        return self._client

    def close(self) -> None:
        """Close what `call` opened."""
        if self._loop is not None:
            self._loop.run_until_complete(self._stack.aclose())
            self._loop.close()

    def output(self, data: Any, columns: Sequence[str] | None = None) -> None:
        """Print an answer: exact JSON with --json, else a table of `columns` (lists) or of fields (one thing)."""
        if self.json:
            click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode())
            return
        from rich.table import Table

        rows = data["items"] if isinstance(data, dict) and isinstance(data.get("items"), list) else data
        if isinstance(rows, list):
            names = list(columns or (rows[0] if rows and isinstance(rows[0], dict) else ["value"]))
            table = Table(*names, box=None, header_style="bold")
            for row in rows:
                table.add_row(*[_cell(row.get(n) if isinstance(row, dict) else row) for n in names])
            self.console.print(table if rows else self.text("（空）", "(none)"))
        elif isinstance(rows, dict):
            table = Table(show_header=False, box=None)
            for name in columns or rows:
                table.add_row(f"[bold]{name}", _cell(rows.get(name)))
            self.console.print(table)
        elif rows is not None:
            click.echo(str(rows))

    def text(self, zh: str, en: str) -> str:
        """The text in the user's language."""
        return zh if self.language == "zh" else en

    def fail(self, response: httpx.Response) -> NoReturn:
        """Exit with the message of a problem document."""
        try:
            problem = orjson.loads(response.content)
        except ValueError:
            problem = {"detail": response.text}
        if self.json:
            click.echo(orjson.dumps(problem, option=orjson.OPT_INDENT_2).decode(), err=True)
            sys.exit(ERROR)
        message = problem.get("detail_zh" if self.language == "zh" else "detail_en") or problem.get("detail", "")
        place = f" [{problem['field']}]" if problem.get("field") else ""
        self.stop(f"{message}{place}", f"{message}{place}")

    def stop(self, zh: str, en: str, code: int = ERROR) -> NoReturn:
        """Print an error and exit."""
        click.secho(self.text(zh, en), fg="red", err=True)
        sys.exit(code)


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a request without those, and the parameters, that are None."""
    found = {key: value for key, value in arguments.items() if value is not None}
    if "params" in found:
        found["params"] = {key: value for key, value in found["params"].items() if value is not None}
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return str(value)


class House(click.Group):
    """The top command: its own commands and those that engines and packs contribute."""

    @functools.cached_property
    def contributed(self) -> dict[str, click.Command]:
        return {c.name: c for c in flat(plugins(COMMANDS).hook.commands()) if c.name}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.contributed})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name) or self.contributed.get(name)


def _language() -> str:
    locale = os.environ.get("TULOU_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG") or "zh"
    return "en" if locale.lower().startswith(("en", "c.", "posix")) or locale == "C" else "zh"


@click.group(cls=House, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="输出 JSON / print JSON")
@click.option("--lang", type=click.Choice(["zh", "en"]), default=_language, help="语言 / language")
@click.version_option(__version__, prog_name="tulou")
@click.pass_context
def main(ctx: click.Context, as_json: bool, lang: str) -> None:
    """土楼：一省数字基础设施，同在一个屋檐下。
    Tulou: one house for a province's digital infrastructure."""
    try:
        settings = Settings.load()
    except TulouError as error:
        click.secho(error.zh if lang == "zh" else error.en, fg="red", err=True)
        sys.exit(2)
    ctx.obj = Session(settings, as_json, lang)
    ctx.call_on_close(ctx.obj.close)


@main.command()
@click.option("--role", default=",".join(ROLES), show_default=True, help="本进程承担的角色 / roles of this process")
@click.pass_obj
def up(session: Session, role: str) -> None:
    """启动。Start the house and keep it running until Ctrl-C."""
    _run(session, role)


@main.command()
@click.option("--hub", help="中心地址，https://… / address of the hub, https://..")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="存有令牌的文件（tulou edges create）/ file that holds the token")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="验证中心证书的 CA 文件 / CA file for the hub's certificate")
@click.option("--role", default=",".join(ROLES), show_default=True, help="本进程承担的角色 / roles of this process")
@click.pass_obj
def edge(session: Session, hub: str | None, token_file: Path | None, ca: str | None, role: str) -> None:
    """作为中心的边缘节点启动；未给出者取自设置。Start the house as an edge of a hub; what is not given is taken from the settings
    edge_hub, edge_token and edge_ca."""
    given: dict[str, Any] = {"edge_hub": hub, "edge_token": token_file.read_text("utf-8").strip() if token_file else None, "edge_ca": ca}
    session.settings = dataclasses.replace(session.settings, **{name: value for name, value in given.items() if value})
    for name, option in (("edge_hub", "--hub"), ("edge_token", "--token-file")):
        if not getattr(session.settings, name):
            session.stop(f"缺少 {option}，也没有设置 {name}", f"{option} is missing, and so is the setting {name}", 2)
    _run(session, role)


def _run(session: Session, role: str) -> None:
    """Run the house with these roles until a signal ends it."""
    import uvloop

    from tulou.app import address
    from tulou.app import up as run

    roles = tuple(part.strip() for part in role.split(",") if part.strip())
    for name in roles:
        if name not in ROLES:
            raise click.BadParameter(f"{name}: {', '.join(ROLES)}", param_hint="--role")
    missing = [name for name in ("nats_url", "database_url") if not getattr(session.settings, name)]
    if not {"api", "writer"} & set(roles) and missing:
        session.stop(
            f"既不承担 api 也不承担 writer 的进程需要设置 {'、'.join(missing)}，否则它自成一家，收下的数据无人入库",
            f"a process without the roles api and writer needs {' and '.join(missing)}: alone it serves nobody, and nobody "
            "stores what it takes", 2,
        )
    logging.basicConfig(
        level=session.settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    for noisy in ("httpx", "nats", "alembic", "_granian"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if session.running():
        session.stop("这个数据目录里已有一座土楼在运行", "a house already runs in this home")
    began = time.monotonic()

    def ready(running: Running) -> None:
        seconds = time.monotonic() - began
        settings = running.settings
        if session.json:
            click.echo(orjson.dumps({"address": address(settings), "mqtt_port": settings.mqtt_port}).decode())
            return
        zh, en = [f"土楼已就绪，用时 {seconds:.1f} 秒。"], [f"Tulou is ready after {seconds:.1f} s."]
        if "api" in roles:
            zh.append(f"  控制台    {address(settings)}")
            en.append(f"  console   {address(settings)}")
        if "gateway" in roles and settings.mqtt_port:
            zh.append(f"  MQTT      {settings.bind}:{settings.mqtt_port}")
            en.append(f"  MQTT      {settings.bind}:{settings.mqtt_port}")
        secret = settings.home / "first-password"
        if secret.is_file():
            zh.append(f"  首个管理员 admin，口令 {secret.read_text().strip()}（首次登录须修改）")
            en.append(f"  first administrator: admin, password {secret.read_text().strip()} (changed at first sign-in)")
        click.echo("\n".join(zh if session.language == "zh" else en))
        sys.stdout.flush()

    try:
        uvloop.run(run(session.settings, roles, ready))
    except TulouError as error:
        session.stop(error.zh, error.en)


@contextlib.contextmanager
def progress(session: Session, total: int, label: str) -> Iterator[Any]:
    """A progress bar on standard error, silent with --json."""
    with click.progressbar(length=total, label=label, file=sys.stderr, hidden=session.json) as bar:
        yield bar
