"""The console: the built single-page application, served from this package.

Law: nothing here knows the API; the pages speak `/api/v1` like anybody else. Every file comes from this machine.
Assets carry a hash in their name and never change, so browsers keep them for a year; the page itself is asked for
again each time and answered with 304 while it is the same.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

STATIC = Path(str(files("tulou.console"))) / "static"

PAGES = (
    "things",
    "entities",
    "plan",
    "organisations",
    "packs",
    "people",
    "tokens",
    "alarms",
    "rules",
    "dead-letters",
    "audit",
    "system",
    "jobs",
    "provisioning",
    "products",
    "edges",
    "indicators",
    "items",
    "rollouts",
    "screen",
)
"""First parts of the addresses of pages (console/src/app.tsx); every one is answered with index.html."""

ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"

MISSING = """<!doctype html>
<html lang="zh-CN"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>土楼 Tulou</title>
<style>body{font:16px/1.7 sans-serif;max-width:36em;margin:15vh auto;padding:0 1em}code{background:#8882;padding:2px 6px}
</style>
<h1>土楼 Tulou</h1>
<p>服务正在运行，但控制台尚未构建。请在代码目录运行 <code>python -m tulou.console.build</code>，然后刷新本页。</p>
<p lang="en">The house is running, but its console has not been built. Run <code>python -m tulou.console.build</code>
in the source folder, then reload this page.</p>
</html>
"""


@dataclass(frozen=True)
class Asset:
    """A file to serve, with its compressed forms by encoding name."""

    path: Path
    media: str
    etag: str
    cache: str
    forms: dict[str, Path] = field(default_factory=dict)

    def response(self, request: Request) -> Response:
        """The file in the best form that the browser accepts, or 304 if it has it."""
        headers = {"cache-control": self.cache, "etag": self.etag}
        if self.forms:
            headers["vary"] = "accept-encoding"
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        accepted = _accepted(request.headers.get("accept-encoding", ""))
        for name, path in self.forms.items():
            if name in accepted:
                return FileResponse(path, media_type=self.media, headers={**headers, "content-encoding": name})
        return FileResponse(self.path, media_type=self.media, headers=headers)


def _accepted(header: str) -> set[str]:
    """Encodings of an Accept-Encoding header that are not refused by `q=0`."""
    result = set()
    for item in header.split(","):
        name, _, weight = item.partition(";")
        if weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            result.add(name.strip().lower())
    return result


class Console:
    """The assets below a folder, by address; read again when the folder was built anew."""

    def __init__(self, static: Path = STATIC) -> None:
        self.static = static
        self._built = 0
        self._assets: dict[str, Asset] = {}

    def assets(self) -> dict[str, Asset]:
        """Address -> asset; empty when nothing has been built."""
        try:
            built = (self.static / "index.html").stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if built != self._built:
            self._assets = {"/" + asset.path.relative_to(self.static).as_posix(): asset for asset in self._find()}
            self._built = built
        return self._assets

    def _find(self) -> list[Asset]:
        found = []
        for path in sorted(self.static.rglob("*")):
            if not path.is_file() or path.name.startswith(".") or path.suffix in (".br", ".gz"):
                continue
            media = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            if path.suffix in (".js", ".mjs"):
                media = "text/javascript"
            forms = {name: form for name, suffix in ENCODINGS if (form := path.with_name(path.name + suffix)).is_file()}
            etag = '"' + hashlib.sha256(path.read_bytes()).hexdigest()[:24] + '"'
            cache = FOREVER if path.parent.name == "assets" else ASK_AGAIN
            found.append(Asset(path, media, etag, cache, forms))
        return found

    async def page(self, request: Request) -> Response:
        """The application, or word of how to build it."""
        index = self.assets().get("/index.html")
        if index is None:
            return HTMLResponse(MISSING, 503, {"cache-control": "no-store"})
        return index.response(request)

    async def file(self, request: Request) -> Response:
        """An asset by its address, or 404."""
        path = request.url.path
        asset = self.assets().get("/tulou.svg" if path == "/favicon.ico" else path)
        if asset is None:
            return Response("Not found", 404, {"cache-control": "no-store"}, "text/plain")
        return asset.response(request)

    def routes(self) -> list[Route]:
        """Pages answer with the application, everything else by its name."""
        pages = [Route("/", self.page, methods=["GET"])]
        for name in PAGES:
            pages.append(Route(f"/{name}", self.page, methods=["GET"]))
            pages.append(Route(f"/{name}/{{rest:path}}", self.page, methods=["GET"]))
        names = ("/assets/{name}", "/boot.js", "/tulou.svg", "/favicon.ico")
        return [*pages, *[Route(name, self.file, methods=["GET"]) for name in names]]
