"""A process that reads frames again and kills itself on the way: `python -m tests.access.redecoding HOME fill|run|check [STEP]`.

Law: the engine and the database are opened anew by each process, as after a crash; nothing is handed from one to the next but
the files.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import sqlalchemy as sa

from tests.access.test_redecode import Mended, Wrong, frames, oracle, stored
from tests.access.writing import CLASS, NOVEMBER, Pipe
from tulou.access.batch import Batch, BatchBuilder
from tulou.access.redecode import Redecoder, redecodes
from tulou.access.telemetry import ANY, Chunk, decode
from tulou.access.writer import Decoder, Gate
from tulou.kernel.readings import Reading, Readings, open_readings
from tulou.kernel.sql import Database, metadata, utcnow

HOUR = 3_600_000_000


async def fill(readings: Readings, db: Database) -> None:
    """Frames that a wrong codec read, each of whose readings is its own, and a run that waits."""
    metadata.create_all(db.engine)
    taken: set[tuple[int, str, int]] = set()
    for seq, (entity, raw) in enumerate(frames(42) + frames(43), 1):
        ours = {(entity, name, ts) for codec in (Wrong(), Mended()) for ts, values, _ in codec.decode(raw)[0] for name in values}
        if ours & taken:
            continue
        taken |= ours
        builder = BatchBuilder("toy")
        at = NOVEMBER + 100 * HOUR + seq
        decode([Chunk("toy", entity, CLASS, ANY, [raw], at, False, "toy", Wrong())], builder, at // 1000)  # type: ignore[arg-type]
        decoded = Decoder().decode([(seq, Batch.decode(builder.encode()))])
        await readings.insert(decoded.rows, decoded.frames, f"fill-{seq}")
    await db.write(lambda c: c.execute(redecodes.insert().values(
        protocol="toy", org="house", orgs=None, start=0, end=1 << 60, dry_run=False, state="queued", cancel=False, counts={},
        examples=[], error="", created_at=utcnow(), created_by="test",
    )) and None)


async def run(readings: Readings, db: Database, step: str) -> None:
    """Work the run off; with a step, die at its second time."""
    times = [0]

    def fault(at: str) -> None:
        times[0] += at == step
        if times[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    async def amended(latest: list[Reading], gone: dict[int, dict[str, int]]) -> None:
        return None

    row = await db.read(lambda c: c.execute(sa.select(redecodes)).one())
    await Redecoder(readings, db, Gate(), Mended(), lambda kind: ANY, {}, amended, most=7, fault=fault).run(row)  # type: ignore[arg-type]


async def check(home: Path, readings: Readings, db: Database) -> None:
    """Every table is as the mended codec would have made it."""
    pipe = Pipe(home, None, db, readings)  # type: ignore[arg-type]
    table = await readings.sql("SELECT seq, frame, entity, toUnixTimestamp64Micro(ts), raw FROM frames ORDER BY seq, frame")
    said = [(s, f, e, t, raw if isinstance(raw, bytes) else raw.encode()) for s, f, e, t, raw in table.rows]
    expected, found = oracle(said, Mended()), await stored(pipe)
    assert len(expected["readings"]) > 40
    for name in expected:
        assert found[name] == expected[name], name
    row = await db.read(lambda c: c.execute(sa.select(redecodes)).one())
    assert (row.state, row.pending, row.counts["frames"]) == ("done", None, len(said))


async def main(home: Path, what: str, step: str) -> None:
    readings, db = open_readings(f"chdb://{home / 'readings'}"), Database(f"sqlite:///{home / 'tulou.db'}")
    await readings.ensure_schema({})
    if what == "fill":
        await fill(readings, db)
    elif what == "run":
        await run(readings, db, step)
    else:
        await check(home, readings, db)
    await readings.close()
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
