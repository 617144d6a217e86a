"""Parameters of commands, as codecs declare them.

Law: apart from the kit, so that a gateway without field protocols does without pydantic.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def labelled(zh: str, en: str, **more: Any) -> Any:
    """A field of parameters with its label in two languages."""
    return Field(title=zh, json_schema_extra={"title_en": en}, **more)


class Params(BaseModel):
    """Parameters of a command; those that a frame names otherwise have that name as their alias."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class NoParams(Params):
    """A command without parameters."""
