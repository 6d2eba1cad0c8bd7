"""Scan an answer that is JSON: what it means, not how it is written.

A text scan of JSON sees `\\u0068ttps:\\/\\/`, not the address that its reader will. So an answer that is to be read as
JSON is held whole, each of its texts is scanned by itself, and it is written anew if one of them had to be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from nightproof.base.strictjson import JsonRefused, parse
from nightproof.checks.chat_tasks import Finding
from nightproof.checks.leaving import OutputScanner


class ScannedJson(NamedTuple):
    """What may leave of a JSON answer; `text` is nothing where it is stopped."""

    text: str
    stopped: str
    findings: list[Finding]


def scan_json(text: str, scanner: Callable[[], OutputScanner]) -> ScannedJson | None:
    """Return what may leave of `text`, or None where it is no object or list of strict JSON: scan it as text then.

    `scanner` makes a new one for each text. One more looks at all of them together, for what is spread over several.
    """
    try:
        value = parse(text.encode())
    except (JsonRefused, UnicodeEncodeError):
        return None
    if not isinstance(value, dict | list):
        return None
    walk = _Walk(scanner)
    clean = walk.clean(value)
    stopped = walk.end()
    if stopped:
        return ScannedJson("", stopped, walk.findings)
    return ScannedJson(orjson.dumps(clean).decode() if walk.has_changed else text, "", walk.findings)


class _Walk:
    """Goes through one value, names included."""

    def __init__(self, scanner: Callable[[], OutputScanner]) -> None:
        self._scanner = scanner
        self._together = scanner()
        self._found: dict[Finding, None] = {}
        self._stopped = ""
        self.has_changed = False

    @property
    def findings(self) -> list[Finding]:
        return list(self._found)

    def clean(self, value: Any) -> Any:
        """Return `value` with its texts as they may leave; its depth is bounded by the parser."""
        if isinstance(value, str):
            return self._clean_text(value)
        if isinstance(value, list):
            return [self.clean(inner) for inner in value]
        if isinstance(value, dict):
            return {self._clean_text(name): self.clean(inner) for name, inner in value.items()}
        return value

    def end(self) -> str:
        """Return why the answer may not leave, if it may not."""
        self._together.end()
        return self._stopped or self._together.stopped

    def _clean_text(self, text: str) -> str:
        if self._stopped or not text:
            return text
        scanner = self._scanner()
        left = scanner.feed(text) + scanner.end()
        self._together.feed(text + "\n")
        self._found.update((each, None) for each in scanner.findings if each.check != "empty")
        self._stopped = scanner.stopped
        self.has_changed |= left != text
        return left
