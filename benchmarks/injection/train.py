"""`python -m benchmarks.injection.train [prompts.jsonl]`: make the weights that the package ships.

Same rows, same seed, same weights. Skips with a reason where the rows are not there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.injection import learn, rows
from benchmarks.injection.learn import Row
from nightproof.checks.text import model

WEIGHTS = Path(model.__file__).parent / "weights"
DOCUMENTS = ("benign_document", "indirect_document")


def main() -> int:
    """Train both questions on all sources."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else rows.DEFAULT
    if not path.is_file():
        print(f"skipped: {path} is not there")
        return 0
    known = rows.read(path)
    prompts = [row for row in known if row.kind not in DOCUMENTS]
    write("prompt", prompts, threshold=5.0)
    write("document", prompts, threshold=5.0)
    return 0


def write(question: model.Question, taught: list[Row], *, threshold: float) -> None:
    """Fit, and write the array and what is said about it."""
    table, about = learn.weights_of(question, taught, learn.matrix(taught), threshold=threshold)
    WEIGHTS.mkdir(exist_ok=True)
    np.save(WEIGHTS / f"{question}.npy", table, allow_pickle=False)
    (WEIGHTS / f"{question}.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"
    )
    print(f"{question}: {len(taught):,} rows, {np.count_nonzero(table):,} weights")


if __name__ == "__main__":
    sys.exit(main())
