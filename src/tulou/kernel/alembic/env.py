"""Alembic environment: runs inside a connection that the house hands over."""

from alembic import context

from tulou.kernel.sql import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
