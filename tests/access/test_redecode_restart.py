"""A run whose process was killed with -9, again and again, ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path


async def process(home: Path, *arguments: str) -> int:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.access.redecoding", str(home), *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await child.communicate()
    assert child.returncode is not None
    assert child.returncode in (0, -signal.SIGKILL), said.decode()
    return child.returncode


async def test_a_run_that_was_killed_with_9_goes_on_to_the_same_end(tmp_path: Path) -> None:
    assert await process(tmp_path, "fill") == 0
    for step in ("stated", "amended", "hours", "areas"):
        assert await process(tmp_path, "run", step) == -signal.SIGKILL
    assert await process(tmp_path, "run") == 0
    assert await process(tmp_path, "check") == 0
