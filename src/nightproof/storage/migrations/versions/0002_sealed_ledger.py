"""The sealed ledger: columns to search by, data subjects, the tree's tiles, signed checkpoints.

The old entries wait in `entries_v1` for the store to adopt them; it drops that table when all are taken over.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Put the old entries aside and create the tables of version 2."""
    op.drop_index("entries_id", table_name="entries")
    op.drop_index("entries_idem", table_name="entries")
    op.rename_table("entries", "entries_v1")
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER INDEX entries_pkey RENAME TO entries_v1_pkey")
        op.create_table(
            "head",
            sa.Column("one", sa.Integer(), nullable=False, autoincrement=False),
            sa.Column("size", whole, nullable=False),
            sa.Column("root", sa.LargeBinary(), nullable=False),
            sa.CheckConstraint("one = 1"),
            sa.PrimaryKeyConstraint("one"),
        )
    op.create_table(
        "entries",
        sa.Column("seq", whole, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at_us", whole, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("kind", "service", "release", "caller", "ending", "failure")
        ),
        sa.Column("idem", sa.LargeBinary()),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("payload", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("seq"),
        sqlite_strict=True,
    )
    _index("id", ["id"])
    _index("idem", ["idem"], where="idem IS NOT NULL")
    _index("caller", ["caller", "at_us"])
    _index("service", ["service", "at_us"])
    _index("at", ["at_us"])
    _index("failure", ["failure", "at_us"], where="failure <> ''")
    _index("kind", ["kind", "at_us"], where="kind <> 'request'")
    op.create_table(
        "subjects",
        sa.Column("subject", sa.LargeBinary(), nullable=False),
        sa.Column("seq", whole, nullable=False),
        sa.PrimaryKeyConstraint("subject", "seq"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tiles",
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("place", whole, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "place"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", whole, nullable=False, autoincrement=False),
        sa.Column("at_us", whole, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("size"),
        sqlite_strict=True,
    )
    op.create_table(
        "edge",
        sa.Column("one", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("size", whole, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("one = 1"),
        sa.PrimaryKeyConstraint("one"),
        sqlite_strict=True,
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_strict=True,
    )


def _index(name: str, columns: list[str], *, where: str = "") -> None:
    only = sa.text(where) if where else None
    op.create_index(f"entries_{name}", "entries", columns, sqlite_where=only, postgresql_where=only)
