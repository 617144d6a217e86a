"""Schema of the relational store: Alembic revisions, one folder per engine, all heads applied.

Law: tables change only by revisions; a test compares what the revisions make with `metadata` on both stores. Alembic is
imported when there is something to do: that is a quarter of a second of every start.
"""

from __future__ import annotations

import ast
import re
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


def heads(folders: Iterable[Path]) -> set[str]:
    """The revisions that no other follows, as the files of `folders` say them."""
    revisions: set[str] = set()
    followed: set[str] = set()
    for path in (path for folder in folders for path in folder.glob("*.py")):
        for name, value in re.findall(r"^(revision|down_revision|depends_on)\b[^=\n]*=\s*(.+)$", path.read_text("utf-8"), re.M):
            said = ast.literal_eval(value)
            (revisions if name == "revision" else followed).update([said] if isinstance(said, str) else said or ())
    return revisions - followed


def upgrade(db: Database, folders: Iterable[Path]) -> None:
    """Apply every revision that is missing. Quick when there is none."""
    folders = sorted(set(folders))
    with db.engine.connect() as connection:
        if sa.inspect(connection).has_table("alembic_version"):
            current = {row[0] for row in connection.execute(sa.text("SELECT version_num FROM alembic_version"))}
            if current == heads(folders):
                return
    from alembic import command

    config = configuration(folders)
    with db.engine.begin() as connection:
        if db.dialect == "postgresql":  # processes that start at the same moment; SQLite's begin is a lock itself
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
