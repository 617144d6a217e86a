"""Stands in for demjson3, a dependency of frost_sta_client that has no wheel: the two functions that jsonpickle asks of it.

Law: for tests, and only where the real one is not installed. The client itself is unmodified.
"""

from __future__ import annotations

import json
from typing import Any


class JSONDecodeError(ValueError):
    """What demjson3 raises."""


def encode(value: Any, **_options: Any) -> str:
    """The JSON of a value."""
    return json.dumps(value)


def decode(text: str, **_options: Any) -> Any:
    """The value of JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise JSONDecodeError(str(error)) from error
