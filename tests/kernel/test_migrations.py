"""The revisions make exactly the tables that the code declares, on both stores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tulou.kernel.house import House
from tulou.kernel.migrate import configuration, heads, upgrade
from tulou.kernel.plugins import plugins
from tulou.kernel.sql import metadata

KERNEL_TABLES = {
    "organisations", "users", "role_bindings", "sessions", "tokens", "oidc_requests", "audit_log", "jobs", "job_lines",
    "workflow_items", "workflow_steps", "workflow_due", "ledger_accounts", "ledger_entries", "ledger_postings", "ledger_turnover",
}


async def test_revisions_and_metadata_agree(kernel: House) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True, "compare_server_default": True,
                "include_name": lambda name, kind, _parents: kind != "table" or name in KERNEL_TABLES,
                "include_object": lambda thing, name, kind, _reflected, _other: kind != "table" or name in KERNEL_TABLES,
            },
        )
        return list(compare_metadata(context, metadata))

    assert metadata.tables.keys() >= KERNEL_TABLES
    assert await kernel.db.read(differences) == []


async def test_upgrading_again_changes_nothing(kernel: House) -> None:
    upgrade(kernel.db, kernel.hooks.hook.migrations())
    assert await kernel.db.read(lambda c: len(sa.inspect(c).get_table_names())) >= len(KERNEL_TABLES)


async def test_the_last_revisions_are_found_without_alembic(kernel: House) -> None:
    folders = sorted(set(plugins().hook.migrations()))
    scripts = ScriptDirectory.from_config(configuration(folders))
    needed = {str(one.dependencies) for one in scripts.walk_revisions() if one.dependencies}  # the store notes them with what needs them
    assert heads(folders) == set(scripts.get_heads()) - needed
    mine = kernel.hooks.hook.migrations()
    assert {row[0] for row in await kernel.db.read(lambda c: c.execute(sa.text("SELECT version_num FROM alembic_version")).all())} == heads(mine)
