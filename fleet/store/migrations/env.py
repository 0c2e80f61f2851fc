"""Alembic runs this; the connection comes from `fleet.store.database.migrate`."""

from __future__ import annotations

from alembic import context

from fleet.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True, transaction_per_migration=False
)
context.run_migrations()
