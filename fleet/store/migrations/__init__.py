"""How the tables have changed, for Alembic."""
