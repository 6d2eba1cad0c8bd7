"""Read what a caller of OpenAI's protocol was told, whole or streamed, into the words of the native one. Pure.

A stream counts as whole only with its `finish_reason` and `[DONE]`. What ends without these and without an error is
cut; what has them and says less than the answer was looks whole and is not, which is told by comparing its text.
"""

from __future__ import annotations

from typing import Any

import orjson

_NAMES = {"model_not_found": "unknown_service"}


def told_of_chat(read: dict[str, Any]) -> dict[str, Any]:
    """Read a body of the protocol; anything else comes back as it is."""
    if isinstance(error := read.get("error"), dict):
        return {"failure": _failure(error), "errors": error.get("errors")}
    if read.get("object") != "chat.completion":
        return read
    choice = (read.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    return _answer(
        read.get("nightproof"),
        str(message.get("content") or ""),
        message.get("tool_calls") or [],
        choice.get("finish_reason"),
    )


def told_of_stream(body: bytes) -> dict[str, Any]:
    """Read a stream of events to where it ended; `is_cut` where it has neither an end nor an error."""
    text, finish, is_done = "", None, False
    calls: list[Any] = []
    ours: dict[str, Any] | None = None
    for line in body.split(b"\n"):
        said = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if said == b"[DONE]":
            is_done = True
            continue
        try:
            event = orjson.loads(said)
        except orjson.JSONDecodeError:
            continue  # cut in the middle of an event
        if isinstance(error := event.get("error"), dict):
            # Whatever came before or after: a client raises by this.
            looks_whole = is_done or finish is not None
            return {"failure": _failure(error), "text": text, "looks_whole": looks_whole}
        ours = event.get("nightproof") or ours
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            calls += delta.get("tool_calls") or []
            finish = choice.get("finish_reason") or finish
    if not is_done or finish is None:
        return {"is_cut": True, "text": text, "looks_whole": is_done or finish is not None}
    return _answer(ours, text, calls, finish)


def _answer(
    ours: dict[str, Any] | None, text: str, calls: list[dict[str, Any]], finish: Any
) -> dict[str, Any]:
    said = {name: value for name, value in (ours or {}).items() if name in ("id", "release", "degraded")}
    made = [{name: value for name, value in one.items() if name != "index"} for one in calls]
    return {**said, "output": {"content": text, "tool_calls": made, "finish_reason": finish}}


def _failure(error: dict[str, Any]) -> str:
    code = str(error.get("code") or "")
    return _NAMES.get(code, code)
