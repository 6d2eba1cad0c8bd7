"""Write values as Python text, as a formatter leaves them. Pure; called by `render` and `modelclass`."""

from __future__ import annotations

from nightproof.cli.scaffold.plan import Label

WIDTH = 88
"""Columns of a line: the default of formatters."""


def quoted(text: str) -> str:
    """Write a text as ruff does: double quotes, unless that means more escapes. Any text comes back whole."""
    quote = "'" if '"' in text and "'" not in text else '"'
    return f"{quote}{''.join(_escaped(letter, quote) for letter in text)}{quote}"


def _escaped(letter: str, quote: str) -> str:
    if letter in (quote, "\\"):
        return f"\\{letter}"
    return letter if letter.isprintable() else repr(letter)[1:-1]


def literal(label: Label) -> str:
    """Write a label of a model."""
    if isinstance(label, str):
        return quoted(label)
    return repr(label) if isinstance(label, bool) else number(label)


def number(value: float) -> str:
    """Write a number shortly: whole thousands with low lines, floats as they are."""
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    return repr(float(value))
