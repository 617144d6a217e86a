"""Kinds of jobs for the tests; imported again in each job's process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tulou.kernel.jobs import JobContext


def add(context: JobContext, a: int, b: int) -> dict[str, int]:
    context.log(f"adding {a} and {b}")
    context.progress(1, 1)
    return {"sum": a + b}


def break_down(context: JobContext) -> None:
    raise ValueError("of no use")


def endless(context: JobContext, started: str, deaf: bool = False) -> None:
    Path(started).touch()
    while True:
        time.sleep(0.02)
        if not deaf:
            context.check()


def steps(context: JobContext, record: str, die_at: int) -> dict[str, Any]:
    """Ten steps, each noted in the file `record`; kills itself once, before it does step `die_at`."""
    began = context.checkpoint.get("done", 0)
    for step in range(began, 10):
        if step == die_at and began == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(record).open("a") as file:
            file.write(f"{step}\n")
        context.save({"done": step + 1})
        context.progress(step + 1, 10)
    return {"began": began}


def always_dies(context: JobContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def chatty(context: JobContext) -> None:
    for n in range(1500):
        context.log(f"line {n}")
