"""`tulou demo`: run a labelled synthetic province against the running house, or take it away again."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import httpx

from tulou.demo.province import CITIES, Device, House, Traffic, devices

PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0}
HISTORY_EVERY = 600.0
"""Seconds between the messages of the past that `--history` publishes."""


def period(_ctx: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Seconds between two messages of a device, of a rate such as `1/s` or `6/min`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h)", text)
    if not match or float(match[1]) <= 0:
        raise click.BadParameter(f"{text}：应如 1/s、6/min、60/h / must be like 1/s, 6/min, 60/h")
    return PERIODS[match[2]] / float(match[1])


def names(_ctx: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    """Cities by id, comma-separated; all of them when empty."""
    wanted = tuple(part.strip() for part in text.split(",") if part.strip()) or CITIES
    for city in wanted:
        if city not in CITIES:
            raise click.BadParameter(f"{city}：应为 / must be one of {', '.join(CITIES)}")
    return wanted


@click.command()
@click.option("--devices", "count", default=300, show_default=True, type=click.IntRange(1, 50_000), help="设备数 / devices")
@click.option("--rate", "every", default="6/min", show_default=True, callback=period, help="每台设备的消息 / messages per device: 1/s, 6/min, 60/h")
@click.option("--cities", default="", callback=names, help="城市，逗号分隔，默认全部 / cities by id, all by default")
@click.option("--history", "hours", default=24.0, show_default=True, type=click.FloatRange(0, 720), help="先补多少小时的历史 / hours of history to publish first")
@click.option("--duration", "seconds", default=0.0, help="多少秒后停止，0 为直到 Ctrl-C / stop after so many seconds; 0: until Ctrl-C")
@click.option("--seed", default="tulou", show_default=True, help="随机种子 / random seed")
@click.option("--remove", is_flag=True, help="删除全部演示设备、实体及其读数 / remove every demo device and entity, and their readings")
@click.pass_obj
def demo(
    session: Any, count: int, every: float, cities: tuple[str, ...], hours: float, seconds: float, seed: str, remove: bool
) -> None:
    """演示：用真实的 MQTT 连接运行一个合成的省（处处标明合成，不计入任何目标）。
    Run a synthetic province over real MQTT connections (labelled everywhere, counts towards no target)."""
    run = session.running()
    if run is None:
        session.stop("土楼没有运行：请先 tulou up", "the house is not running: start it with `tulou up`", 3)
    if not remove and not session.settings.mqtt_port:
        session.stop("MQTT 端口已关闭（TULOU_MQTT_PORT=0）", "the MQTT port is closed (TULOU_MQTT_PORT=0)")
    bind = session.settings.bind
    host = "127.0.0.1" if bind in ("0.0.0.0", "::", "") else bind  # noqa: S104
    try:
        if remove:
            answer = asyncio.run(_remove(session, run))
        else:
            answer = asyncio.run(_run(session, run, (host, session.settings.mqtt_port), count, every, cities, hours, seconds, seed))
    except (RuntimeError, OSError, httpx.HTTPError) as error:
        session.stop(str(error) or repr(error), str(error) or repr(error))
    session.output(answer)


async def _remove(session: Any, run: dict[str, Any]) -> dict[str, Any]:
    async with House(run["address"], run["token"]) as house:
        gone = await house.remove(_line(session, "删除", "removing"))
    return {"removed": gone}


async def _run(
    session: Any, run: dict[str, Any], mqtt: tuple[str, int], count: int, every: float, cities: Sequence[str],
    hours: float, seconds: float, seed: str,
) -> dict[str, Any]:
    async with House(run["address"], run["token"]) as house:
        _, centres = await house.centres()
        wanted = devices(count, cities, seed, centres)
        show, done = _line(session, "登记设备", "registering devices"), 0

        def registered(n: int) -> None:
            nonlocal done
            done += n
            show(done, count)

        tokens = await house.register(wanted, registered)
    traffic = Traffic(*mqtt, tokens, seed)
    if hours:
        await _history(session, traffic, wanted, hours)
    began, sent = time.monotonic(), traffic.messages
    tasks = [
        asyncio.create_task(traffic.live(device, every, every * i / len(wanted))) for i, device in enumerate(wanted)
    ]
    await _watch(session, traffic, tasks, seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    lasted = time.monotonic() - began
    return {
        "devices": count, "synthetic": True, "messages": traffic.messages, "readings": traffic.readings,
        "seconds": round(lasted, 1), "messages_per_second": round((traffic.messages - sent) / lasted, 1),
    }


async def _history(session: Any, traffic: Traffic, wanted: Sequence[Device], hours: float) -> None:
    show, done = _line(session, "补历史数据", "publishing history"), 0
    room = asyncio.Semaphore(50)

    async def one(device: Device) -> None:
        nonlocal done
        async with room:
            await traffic.history(device, hours, HISTORY_EVERY)
        done += 1
        show(done, len(wanted))

    await asyncio.gather(*(one(device) for device in wanted))


async def _watch(session: Any, traffic: Traffic, tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Show progress once a second for `seconds` (0: until Ctrl-C), or until a device's task ends with a defect."""
    until = time.monotonic() + (seconds or math.inf)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    last = traffic.messages
    while not stop.is_set() and (left := until - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1, left)):
                await stop.wait()
        for task in tasks:
            if task.done():
                task.result()
        if not session.json:
            rate, last = traffic.messages - last, traffic.messages
            zh = f"合成：在线 {traffic.connected} 台，已确认 {traffic.messages} 条（{traffic.readings} 个读数），{rate} 条/秒"
            en = (
                f"synthetic: {traffic.connected} online, {traffic.messages} messages acknowledged "
                f"({traffic.readings} readings), {rate}/s"
            )
            _rewrite(session.text(zh, en))
    if not session.json:
        click.echo(err=True)


def _line(session: Any, zh: str, en: str) -> Callable[[int, int], None]:
    """A progress line on standard error, silent with --json."""

    def show(done: int, total: int) -> None:
        if not session.json:
            _rewrite(f"{session.text(zh, en)} {done}/{total}", last=done == total)

    return show


def _rewrite(text: str, last: bool = False) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", err=True, nl=last)
    elif last:
        click.echo(text, err=True)
