"""Read a release's reference: the rows it was trained on, as JSON records. Runs in a child process.

`reference.parquet`, or of a chat service also `reference.jsonl`, past prompts one a line. Promises: at most `most`
rows, evenly over the file and in its order; NaN and null are None; times are ISO texts. The server process only asks
whether there is one: pyarrow weighs more than the server does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import orjson

NAME = "reference.parquet"
LINES = "reference.jsonl"
"""Of a chat service: a prompt, or a conversation, in each line."""
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
    return (Path(folder) / NAME).is_file() or (Path(folder) / LINES).is_file()


def read_prompts(folder: Path, prompt_in: Callable[[Any], dict[str, Any] | None], *, most: int) -> Reference:
    """Read a chat service's reference: its lines, or else its parquet file. Raises NoReference with the reason.

    `prompt_in` makes a record of a row, or None of one that holds no prompt.
    """
    path = folder / LINES
    if not path.is_file():
        whole = read_reference(
            folder, fields=("prompt", "text", "messages", "input"), time_field=None, most=most
        )
        rows, times = whole.records, whole.times
    else:
        if path.stat().st_size > _MOST_BYTES:
            raise NoReference(f"{LINES} is larger than {_MOST_BYTES >> 30} GiB")
        rows = list(_lines(path, most))
        told = [_moment(row.get(TIME_COLUMN)) if isinstance(row, dict) else None for row in rows]
        times = told if told and all(one is not None for one in told) else []
    records = [prompt_in(row) for row in rows]
    kept = [place for place, record in enumerate(records) if record is not None]
    if not kept:
        raise NoReference(f"no row of the reference has a prompt, a text or messages ({len(rows)} rows)")
    return Reference(
        [record for record in records if record is not None],
        [times[place] for place in kept] if times else [],
    )


def _lines(path: Path, most: int) -> Iterator[Any]:
    """Yield the JSON of the file's lines, evenly so many of them; what is no JSON is passed over."""
    try:
        with path.open("rb") as file:
            step = max(1, math.ceil(sum(1 for _ in file) / most))
            file.seek(0)
            for place, line in enumerate(file):
                if place % step == 0 and line.strip():
                    try:
                        yield orjson.loads(line)
                    except orjson.JSONDecodeError:
                        continue
    except OSError as error:
        raise NoReference(f"{LINES} cannot be read: {type(error).__name__}") from error


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
