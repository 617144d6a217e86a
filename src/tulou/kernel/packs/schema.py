"""The JSON Schema (draft 2020-12) of `pack.yaml`, made from the types that check it.

Law: what the schema refuses, the types refuse; the types say more (what one key has to do with another, what is elsewhere in the house).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, create_model

from tulou.kernel.packs.collection import Section
from tulou.kernel.packs.models import Declaration

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_File = Annotated[str, Field(min_length=1, max_length=200, description="a YAML file of the pack that holds the value")]


def schema(sections: Mapping[str, Section]) -> dict[str, Any]:
    """The schema of `pack.yaml` with these sections."""
    fields: dict[str, Any] = {name: (_File | section.type, Field(default=None)) for name, section in sorted(sections.items())}
    pack = create_model("Pack", __base__=Declaration, **fields)
    said: dict[str, Any] = pack.model_json_schema()
    for name in sections:
        said["properties"][name].pop("default", None)
    return {
        "$schema": DIALECT, "$id": "urn:tulou:schema:pack", **said, "title": "pack.yaml",
        "description": "A pack of Tulou. In place of a section may stand the name of the YAML file that holds it.",
    }
