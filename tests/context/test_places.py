"""Questions about places have the same answers whether they are asked of the index of places or of every entity."""

from __future__ import annotations

import json
import random

import httpx
import pytest

from tulou.context import service


def square(lon: float, lat: float, half: float) -> str:
    corners = [[lon + x * half, lat + y * half] for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    return json.dumps([corners])


async def test_places_by_index_and_by_scan(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pick = random.Random(3)
    entities = []
    for number in range(120):
        lon, lat = 119 + pick.random(), 26 + pick.random()
        place = {"type": "Point", "coordinates": [lon, lat]}
        if number % 5 == 0:
            place = {"type": "Polygon", "coordinates": json.loads(square(lon, lat, pick.choice([0.01, 0.3])))}
        entities.append({
            "id": f"urn:x:{number}", "type": "Place" if number % 3 else "Other",
            **({"location": {"type": "GeoProperty", "value": place}} if number % 11 else {}),
        })
    assert (await api.post("/entityOperations/create", json=entities)).status_code == 201
    asked = [
        {"georel": georel, "geometry": "Polygon", "coordinates": square(119 + pick.random(), 26 + pick.random(), half)}
        for georel in ("within", "intersects", "disjoint", "overlaps") for half in (0.02, 0.2, 0.6)
    ] + [
        {"georel": f"near;maxDistance=={metres}", "geometry": "Point", "coordinates": "[119.5,26.5]"}
        for metres in (500, 20_000, 90_000)
    ]
    answers = []
    for chunk in (5000, 7):
        monkeypatch.setattr(service, "GEO_CHUNK", chunk)
        found = []
        for question in asked:
            answer = await api.get("/entities", params={"type": "Place", "limit": 1000, "count": "true", **question})
            assert answer.status_code == 200, answer.text
            ids = [entity["id"] for entity in answer.json()]
            assert answer.headers["ngsild-results-count"] == str(len(ids))
            page = await api.get("/entities", params={"type": "Place", "limit": 4, **question})
            assert [entity["id"] for entity in page.json()] == ids[:4]
            found.append(ids)
        answers.append(found)
    assert answers[0] == answers[1]
    assert max(map(len, answers[0])) > 40
