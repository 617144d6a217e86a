"""Packs: folders with a `pack.yaml` by which a field moves into the house: entity models, organisations, and sections of engines."""

from tulou.kernel.packs.collection import LeftOut, Pack, Packs, Section, read_pack, refused
from tulou.kernel.packs.models import (
    Bound,
    Command,
    Declaration,
    Model,
    Name,
    OrganisationSeed,
    Property,
    Strict,
    Text,
    Threshold,
    check_values,
)
from tulou.kernel.packs.reading import Problem, Unreadable, broken

__all__ = [
    "Bound", "Command", "Declaration", "LeftOut", "Model", "Name", "OrganisationSeed", "Pack", "Packs", "Problem", "Property", "Section", "Strict",
    "Text", "Threshold", "Unreadable", "broken", "check_values", "read_pack", "refused",
]
