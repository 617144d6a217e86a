"""The process of one job: runs the kind's function and talks to the worker through a pipe.

Law: nothing here opens a store. Progress and log lines are sent and forgotten; a checkpoint is acknowledged, so what
`save` returned for is committed and will be handed to the next attempt.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from tulou.kernel.bus import die_with_parent


class Cancelled(Exception):
    """The job was cancelled; raised by `progress`, `save` and `check`."""


class JobContext:
    """What a job's function gets first. `checkpoint` is what the last attempt saved, or empty."""

    def __init__(self, pipe: Connection, checkpoint: Mapping[str, Any]) -> None:
        self.checkpoint = dict(checkpoint)
        self._pipe = pipe
        self._cancelled = False

    def check(self) -> None:
        """Raise `Cancelled` if the job has been cancelled."""
        while not self._cancelled and self._pipe.poll():
            self._cancelled = self._pipe.recv() == "cancel"
        if self._cancelled:
            raise Cancelled

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how much is done, and of how much. Raises `Cancelled`."""
        self._pipe.send(("progress", (done, total)))
        self.check()

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        self._pipe.send(("log", line))

    def save(self, checkpoint: Mapping[str, Any]) -> None:
        """Commit a JSON-able checkpoint; returns when it is durable. Raises `Cancelled`."""
        self.checkpoint = dict(checkpoint)
        self._pipe.send(("save", self.checkpoint))
        while True:
            answer = self._pipe.recv()
            if answer == "saved":
                break
            self._cancelled = answer == "cancel"
        self.check()


def main(pipe: Connection, module: str, name: str, checkpoint: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Run `module.name(context, **arguments)` and report how it ended."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function: Any = import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    context = JobContext(pipe, checkpoint)
    try:
        pipe.send(("done", function(context, **arguments)))
    except Cancelled:
        pipe.send(("cancelled", None))
    except BaseException as error:
        pipe.send(("failed", (f"{type(error).__name__}: {error}", traceback.format_exc(limit=20))))
    finally:
        pipe.close()
