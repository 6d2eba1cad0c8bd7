"""How the command line shows things: tables for people, JSON with `--json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDE = 200

# No emoji codes: `:…:` in what is printed is somebody's JSON.
# No table is folded for a terminal that is not there, and no sentence is broken where a program reads it.
console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _WIDE)
errors = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def as_json(value: Any) -> None:
    """Print a value as JSON, indented on a terminal."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.write(orjson.dumps(msgspec.to_builtins(value), option=option).decode() + "\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; nothing but its title's absence if there are no rows."""
    shown = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(plain(str(cell)) for cell in row))
    console.print(shown)


def trouble(text: str, hint: str = "") -> None:
    """Print what went wrong and what to do, on standard error."""
    errors.print(f"[bold red]error:[/] {plain(text)}")
    if hint:
        errors.print(f"  → {plain(hint)}")


def plain(text: str) -> str:
    """Return a text so that it is printed as it is: no markup, and nothing that moves a terminal."""
    return escape("".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text))
