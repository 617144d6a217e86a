"""Schema of the relational store: Alembic revisions, one folder per engine, all heads applied.

Law: tables change only by revisions; a test compares what the revisions make with `metadata` on both stores. Alembic is
imported when it is needed: commands that speak to a running house do without.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tulou.kernel.sql import Database

if TYPE_CHECKING:
    from alembic.config import Config


LOCK = 0x7475_6C6F_76
"""Key of the PostgreSQL advisory lock under which tables are made and changed."""


def configuration(folders: Iterable[Path]) -> Config:
    """An Alembic configuration over the given revision folders."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(f) for f in folders))
    return config


def upgrade(db: Database, folders: Iterable[Path]) -> None:
    """Apply every revision that is missing. Quick when there is none."""
    from alembic import command
    from alembic.script import ScriptDirectory

    config = configuration(sorted(set(folders)))
    heads = set(ScriptDirectory.from_config(config).get_heads())
    with db.engine.connect() as connection:
        if sa.inspect(connection).has_table("alembic_version"):
            current = {row[0] for row in connection.execute(sa.text("SELECT version_num FROM alembic_version"))}
            if current == heads:
                return
    with db.engine.begin() as connection:
        if db.dialect == "postgresql":  # processes that start at the same moment; SQLite's begin is a lock itself
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
