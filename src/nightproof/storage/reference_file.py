"""Read a release's `reference.parquet`: the rows it was trained on, as JSON records. Runs in a child process.

Promises: at most `most` rows, evenly over the file and in its order; NaN and null are None; times are ISO texts.
The server process only asks whether
there is one: pyarrow weighs more than the server does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

NAME = "reference.parquet"
TIME_COLUMN = "nightproof_at"
"""A column of this name says when each row was; it is no feature."""
_MOST_BYTES = 4 << 30


class NoReference(Exception):
    """There is no reference that can be read; the text says why."""


class Reference(msgspec.Struct):
    """Rows of the reference, in the file's order."""

    records: list[dict[str, Any]]
    times: list[datetime | None]
    """When each row was, where the file says so; empty where it does not."""


def has_reference(folder: str | Path) -> bool:
    """Say whether there is a reference at all."""
    return (Path(folder) / NAME).is_file()


def read_reference(folder: Path, *, fields: Sequence[str], time_field: str | None, most: int) -> Reference:
    """Read the reference's columns that are fields of the input. Raises NoReference with the reason."""
    path = folder / NAME
    if not path.is_file():
        raise NoReference(f"the release has no {NAME}")
    if path.stat().st_size > _MOST_BYTES:
        raise NoReference(f"{NAME} is larger than {_MOST_BYTES >> 30} GiB")
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise NoReference(
            "pyarrow is not installed beside the server (pip install 'nightproof[parquet]')"
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in fields or name == TIME_COLUMN]
            if not set(names) - {TIME_COLUMN}:
                raise NoReference(f"{NAME} has no column that is a field of the input")
            rows = file.metadata.num_rows
            step = max(1, math.ceil(rows / most))
            taken = []
            at = 0
            for batch in file.iter_batches(batch_size=65_536, columns=names):
                first = -at % step
                places = range(first, batch.num_rows, step)
                taken.append(batch.take(arrow.array(list(places), type=arrow.int64())))
                at += batch.num_rows
            table = arrow.Table.from_batches(taken, schema=taken[0].schema) if taken else None
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise NoReference(f"{NAME} cannot be read: {type(error).__name__}") from error
    if table is None or not table.num_rows:
        raise NoReference(f"{NAME} has no rows")
    read = table.to_pylist()
    when = TIME_COLUMN if TIME_COLUMN in names else time_field if time_field in names else None
    times = [_moment(row.get(when)) for row in read] if when else []
    return Reference(
        [{name: _plain(value) for name, value in row.items() if name != TIME_COLUMN} for row in read],
        times if times and all(one is not None for one in times) else [],
    )


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            return None
    return None


def _plain(value: Any) -> Any:
    """Write a value as JSON would have it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
