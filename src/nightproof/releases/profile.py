"""Put a table of reference data into figures: counts, quantiles, frequent values, by column.

Called in a process of its own (`releases.inspect`), never by the server. Says nothing of single rows: a value is
named only where it comes often, and columns that are marked as sensitive, or that name people, are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FORM = 1
MOST_ROWS = 1_000_000
MOST_COLUMNS = 1_000
EDGES = 20
TOP = 64
OFTEN = 5
"""Rows in which a value must come to be named."""


def profile(path: Path, hidden: frozenset[str]) -> dict[str, Any]:
    """Return the figures of a Parquet file; `hidden` names columns that are only counted."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    names = file.schema_arrow.names[:MOST_COLUMNS]
    batches, rows = [], 0
    for batch in file.iter_batches(columns=names):
        batches.append(batch.slice(0, MOST_ROWS - rows))
        rows += batches[-1].num_rows
        if rows >= MOST_ROWS:
            break
    import pyarrow

    table = (
        pyarrow.Table.from_batches(batches, schema=file.schema_arrow)
        if batches
        else file.schema_arrow.empty_table()
    )
    columns = {name: _column(table.column(name), is_hidden=name in hidden) for name in table.column_names}
    return {"form": FORM, "rows": file.metadata.num_rows, "profiled": rows, "columns": columns}


def _column(values: Any, *, is_hidden: bool) -> dict[str, Any]:
    import pyarrow.compute as compute
    from pyarrow import types

    kind = values.type
    told: dict[str, Any] = {"type": str(kind), "missing": values.null_count}
    if is_hidden or len(values) == values.null_count:
        return told | ({"hidden": True} if is_hidden else {})
    present = values.drop_null()
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        import numpy as np

        numbers = present.cast("float64").to_numpy()
        finite = numbers[np.isfinite(numbers)]
        told["not_finite"] = int(len(numbers) - len(finite))
        if len(finite):
            edges = np.quantile(finite, np.linspace(0, 1, EDGES + 1))
            told |= {
                "mean": float(finite.mean()),
                "std": float(finite.std()),
                "edges": [float(e) for e in edges],
            }
        return told
    if types.is_dictionary(kind):
        present = present.cast(kind.value_type)
    if not (
        types.is_string(present.type) or types.is_large_string(present.type) or types.is_boolean(present.type)
    ):
        return told
    counted = compute.value_counts(present)
    pairs = [(one["values"], one["counts"]) for one in counted.to_pylist()]
    told["distinct"] = len(pairs)
    often = sorted((pair for pair in pairs if pair[1] >= OFTEN), key=lambda pair: (-pair[1], str(pair[0])))[
        :TOP
    ]
    told["frequent"] = [
        [value if isinstance(value, bool) else str(value)[:100], count] for value, count in often
    ]
    told["other"] = sum(count for _, count in pairs) - sum(count for _, count in often)
    return told
