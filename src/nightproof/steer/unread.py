"""Show a chat's record as its model read it: what was taken out before the model is not shown to people either.

Used by `find` for whoever does not ask to have it revealed. Pure. Where it cannot be told what was taken out (a record
of an older Nightproof, a finding that was left out, an erased rest) more is masked and never less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightproof.base.masking import MASK, with_text

_PRIVATE = frozenset({"personal", "secrets"})
"""Checks whose findings are of the kind that is not for everybody's eyes, also where they refuse."""
_MOST_FINDINGS = 100
"""A record has no more; beyond them it is not known what was found."""
_MOST_IN_LEAF = 20
_SHORTEST_QUOTED = 2
_WORDS = re.compile(r"\S+")
_AROUND = ".,;:!?\"'()[]{}<>"


def as_the_model_read(content: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return a record's content without what the model was not to read, and whether that is less."""
    items: Sequence[Mapping[str, Any]] = content.get("items", ())
    findings = content.get("findings")
    hidden = [one for one in findings or () if _is_unread(one["check"], one.get("action", "flag"))]
    found = facts.get("chat", {}).get("found", ())
    may_be_more = len(found) >= _MOST_IN_LEAF or any(_is_unread(*_parted(one)) for one in found)
    is_unknown = may_be_more if findings is None else len(findings) >= _MOST_FINDINGS
    are_kept = any("redacted" in one for one in items)
    if not (hidden or is_unknown or are_kept):
        return dict(content), False
    shown = {name: value for name, value in content.items() if name != "items"}
    if any(one["check"] in _PRIVATE and not one.get("pointer") for one in hidden) or is_unknown:
        shown.pop("withheld", None)  # what the model said of the kind, and nobody was told
    taken: set[str] = set()
    if "items" in content:
        shown["items"] = [
            _item(
                one,
                [
                    finding["pointer"]
                    for finding in hidden
                    if finding.get("pointer")
                    and _may_be_about(finding, one, is_alone=len(items) == 1, are_kept=are_kept)
                ],
                taken,
                is_unknown=is_unknown,
            )
            for one in items
        ]
    return _without(shown, sorted(taken, key=len, reverse=True)), True


def _may_be_about(
    finding: Mapping[str, Any], item: Mapping[str, Any], *, is_alone: bool, are_kept: bool
) -> bool:
    """Say whether a finding may be one in this record: of several, the log does not say in which it was."""
    if finding["action"] == "redact":
        return not are_kept  # else each has its own with it
    return is_alone or "detail" in item


def _parted(found: str) -> tuple[str, str]:
    """Return check and action of what the leaf says: `check:rule:action`."""
    check, _, rest = found.partition(":")
    return check, rest.rpartition(":")[2]


def _is_unread(check: str, action: str) -> bool:
    return action == "redact" or (action == "refuse" and check in _PRIVATE)


def _item(
    item: Mapping[str, Any], pointers: Iterable[str], taken: set[str], *, is_unknown: bool
) -> dict[str, Any]:
    """Return one record of the content, and add to `taken` the words that it is without."""
    redacted: dict[str, str] = item.get("redacted", {})
    shown = {name: value for name, value in item.items() if name != "redacted"}
    if "input" not in item:
        return shown
    if is_unknown and not redacted:
        return {**shown, "input": MASK}
    value = item["input"]
    for pointer, text in {**dict.fromkeys(pointers, MASK), **redacted}.items():
        taken |= _words(_at(value, pointer)) - _words(text)
        value = with_text(value, pointer, text)
        if value is None:
            return {**shown, "input": MASK}  # it is not where it was found: another form of the same
    return {**shown, "input": value}


def _at(value: Any, pointer: str) -> str:
    for step in pointer.split("/")[1:]:
        if isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            name = step.replace("~1", "/").replace("~0", "~")
            value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _words(text: str) -> set[str]:
    return {word.strip(_AROUND) for word in _WORDS.findall(text)}


def _without(content: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the content without these words where something was told about an input that quotes it."""
    quoted = [word for word in words if len(word) > _SHORTEST_QUOTED]

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(one) for one in value]
        for word in quoted if isinstance(value, str) else ():
            value = value.replace(word, MASK)
        return value

    shown = {name: told(value) if name in ("detail", "errors") else value for name, value in content.items()}
    if "items" in shown:
        shown["items"] = [
            {name: told(value) if name in ("detail", "errors") else value for name, value in item.items()}
            for item in shown["items"]
        ]
    return shown
