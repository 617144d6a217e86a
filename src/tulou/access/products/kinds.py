"""What a gateway needs to know of a model, and where it reads the products.

Law: no model is validated here, and nothing is imported for it: what is stored was checked when it was declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tulou.access.telemetry import Rules

PRODUCTS = "SELECT name, model FROM products"


def kind_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's document (`kernel.packs.Model` as JSON) in the form that a gateway is given: {open, offline_after_s, properties:
    {name: [kind, min, max]}, lwm2m: {path: name}, codes: {protocol: {code: [name, scale, offset]}}}."""
    properties: Mapping[str, Mapping[str, Any]] = model["properties"]
    codes: dict[str, dict[str, list[Any]]] = {}
    for name, p in properties.items():
        for protocol, code in p.get("codes", {}).items():
            codes.setdefault(protocol, {})[code] = [name, p.get("scale", 1.0), p.get("offset", 0.0)]
    return {
        "open": model["open"], "offline_after_s": model["offline_after_s"],
        "properties": {name: [p["kind"], p["min"], p["max"]] for name, p in properties.items()},
        "lwm2m": {p["lwm2m"]: name for name, p in properties.items() if p["lwm2m"]}, "codes": codes,
    }


def rules_of(kind: Mapping[str, Any]) -> Rules:
    """The rules of a model in that form."""
    return Rules(
        {name: (of, low, high) for name, (of, low, high) in kind["properties"].items()}, open=kind["open"],
        codes={
            protocol: {code: (name, scale, offset) for code, (name, scale, offset) in known.items()}
            for protocol, known in kind.get("codes", {}).items()
        },
    )
