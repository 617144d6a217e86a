"""`tulou demo`: a synthetic province over real MQTT connections, labelled everywhere, and taken away again."""

from __future__ import annotations

import subprocess

from .conftest import TULOU, Tulou, eventually


def test_the_demo_comes_and_goes(tulou: Tulou) -> None:
    def targets() -> list[object]:
        with tulou.sign_in() as client:
            return [(t["id"], t["value"], t["state"]) for t in client.get("/api/v1/plan/targets").json()]

    before = targets()
    answer = tulou.json("demo", "--devices", "40", "--rate", "2/s", "--history", "1", "--duration", "4")
    assert answer["devices"] == 40
    assert answer["synthetic"] is True
    assert answer["messages"] > 40 * 3
    with tulou.sign_in() as client:

        def things() -> list[dict[str, object]]:
            found = client.get("/api/v1/things", params={"q": "demo-", "synthetic": "1", "limit": 100}).json()["items"]
            return list(found)

        found = eventually(lambda: all(t["latest"] for t in things()) and things())
        assert len(found) == 40
        assert all(str(t["name"]).startswith("合成·") and t["synthetic"] for t in found)
        count = "SELECT count(), uniqExact(entity, property, ts), min(origin) FROM readings WHERE entity IN ({})"
        numbers = ",".join(str(t["no"]) for t in found)

        def stored() -> bool:
            """What was acknowledged is there, once (a message under way when the demo stopped may be, too)."""
            rows, unique, origin = client.post("/api/v1/readings/sql", json={"sql": count.format(numbers)}).json()["rows"][0]
            assert rows == unique >= answer["readings"], (rows, unique, answer)
            return bool(origin == 3)

        eventually(stored)
        assert targets() == before

        # Starting again makes nothing twice.
        again = tulou.json("demo", "--devices", "40", "--history", "0", "--duration", "1")
        assert again["devices"] == len(things()) == 40

        assert tulou.json("demo", "--remove") == {"removed": 40}
        eventually(lambda: not things())  # other engines hear of it within 200 ms
    assert tulou.json("demo", "--remove") == {"removed": 0}


def test_the_demo_says_what_is_wrong(tulou: Tulou) -> None:
    for arguments, said in (
        (["--rate", "often"], "1/s"),
        (["--cities", "atlantis"], "fuzhou"),
        (["--devices", "0"], "devices"),
    ):
        done = subprocess.run([*TULOU, "demo", *arguments], env=tulou.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert said in done.stderr


def test_the_bench_finds_every_message_and_leaves_nothing(tulou: Tulou) -> None:
    answer = tulou.json("bench", "--connections", "5", "--window", "20", "--seconds", "1")
    assert answer["synthetic"] is True
    assert answer["messages"] > 0
    assert answer["readings_missing"] == 0
    with tulou.sign_in() as client:
        eventually(lambda: not client.get("/api/v1/things", params={"q": "demo-bench-"}).json()["items"])
