"""How the form of a stored ledger changed over time, and how an old one is taken into the present form.

Each file in `versions/` is an Alembic revision: one step of the schema, for SQLite and for PostgreSQL. Alembic
renders the steps as SQL and the store runs them itself, through its own driver and its own durable
transaction: no second SQLite library ever touches the file, and a step is whole or absent.

A promise to everyone who signed or kept something of a log: **no step after 0002 changes stored bytes.** Leaves
and payloads are what the tree and its signatures speak of; a step may add tables, columns and indexes, and may
move rows, but must give back every leaf and payload byte for byte. `rendered` cannot judge that, so whoever
runs a step compares a digest of all of them before and after, and refuses the step where they differ.

Alembic takes a quarter of a second to import, and is imported only when a step is due.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

VERSIONS = Path(__file__).parent / "versions"


def rendered(
    dialect: Literal["sqlite", "postgresql"], have: int, want: int, *, versions: Path = VERSIONS
) -> str:
    """Return the SQL statements that take a schema from one version to another; from 0 for an empty place."""
    import io

    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(versions.parent), version_locations=[str(versions)])
    steps = [step for step in script.walk_revisions() if have < int(step.revision) <= want]
    written = io.StringIO()
    context = MigrationContext.configure(
        dialect_name=dialect, opts={"as_sql": True, "output_buffer": written, "literal_binds": True}
    )
    with Operations.context(context):
        for step in reversed(steps):
            step.module.upgrade()
    return written.getvalue()


def newest(*, versions: Path = VERSIONS) -> int:
    """Return the highest version that there is a step for."""
    return max(int(one.name[:4]) for one in versions.glob("[0-9][0-9][0-9][0-9]_*.py"))
