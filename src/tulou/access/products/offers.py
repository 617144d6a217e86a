"""Which entity types an organisation has: those of packs, its own products, and those of the organisations above it.

Law: a type that is not offered is answered like one that there is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tulou.access.products.tables import above
from tulou.kernel.errors import Invalid
from tulou.kernel.packs import Model
from tulou.kernel.policy import Orgs

if TYPE_CHECKING:
    from tulou.kernel.house import House


def offered(house: House, orgs: Orgs) -> Mapping[str, Model]:
    """The models of types that these organisations have."""
    packs = house.packs
    if orgs.all or not packs.org_of:
        return packs.models
    mine = above(house.policy, orgs)
    return {name: model for name, model in packs.models.items() if name not in packs.org_of or packs.org_of[name] in mine}


def must_offer(house: House, kind: str, org: str) -> Model:
    """The model of a type that `org` has. Raises `Invalid`."""
    model = house.packs.models.get(kind)
    declared_by = house.packs.org_of.get(kind)
    if model is None or (declared_by is not None and declared_by not in house.policy.ancestors(org)):
        raise Invalid(
            f"类型 {kind} 不是任何包的模型，也不是 {org} 的产品", f"type {kind} is not a model of any pack, nor a product of {org}",
            field="type", value=kind, rule="model of a pack, or product",
        )
    return model
