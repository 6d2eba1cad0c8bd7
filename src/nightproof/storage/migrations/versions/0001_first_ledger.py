"""The first ledger: entries with their content in the clear, and no tree."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the entries' table of version 1."""
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "schema",
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "entries",
        sa.Column("seq", whole, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at_us", whole, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("idem", sa.LargeBinary()),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("payload", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_strict=True,
    )
    op.create_index("entries_id", "entries", ["id"])
    held = sa.text("idem IS NOT NULL")
    op.create_index("entries_idem", "entries", ["idem"], sqlite_where=held, postgresql_where=held)
