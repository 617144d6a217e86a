"""A real house on the loopback for a suite that knows nothing of tokens.

Law: only who asks is arranged here; every request runs through the house's own door, services, policy and stores. A
request without credentials is a steward of one organisation: the one that `NGSILD-Tenant` names, else `suite`. An
organisation that a tenant header names for the first time is admitted first, as an operator of the house would.
Contexts that the suite takes from the web are stored under their addresses beforehand, since the house fetches none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
from pathlib import Path
from typing import Any

import uvloop

from tulou.app import Running
from tulou.context.ldcontexts import StoredContexts
from tulou.kernel.organisations import Organisations
from tulou.kernel.organisations.models import Application
from tulou.kernel.policy import ROOT, Actor, Binding
from tulou.kernel.settings import Settings

DEFAULT = "suite"
TENANT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _admin(name: str) -> Actor:
    return Actor(f"user:{name}", name, ROOT, "user", frozenset({Binding(ROOT, "platform_admin", True)}), None, f"user:{name}")


class Stewards:
    """Whoever shows no credentials is the steward of the tenant he names."""

    def __init__(self, organisations: Organisations) -> None:
        self.organisations = organisations
        self.lock = asyncio.Lock()

    async def actor_of(self, scope: Any) -> Actor | None:
        wanted = next((value.decode() for name, value in scope["headers"] if name == b"ngsild-tenant"), DEFAULT)
        org = wanted if TENANT.fullmatch(wanted) else DEFAULT
        # Deleting from a tenant, or reading it, must not make it.
        if scope["method"] in ("POST", "PUT", "PATCH") or org == DEFAULT:
            await self.admit(org)
        if org not in self.organisations.rows:
            org = DEFAULT  # somebody of the house who names a tenant that is not there
        return Actor(f"user:{org}", org, org, "user", frozenset({Binding(org, "steward")}), None, f"user:{org}")

    async def admit(self, org: str) -> None:
        async with self.lock:
            if org not in self.organisations.rows:
                await self.organisations.apply(
                    _admin("clerk"), Application(id=org, name_zh=org, name_en=org, kind="enterprise")
                )
                await self.organisations.approve(_admin("director"), org)


async def serve(options: argparse.Namespace) -> None:
    settings = Settings(home=options.home, http_port=options.port, mqtt_port=0, admin_password="not-used-here-1308",
                        public_url=options.public_url,
                        **{"outbound_allow": "127.0.0.0/8,localhost", **json.loads(options.settings)})
    running = Running(settings, ("api", "writer", "worker"))
    await running.start()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        stewards = Stewards(running.house.service(Organisations))
        await stewards.admit(DEFAULT)
        running.house.authenticator = stewards
        stored = running.house.service(StoredContexts)
        for url, path in json.loads(options.contexts).items():
            with contextlib.suppress(Exception):
                await stored.add(_admin("clerk"), json.loads(Path(path).read_text()), tenant=ROOT, url=url)
        print("ready", flush=True)
        await stop.wait()
    finally:
        await running.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--public-url", default="")
    parser.add_argument("--contexts", default="{}", help="JSON: address -> file")
    parser.add_argument("--settings", default="{}", help="JSON: further settings")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
