"""What a release answers otherwise than another did: compared record by record, added up by field and by whom.

Pure and bounded, used by replay (recorded requests through a candidate) and by the shadow (copies of live ones). It
holds names of fields, counts and sizes of change; and, so that "for whom" can be answered, some values of inputs and
outputs. So it is kept sealed like any payload, and who may see it is asked above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

TOLERANCE = 1e-6
_MOST_FIELDS = 64
_MOST_VALUES = 12
_MOST_GROUPS = 200
_BINS = 41
"""Of a histogram of changes: signed, 20 per side on a logarithmic scale and one for none."""
_OTHERS = "(others)"


class FieldChange(msgspec.Struct, kw_only=True):
    """How one output field differs."""

    compared: int = 0
    changed: int = 0
    numbers: int = 0
    sum_abs: float = 0.0
    most_abs: float = 0.0
    bins: list[int] = []
    """Counts of signed changes, see `bin_of`."""
    moves: dict[str, int] = {}
    """Of categories: "old → new" by count; bounded."""


class Group(msgspec.Struct, kw_only=True):
    """Records that share something."""

    compared: int = 0
    changed: int = 0


class Comparison(msgspec.Struct, kw_only=True):
    """Everything that was compared. Changed in place by `add`; can be kept and taken up again."""

    compared: int = 0
    changed: int = 0
    newly_failing: int = 0
    newly_answered: int = 0
    skipped: int = 0
    """Records whose content is erased, expired or cannot be opened."""
    failures: dict[str, int] = {}
    """What the candidate fails by."""
    fields: dict[str, FieldChange] = {}
    groups: dict[str, dict[str, Group]] = {}
    """By what (a caller, an input field), then by value."""

    def add(
        self,
        *,
        old: Mapping[str, Any] | None,
        new: Mapping[str, Any] | None,
        failure: str,
        whom: Mapping[str, Any],
    ) -> bool:
        """Compare one record; `old` or `new` is None where that release had no answer. Return whether it differs."""
        self.compared += 1
        if new is None:
            self.failures[failure] = self.failures.get(failure, 0) + 1
        if old is None or new is None:
            is_changed = (old is None) != (new is None)
            self.newly_failing += old is not None and new is None
            self.newly_answered += old is None and new is not None
        else:
            is_changed = False
            for name in {**old, **new}:
                is_changed |= self._compare(name, old.get(name), new.get(name))
        self.changed += is_changed
        for by, value in whom.items():
            self._count_group(by, value, is_changed)
        return is_changed

    def _compare(self, name: str, old: Any, new: Any) -> bool:
        field = self.fields.get(name)
        if field is None:
            if len(self.fields) >= _MOST_FIELDS:
                return not same(old, new)
            field = self.fields[name] = FieldChange(bins=[0] * _BINS)
        field.compared += 1
        if _is_number(old) and _is_number(new):
            delta = float(new) - float(old)
            field.numbers += 1
            field.sum_abs += abs(delta)
            field.most_abs = max(field.most_abs, abs(delta))
            field.bins[bin_of(delta)] += 1
        if same(old, new):
            return False
        field.changed += 1
        if not (_is_number(old) and _is_number(new)):
            move = f"{_word(old)} → {_word(new)}"
            if move not in field.moves and len(field.moves) >= _MOST_VALUES:
                move = _OTHERS
            field.moves[move] = field.moves.get(move, 0) + 1
        return True

    def _count_group(self, by: str, value: Any, is_changed: bool) -> None:
        groups = self.groups.get(by)
        if groups is None:
            if len(self.groups) >= _MOST_FIELDS:
                return
            groups = self.groups[by] = {}
        word = _word(value)
        if word not in groups and len(groups) >= (_MOST_GROUPS if by == "caller" else _MOST_VALUES):
            word = _OTHERS
        group = groups.get(word)
        if group is None:
            group = groups[word] = Group()
        group.compared += 1
        group.changed += is_changed


class MostHit(msgspec.Struct, frozen=True, kw_only=True):
    """A group that is hit more than the others."""

    by: str
    value: str
    compared: int
    changed: int
    times: float
    """How many times the share of all."""


def whom_of(record: Any, caller: str, *, hidden: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return what a record's group is: its caller, and its own fields that are categories or can be cut into some.

    `hidden` names the fields that are shown to nobody: who a record is about, and what is declared sensitive.
    """
    whom: dict[str, Any] = {"caller": caller} if caller else {}
    if isinstance(record, dict):
        for name, value in record.items():
            if name in hidden or name == "caller":
                continue
            if value is None or isinstance(value, bool | str):
                whom[name] = value if not isinstance(value, str) or len(value) <= 40 else "(long text)"
            elif _is_number(value):
                whom[name] = _decade(float(value))
    return whom


def hidden_of(pointers: Iterable[str]) -> frozenset[str]:
    """Return the top-level fields that JSON pointers lead into."""
    return frozenset(
        pointer.split("/")[1].replace("~1", "/").replace("~0", "~") for pointer in pointers if "/" in pointer
    )


def most_hit(comparison: Comparison, *, least: int = 20, most: int = 10) -> list[MostHit]:
    """Name the groups whose records change more often than all do, the hardest hit first."""
    if not comparison.changed:
        return []
    of_all = comparison.changed / comparison.compared
    found = [
        MostHit(
            by=by,
            value=value,
            compared=group.compared,
            changed=group.changed,
            times=group.changed / group.compared / of_all,
        )
        for by, groups in comparison.groups.items()
        for value, group in groups.items()
        if group.compared >= least and value != _OTHERS and len(groups) > 1
    ]
    return sorted(
        (one for one in found if one.times > 1.2), key=lambda one: -one.times * math.log1p(one.changed)
    )[:most]


def same(old: Any, new: Any) -> bool:
    """Say whether two values are the same, numbers within 1e-6."""
    if _is_number(old) and _is_number(new):
        return abs(float(old) - float(new)) <= TOLERANCE * max(1.0, abs(float(old)))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same(value, new[name]) for name, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(same(a, b) for a, b in zip(old, new, strict=True))
    return type(old) is type(new) and bool(old == new)


def bin_of(delta: float) -> int:
    """Return the place of a change on the signed logarithmic scale, from -1e6 to 1e6 in steps of √10."""
    middle = _BINS // 2
    size = abs(delta)
    if size <= 1e-4:
        return middle
    step = min(middle, max(1, math.ceil((math.log10(min(size, 1e6)) + 4) * 2)))
    return middle + step if delta > 0 else middle - step


def bin_bounds() -> Iterator[str]:
    """Name each place of the scale."""
    middle = _BINS // 2
    for place in range(_BINS):
        step = abs(place - middle)
        size = 10 ** (step / 2 - 4)
        yield "0" if not step else f"{'-' if place < middle else '+'}{size:.2g}"


def _decade(value: float) -> str:
    """Cut numbers into groups that do not depend on what came before: by sign and order of magnitude."""
    if not value:
        return "0"
    magnitude = min(12, max(-6, math.floor(math.log10(abs(value)))))
    low, high = 10.0**magnitude, 10.0 ** (magnitude + 1)
    return f"{low:g} to {high:g}" if value > 0 else f"-{high:g} to -{low:g}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, dict | list):
        return "(nested)"
    return str(value)[:40]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
