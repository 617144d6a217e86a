"""Devices by the hundred thousand: `tulou device import` of a Parquet file, and what lists and searches then take.

Law: a house in processes of its own, as a user starts it; the import is the command itself, with its file of tokens.
Beside it, in the same run, the same rows are put into a bare SQLite table with one transaction a thousand: what the
machine can do at most.

    python bench/devices.py --devices 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from tulou.kernel.bus import free_port


def rows(start: int, end: int) -> dict[str, list[Any]]:
    """Synthetic street lights, and says so."""
    numbers = range(start, end)
    return {
        "org": ["quanzhou"] * len(numbers), "type": ["StreetLight"] * len(numbers),
        "name": [f"合成路灯 {n:07}" for n in numbers], "id": [f"light-{n}" for n in numbers],
        "lon": [117.6 + n % 1000 * 0.0016 for n in numbers], "lat": [24.6 + n // 1000 % 1000 * 0.0016 for n in numbers],
        "synthetic": [True] * len(numbers),
    }


def bare(file: Path, folder: Path) -> float:
    """Rows a second into one SQLite table with a unique id, synced each thousand."""
    with sqlite3.connect(folder / "bare.db", isolation_level=None) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE d (no INTEGER PRIMARY KEY, org, type, name, id UNIQUE, lon, lat, synthetic)")
        table = pq.ParquetFile(file)
        began = time.perf_counter()
        for batch in table.iter_batches(1000):
            db.execute("BEGIN")
            db.executemany("INSERT INTO d (org,type,name,id,lon,lat,synthetic) VALUES (?,?,?,?,?,?,?)",
                           zip(*(column.to_pylist() for column in batch.columns), strict=True))
            db.execute("COMMIT")
        return float(table.metadata.num_rows / (time.perf_counter() - began))


def memory(pid: int) -> str:
    """Of a process: the most it held, and what of it is its own now (SQLite's mapped pages are not)."""
    found = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    most, own = (int(found[name].split()[0]) / 2**20 for name in ("VmHWM", "RssAnon"))
    return f"house: {most:.2f} GiB resident at most, {own:.2f} GiB of its own now"


def timed(client: httpx.Client, path: str, times: int = 20, **params: Any) -> float:
    """Median ms of a GET."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        client.get(path, params=params).raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--devices", type=int, default=100_000)
    count = parser.parse_args().devices
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, home = folder / "devices.parquet", folder / "home"
        with pq.ParquetWriter(file, pa.Table.from_pydict(rows(0, 1)).schema) as writer:
            for start in range(0, count, 50_000):
                writer.write_table(pa.Table.from_pydict(rows(start, min(start + 50_000, count))))
        most = bare(file, folder)
        env = {**os.environ, "TULOU_HOME": str(home), "TULOU_HTTP_PORT": str(free_port()), "TULOU_MQTT_PORT": "0",
               "TULOU_LANG": "en"}
        tulou = [sys.executable, "-m", "tulou"]
        house = subprocess.Popen([*tulou, "up"], env=env, stdout=subprocess.PIPE, stderr=(folder / "log").open("w"))
        try:
            assert house.stdout is not None
            house.stdout.readline()
            for what in ("import", "import of the same again"):
                began = time.perf_counter()
                subprocess.run([*tulou, "--json", "device", "import", str(file), "--out", str(folder / "out.csv")], env=env,
                               check=True, stdout=subprocess.DEVNULL)
                seconds = time.perf_counter() - began
                print(f"{what}: {count:,} devices in {seconds:.1f} s, {count / seconds:,.0f}/s"
                      f" ({count / seconds / most:.3f} of a bare SQLite table's {most:,.0f}/s); {memory(house.pid)}", flush=True)
            found = json.loads((home / "run.json").read_text())
            headers = {"authorization": f"Bearer {found['token']}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{env['TULOU_HTTP_PORT']}/api/v1", headers=headers, timeout=60) as client:
                last = f"{count - 1:07}"
                for label, path, params in (
                    ("devices, first page", "/devices", {}), ("devices, by name", "/devices", {"q": last}),
                    ("things, first page", "/things", {}), ("things, by name with count", "/things", {"q": last, "count": "true"}),
                    ("one device", f"/devices/quanzhou:light-{count // 2}", {}),
                ):
                    print(f"{label}: {timed(client, path, **params):.1f} ms (median of 20)", flush=True)
        finally:
            house.terminate()
            house.wait(60)


if __name__ == "__main__":
    main()
