"""Read the public prompts, where they lie; they are never part of the package and never needed by a test."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.injection.learn import Row

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data" / "prompts" / "prompts.jsonl"


def read(path: Path = DEFAULT) -> list[Row]:
    """Read all rows, in the file's order."""
    with path.open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [
        Row(row["text"], row["label"], row["source"], row["kind"], row.get("payload", "")) for row in found
    ]
