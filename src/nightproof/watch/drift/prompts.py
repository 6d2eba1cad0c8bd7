"""What of a chat is watched for drift: the user's last message, its language, and what the guards said of it. Pure.

A chat is no record with fields, so one is made of it: the message as a text (its form and its words are measured
like any text's), and beside it how long the conversation is. Its languages are measured in the drift child, where
it costs no request anything; what the checks said stands in the place of an answer. No numpy here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import orjson

PROMPT = "prompt"
TURNS = "turns"
GUARD = "guard_score"
_MOST_CHARACTERS = 20_000

_NUMBER = {"type": "number"}
_COMMON = {
    "english": "the of and to in is that it for you are with on this be have what how can my please not an if do",
    "germanic": "der die das und ist nicht ich sie es ein eine zu mit wie was für auf den dem im bitte kann mein "
    "het een van niet ik wat hoe en er jag det att och som inte",
    "romance": "de la el los las que en un una por con para no se es mi como le les des et est pas pour je vous dans "
    "il di che per non sono come o os as um uma não com meu minha eu",
}
"""The commonest short words: enough to tell which kind of language a text is in, and free of any topic."""
_WORDS = {name: frozenset(words.split()) for name, words in _COMMON.items()}
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = {
    "latin_marks": re.compile("[\u00c0-\u024f\u1e00-\u1eff]"),
    "cyrillic": re.compile("[\u0400-\u052f]"),
    "east_asian": re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff66-\uff9f\U00020000-\U0003134f]"),
    "other_script": re.compile(
        "[\u0370-\u03ff\u0530-\u05ff\u0600-\u06ff\u0700-\u0dff\u0e00-\u0fff\u10a0-\u10ff\u1200-\u139f\u1780-\u17ff]"
    ),
}
FEATURES = (*_COMMON, *_SCRIPTS)
"""What `text_features` measures: shares, 0 to 1."""

PROMPT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {PROMPT: {"type": "string"}, TURNS: _NUMBER, **dict.fromkeys(FEATURES, _NUMBER)},
}
"""The record that is made of a chat, as a release's input schema."""
GUARD_SCHEMA: dict[str, Any] = {"type": "object", "properties": {GUARD: _NUMBER}}
"""What the checks say of it, as a release's output schema."""


def text_features(text: str) -> dict[str, float]:
    """Measure which languages a text is in, without a model: shares of common words and of scripts.

    >>> features = text_features("How can I change the address of my order?")
    >>> features["english"] > 0.5, features["romance"], features["cyrillic"]
    (True, 0.0, 0.0)
    """
    part = text[:_MOST_CHARACTERS]
    words = _WORD.findall(part.lower())
    found = {
        name: sum(word in common for word in words) / len(words) if words else 0.0
        for name, common in _WORDS.items()
    }
    if part.isascii():
        return {**found, **dict.fromkeys(_SCRIPTS, 0.0)}
    return {**found, **{name: len(script.findall(part)) / len(part) for name, script in _SCRIPTS.items()}}


def with_features(record: Any) -> Any:
    """Add what its text measures to a record of a chat; one without a text stays as it is."""
    if not isinstance(record, dict) or not isinstance(text := record.get(PROMPT), str):
        return record
    return {**record, **text_features(text)}


def last_said(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of the user's last message; empty where there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list) else []
            return "\n".join(
                part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)
            )
    return ""


def prompt_in(row: Any) -> dict[str, Any] | None:
    """Read a line of a chat service's reference: `prompt` or `text`, or `messages`; None where it has none of them.

    `input` may stand around it, as in a golden case.
    """
    if isinstance(row, dict) and "input" in row:
        row = row["input"]
    if isinstance(row, str):
        return {PROMPT: row, TURNS: 1}
    if not isinstance(row, dict):
        return None
    messages = row.get("messages")
    if isinstance(messages, list):
        said = last_said([one for one in messages if isinstance(one, dict)])
        return {PROMPT: said, TURNS: len(messages)} if said else None
    for name in (PROMPT, "text"):
        if isinstance(row.get(name), str):
            return {PROMPT: row[name], TURNS: 1}
    return None


def guard_of(scores: Mapping[str, float]) -> bytes:
    """Write what the scoring checks said as an output; empty where none spoke. The highest of them counts."""
    return orjson.dumps({GUARD: max(scores.values())}) if scores else b""


class PromptSeen(msgspec.Struct, eq=False):
    """A chat as the drift watch takes it: also one that was refused, since attacks are what is to be seen."""

    input: bytes
    output: bytes = b""
    findings: list[str] = []
    subject: bytes = b""
    failure: str = ""
    batch_size: int = 1
    confidence: float | None = None
    degraded: object | None = None


def prompt_seen(
    messages: Sequence[Mapping[str, Any]],
    *,
    scores: Mapping[str, float],
    checks_flagged: Iterable[str],
    subject: bytes = b"",
) -> PromptSeen | None:
    """Make of a chat what `DriftWatcher.take` takes; None where the user said nothing.

    `scores` has what each scoring check said, found or not; `checks_flagged` are those that found something.
    """
    said = last_said(messages)
    if not said:
        return None
    record = {PROMPT: said[:_MOST_CHARACTERS], TURNS: len(messages)}
    return PromptSeen(orjson.dumps(record), guard_of(scores), sorted(set(checks_flagged)), subject)
