"""The temporal representation of entities: provided history, what writes leave, and how it is asked for."""

from __future__ import annotations

from typing import Any

import httpx


async def test_scope_debug(api: httpx.AsyncClient) -> None:
    await api.post("/temporal/entities", json={"id": "urn:x:1", "type": "Vehicle", "scope": [
        {"type": "Property", "value": "/A/B", "observedAt": "2026-03-01T10:00:00Z"}],
        "speed": [{"type": "Property", "value": 1, "observedAt": "2026-03-01T12:05:00Z"}]})
    answer = await api.get("/temporal/entities", params={"type": "Vehicle", "scopeQ": "/A/#", "timerel": "after", "timeAt": "2026-03-01T12:00:00Z"})
    print(answer.status_code, answer.text)
    assert 0
