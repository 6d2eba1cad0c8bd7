"""Write the knobs down as Markdown, for `docs/settings.md`.

A test compares that page with this text, so a knob that is not documented fails the build.
"""

from __future__ import annotations

from pathlib import Path

from nightproof.settings.knob import Knob, plain
from nightproof.settings.load import KNOBS
from nightproof.settings.settings import SECTIONS


def settings_table() -> str:
    """Return one Markdown table per section: knob, default, bounds, environment variable, meaning."""
    parts = [_table("Top of the file", "", [one for one in KNOBS if not one.section])]
    for name, kind in SECTIONS.items():
        parts.append(
            _table(f"`[{name}]`", (kind.__doc__ or "").strip(), [one for one in KNOBS if one.section == name])
        )
    return "\n".join(parts)


def _table(title: str, about: str, knobs: list[Knob]) -> str:
    lines = [f"## {title}", ""]
    if about:
        lines += [about, ""]
    lines += ["| knob | default | takes | environment | meaning |", "|---|---|---|---|---|"]
    for one in knobs:
        takes = one.bounds().replace(" | ", ", ")
        lines.append(f"| `{one.name}` | {_default(one)} | {takes} | `{one.variable}` | {one.meaning} |")
    return "\n".join(lines) + "\n"


def _default(one: Knob) -> str:
    if one.default is None or one.default == "":
        return "not set"
    if isinstance(one.default, bool):
        return f"`{str(one.default).lower()}`"
    if isinstance(one.default, int | float):
        return f"`{plain(one.default)}`"
    if isinstance(one.default, Path):
        return f"`{one.default.as_posix()}`"
    return f"`{one.default}`"
