"""Products: models of entity types that an organisation's people declare while the house runs."""
