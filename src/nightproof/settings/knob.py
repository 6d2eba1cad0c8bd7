"""One line per knob: default, lowest, highest, meaning.

Called by the section classes of `settings.py`. Never reads anything; the bounds travel as metadata of the
dataclass field, and `load.py` holds every value to them.
"""

from __future__ import annotations

import types
import typing
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from nightproof.base.errors import SettingError

T = TypeVar("T")


def knob(default: T, low: float | None, high: float | None, meaning: str) -> T:
    """Declare a knob. `low` and `high` are None for texts, paths, switches and choices."""
    return field(default=default, metadata={"low": low, "high": high, "meaning": meaning})


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A declared knob, as the loader and the docs see it."""

    section: str
    name: str
    kind: type
    """bool, int, float, str or Path."""
    choices: tuple[str, ...]
    may_be_unset: bool
    default: Any
    low: float | None
    high: float | None
    meaning: str

    @property
    def dotted(self) -> str:
        """Name the knob as in messages and in the file: `section.name`."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variable(self) -> str:
        """Name its environment variable; the knobs of the server need no section there."""
        section = "" if self.section in ("", "server") else f"{self.section}_"
        return f"NIGHTPROOF_{section}{self.name}".upper()

    def bounds(self) -> str:
        """Say what values it takes."""
        if self.choices:
            return " | ".join(self.choices)
        if self.kind is bool:
            return "true | false"
        if self.low is not None and self.high is not None:
            return f"{plain(self.low)} to {plain(self.high)}"
        return "a path" if self.kind is Path else "a text"

    def check(self, value: object, *, source: str) -> Any:
        """Return the value in the knob's type; raise SettingError that names source and bounds."""
        taken = self._taken(value)
        if taken is not _REFUSED and (not self.choices or taken in self.choices) and self._is_inside(taken):
            return taken
        raise SettingError(
            f"{source}: {self.dotted} is {value!r}.", hint=f"Give {_KIND_WORDS[self.kind]}: {self.bounds()}."
        )

    def parse(self, text: str, *, source: str) -> Any:
        """Read the value from text, as the environment carries it."""
        value: object = text.strip()
        if self.kind is bool:
            value = _SWITCH_WORDS.get(text.strip().lower(), text)
        elif self.kind in (int, float):
            try:
                value = self.kind(text)
            except ValueError:
                value = text
        return self.check(value, source=source)

    def _taken(self, value: object) -> Any:
        if self.kind is Path and isinstance(value, str | Path):
            return Path(value)
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, self.kind) and isinstance(value, bool) == (self.kind is bool):
            return value
        return _REFUSED

    def _is_inside(self, value: Any) -> bool:
        # NaN is refused too: it is not between anything.
        return self.low is None or self.high is None or self.low <= value <= self.high


_REFUSED = object()
_SWITCH_WORDS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}
_KIND_WORDS = {bool: "a switch", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def knobs_of(section: str, kind: type) -> list[Knob]:
    """Return the knobs that a section class declares, in its order."""
    hints = typing.get_type_hints(kind)
    return [_knob_of(section, one, hints[one.name]) for one in fields(kind) if "meaning" in one.metadata]


def _knob_of(section: str, declared: Field[Any], hint: Any) -> Knob:
    choices: tuple[str, ...] = ()
    may_be_unset = False
    if get_origin(hint) in (typing.Union, types.UnionType):
        may_be_unset = True
        (hint,) = (part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        choices, hint = get_args(hint), str
    return Knob(
        section=section,
        name=declared.name,
        kind=hint,
        choices=choices,
        may_be_unset=may_be_unset,
        default=declared.default,
        low=declared.metadata["low"],
        high=declared.metadata["high"],
        meaning=declared.metadata["meaning"],
    )


def plain(value: float) -> str:
    """Write a number for people: no trailing zeros, thousands apart."""
    return f"{int(value):_}" if float(value).is_integer() else f"{value:g}"
