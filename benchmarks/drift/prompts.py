"""Hold a public set of prompts against itself, then against other languages and attacks: when does it alarm?

Run as `python -m benchmarks.drift.prompts`. Reads `prompts.jsonl` (`text`, `label`, `kind`) from the folder that
`PROMPT_SETS` names.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.prompts import mixed

from nightproof.watch.drift import wire
from nightproof.watch.drift.child import Watching
from nightproof.watch.drift.detector import Rules
from nightproof.watch.drift.prompts import GUARD_SCHEMA, PROMPT_SCHEMA, prompt_seen

FOLDER = Path(os.environ.get("PROMPT_SETS", Path(__file__).parents[3] / "shared" / "data" / "prompts"))
RELEASE = wire.Release("prompts", "d", PROMPT_SCHEMA, GUARD_SCHEMA, [], is_chat=True)
REFERENCE, WINDOW = 2_000, 100
RULES = Rules(promise_s=100_000.0, window_rows=WINDOW, window_s=1.0)
"""One false alarm promised in 100,000 windows of a second."""


def main() -> None:
    """Print in which window each change was found."""
    path = FOLDER / "prompts.jsonl"
    if not path.is_file():
        Console().print(f"{path.name} is not in {FOLDER.name}/; PROMPT_SETS names its folder")
        return
    chance = random.Random(0)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    benign = [row["text"] for row in rows if row["label"] == 0 and row["kind"] != "benign_document"]
    attacks = [row["text"] for row in rows if row["label"] == 1 and row["kind"] in ("direct", "jailbreak")]
    chance.shuffle(benign)
    reference, pool = benign[:REFERENCE], benign[REFERENCE:]
    profile = _learn(reference)
    table = Table(title=f"Prompts: windows of {WINDOW}, reference of {REFERENCE:,}", title_justify="left")
    for column in ("change", "windows", "alarm in", "named"):
        table.add_column(column)
    found = _watch(profile, lambda: chance.sample(pool, WINDOW), 300)
    table.add_row("none", "300", *found)
    for share in (10, 20, 40):
        others: dict[str, Callable[[int], list[str]]] = {
            "other languages": lambda count: mixed(count, 1.0, seed=chance.randrange(10**6)),
            "attacks": lambda count: chance.sample(attacks, count),
        }
        for name, draw in others.items():
            found = _watch(
                profile,
                lambda draw=draw, share=share: chance.sample(pool, WINDOW - share) + draw(share),  # type: ignore[misc]
                40,
            )
            table.add_row(f"{share} % {name}", "40", *found)
    Console().print(table)


def _row(text: str) -> wire.Row:
    seen = prompt_seen([{"role": "user", "content": text or " "}], scores={}, checks_flagged=[])
    return wire.Row(seen.input if seen is not None else b"{}", caller="key")


def _learn(texts: list[str]) -> bytes:
    watched = Watching(wire.Watch(RELEASE, RULES, b"", b"", len(texts), 0))
    told = watched.take(wire.Rows("prompts", "d", [_row(text) for text in texts], 1.0, 1))
    return next(one.profile for one in told if isinstance(one, wire.Built))


def _watch(profile: bytes, draw: Callable[[], list[str]], windows: int) -> tuple[str, str]:
    watched = Watching(wire.Watch(RELEASE, RULES, profile, b"", 0, 0))
    for number in range(1, windows + 1):
        rows = [_row(text) for text in draw()]
        for told in watched.take(wire.Rows("prompts", "d", rows, 1.0, 1)):
            if isinstance(told, wire.Told) and told.raised and told.alarm is not None:
                return str(number), ", ".join(told.alarm.signals[:3])
    return "none", ""


if __name__ == "__main__":
    main()
