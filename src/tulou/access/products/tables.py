"""The table of products, the request bodies, and what of it a process holds.

Law: a product is a model under the rules of packs (`kernel.packs.Model`), of one organisation; its name is the house's. It is kept as
people wrote it; the IRIs that its names have in the house are put in when it is read.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tulou.context import fitted, terms_of
from tulou.kernel.packs import Model, Name, Packs
from tulou.kernel.policy import Orgs, Policy
from tulou.kernel.sql import BigId, UtcDateTime, metadata

log = logging.getLogger("tulou.access.products")

products = sa.Table(
    "products", metadata,
    sa.Column("no", BigId, primary_key=True),
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("org", sa.String(64), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("settled", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("created_by", sa.String(128), nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("updated_by", sa.String(128), nullable=False),
    sa.Index("ix_products_org", "org"),
)
"""`model` and `settled` are JSON; `settled` has kind and IRI by property, also of those that were taken out, since there are
entities of the type: they stay, because what is stored rests on them."""


class NewProduct(BaseModel):
    """A product."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(min_length=1, max_length=64)
    name: Name
    model: Model


class ProductChange(BaseModel):
    """What a product says from now on, in the place of the version that was seen."""

    model_config = ConfigDict(extra="forbid")

    model: Model
    version: int = Field(ge=1)


class Draft(BaseModel):
    """A product that is not made yet, or a change of the `version` that was seen, as far as it is written."""

    model_config = ConfigDict(extra="forbid")

    org: str = Field(max_length=64)
    name: str = Field(max_length=256)
    model: Any
    version: int | None = None


@functools.lru_cache(10_000)
def model_of(text: str) -> Model:
    """The model of a row's text. Raises `ValidationError` where another version of the house made it."""
    return Model.model_validate_json(text)


def document_of(model: Model) -> bytes:
    """A model as it is stored."""
    return orjson.dumps(model.model_dump(mode="json"))


def names_of(name: str, model: Model) -> dict[str, list[str]]:
    """Kind and IRI of the type (under an empty name) and its properties."""
    return {"": ["type", model.iri], **{key: [p.kind, p.iri] for key, p in model.properties.items()}}


def declared(rows: Iterable[Any], packs: Packs) -> dict[str, tuple[str, Model]]:
    """What `House.declare` takes: organisation and model by name. Names have the IRIs of packs, then of products as they came."""
    found: dict[str, tuple[str, Model]] = {}
    terms = terms_of(packs.own)
    for row in rows:
        if row.name in packs.own:
            log.error("type %s is pack %s's: the product of %s is left out", row.name, packs.pack_of[row.name], row.org)
            continue
        try:
            model = fitted(row.name, model_of(row.model), terms)
        except ValidationError as error:
            log.error("product %s is left out: %s", row.name, error)
            continue
        found[row.name] = row.org, model
        for term, iri in terms_of({row.name: model}).items():
            terms.setdefault(term, iri)
    return found


def every_product() -> sa.Select[Any]:
    """All rows, in the order in which they came."""
    return sa.select(products).order_by(products.c.no)


def above(policy: Policy, orgs: Orgs) -> Orgs:
    """These organisations and those above them: what products they may use and see."""
    return orgs if orgs.all else Orgs(False, frozenset(one for org in orgs.ids for one in policy.ancestors(org)))
