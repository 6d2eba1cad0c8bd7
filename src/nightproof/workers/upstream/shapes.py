"""Read what an upstream answers: lenient about what is not used, strict about what is.

Called by `client.py`. Nothing an upstream wrote gets into an error; only names from lists of ours do. An answer
without an end that says why it ended is not whole. Usage that cannot be true is replaced by an estimate, and flagged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import msgspec
import orjson

from nightproof.workers.upstream.values import Completion, Delta, Usage

_ENDS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    # dialects
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "max_tokens": "length",
}
"""Why answers end, in the words of upstreams and in the protocol's. Others (`error`, `abort`) are no end."""
_KNOWN_CODES = frozenset({
    "billing_hard_limit_reached", "content_filter", "content_policy_violation", "context_length_exceeded",
    "insufficient_quota", "invalid_api_key", "invalid_request_error", "model_not_found", "overloaded_error",
    "rate_limit_exceeded", "server_error", "tokens", "requests", "unsupported_parameter",
})  # fmt: skip
_MOST_TOKENS = 10_000_000
_CHARS_PER_TOKEN = 4
_MOST_CHARS_PER_TOKEN = 100
_MOST_TOOL_CALLS = 128
_MOST_MODEL_CHARS = 200


class MalformedAnswer(Exception):
    """The answer is not the protocol's, or not whole; the text says how, in our words."""


class ToldError(Exception):
    """The upstream put an error where an answer belongs; the text is a code from our list, or empty."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A message, or a piece of one."""

    content: str | list[Any] | None = None
    tool_calls: list[_ToolCall] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Body).decode


def _read(body: bytes) -> _Body:
    try:
        read = _decode(body)
    except msgspec.ValidationError:
        raise MalformedAnswer("it is not the protocol's form") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise MalformedAnswer("it is not JSON, or ends early") from None
    if read.error:
        raise ToldError(code_of(read.error))
    return read


def code_of(error: Any) -> str:
    """Return what kind of error an upstream tells, if it is one that we know by name; else nothing."""
    if isinstance(error, dict):
        for word in ("code", "type"):
            if isinstance(error.get(word), str) and error[word] in _KNOWN_CODES:
                return str(error[word])
    return ""


def code_in(body: bytes) -> str:
    """Return what kind of error the body of an error tells, if it is one that we know by name."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return code_of(read.get("error")) or code_of(read) if isinstance(read, dict) else ""


def completion_of(body: bytes, *, messages: Sequence[Mapping[str, Any]], model: str) -> Completion:
    """Read a whole answer. Raises MalformedAnswer, ToldError."""
    read = _read(body)
    choice = _only(read.choices)
    said = choice.message
    if said is None:
        raise MalformedAnswer("there is no message")
    calls: list[dict[str, Any]] = []
    seen: set[str] = set()
    for call in said.tool_calls or ():
        if call.function is None or not call.function.name:
            raise MalformedAnswer("a tool call has no name")
        calls.append({
            "id": _own_id(call.id, seen),
            "type": "function",
            "function": {"name": call.function.name, "arguments": _arguments(call.function) or ""},
        })  # fmt: skip
    if len(calls) > _MOST_TOOL_CALLS:
        raise MalformedAnswer(f"there are more than {_MOST_TOOL_CALLS} tool calls")
    text, refusal = _text(said.content), said.refusal or ""
    said_chars = len(text) + len(refusal) + sum(len(str(call["function"])) for call in calls)
    return Completion(
        text=text,
        tool_calls=calls,
        refusal=refusal,
        finish_reason=_end(choice.finish_reason),
        usage=usage_of(read.usage, messages, said_chars),
        model=_model(read.model, model),
    )


class StreamShape:
    """Puts the events of a streamed answer together: pieces as they come, and its end once it is whole."""

    __slots__ = ("_calls", "_finish_reason", "_last_index", "_messages", "_said_chars", "_seen", "_usage", "is_done",
                 "model")  # fmt: skip

    def __init__(self, messages: Sequence[Mapping[str, Any]], model: str) -> None:
        self._messages = messages
        self._calls: dict[int, str] = {}
        """The id of each tool call by its index, as the caller is told it."""
        self._seen: set[str] = set()
        self._last_index = -1
        self._said_chars = 0
        self._finish_reason = ""
        self._usage: Any = None
        self.model = model
        self.is_done = False
        """The upstream said that the stream is over."""

    def take(self, event: bytes) -> Delta | None:
        """Read one event; return what it adds, if anything. Raises MalformedAnswer, ToldError."""
        if event == b"[DONE]":
            if not self._finish_reason:
                raise MalformedAnswer("it ends without a finish_reason")
            self.is_done = True
            return self._last()
        read = _read(event)
        if read.usage is not None:
            self._usage = read.usage
        if read.model is not None and self._said_chars == 0:
            self.model = _model(read.model, self.model)
        if not read.choices:
            return None
        choice = _only(read.choices)
        said = choice.delta
        text = refusal = ""
        calls: tuple[dict[str, Any], ...] = ()
        if said is not None:
            text, refusal = _text(said.content), said.refusal or ""
            if said.tool_calls:
                calls = tuple([self._tool_call(call) for call in said.tool_calls])
        says = bool(text or refusal or calls)
        if says and self._finish_reason:
            raise MalformedAnswer("it goes on after its finish_reason")
        if choice.finish_reason is not None:
            self._finish_reason = _end(choice.finish_reason)
        if not says:
            return None
        self._said_chars += len(text) + len(refusal) + sum(len(str(call)) for call in calls)
        return Delta(text=text, tool_calls=calls, refusal=refusal)

    def _last(self) -> Delta:
        """Return the end: it goes out only once everything before it is known to be whole."""
        usage = usage_of(self._usage, self._messages, self._said_chars)
        return Delta(finish_reason=self._finish_reason, usage=usage)

    def _tool_call(self, call: _ToolCall) -> dict[str, Any]:
        function = call.function or _Function()
        index = call.index
        if index is None:  # some name no index: a name begins a call, the rest goes on with it
            index = self._last_index + 1 if function.name else max(self._last_index, 0)
        if not 0 <= index < _MOST_TOOL_CALLS:
            raise MalformedAnswer("a tool call's index is none")
        piece: dict[str, Any] = {"index": index}
        told: dict[str, Any] = {}
        if index not in self._calls:
            if not function.name:
                raise MalformedAnswer("a tool call has no name")
            self._calls[index] = piece["id"] = _own_id(call.id, self._seen)
            piece["type"] = "function"
            told["name"] = function.name
        self._last_index = index
        arguments = _arguments(function)
        if arguments is not None:
            told["arguments"] = arguments
        return piece | {"function": told}


def usage_of(told: Any, messages: Sequence[Mapping[str, Any]], said_chars: int) -> Usage:
    """Return the tokens of a call as told, or an estimate, flagged as one, where what is told cannot be true."""
    if isinstance(told, dict):
        given, made = told.get("prompt_tokens"), told.get("completion_tokens")
        if _can_be(given) and _can_be(made) and made * _MOST_CHARS_PER_TOKEN >= said_chars:
            return Usage(given, made)
    sent_chars = sum(_chars_of(message) for message in messages)
    return Usage(_estimate(sent_chars), _estimate(said_chars), is_estimated=True)


def _can_be(tokens: Any) -> TypeGuard[int]:
    return type(tokens) is int and 0 <= tokens <= _MOST_TOKENS


def _estimate(chars: int) -> int:
    return -(-chars // _CHARS_PER_TOKEN)


def _chars_of(message: Mapping[str, Any]) -> int:
    """Count the characters of a message's texts; an image counts nothing."""
    content = message.get("content")
    chars = 16  # the role, and what stands between messages
    if isinstance(content, str):
        chars += len(content)
    elif isinstance(content, list):
        chars += sum(len(part.get("text") or "") for part in content if isinstance(part, dict))
    return chars + len(str(message["tool_calls"])) if message.get("tool_calls") else chars


def _only(choices: list[_Choice] | None) -> _Choice:
    if not choices:
        raise MalformedAnswer("there is no choice")
    if len(choices) > 1 or choices[0].index not in (0, None):
        raise MalformedAnswer("there are several choices")
    return choices[0]


def _text(content: str | list[Any] | None) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    parts = []
    for part in content:
        if not isinstance(part, dict):
            raise MalformedAnswer("its content is no text")
        if part.get("type") == "text":
            if not isinstance(part.get("text"), str):
                raise MalformedAnswer("its content is no text")
            parts.append(part["text"])
    return "".join(parts)


def _arguments(function: _Function) -> str | None:
    given = function.arguments
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, dict):
        return orjson.dumps(given).decode()
    raise MalformedAnswer("a tool call's arguments are no text")


def _own_id(told: str | None, seen: set[str]) -> str:
    """Return the id by which a caller answers a tool call: as told, or one of ours where it is none or taken."""
    if not told or told in seen or len(told) > 256:
        told = f"call_{os.urandom(12).hex()}"
    seen.add(told)
    return told


def _end(told: str | None) -> str:
    end = _ENDS.get(told or "")
    if end is None:
        raise MalformedAnswer(
            "it has no finish_reason" if not told else "its finish_reason is none of the known"
        )
    return end


def _model(told: Any, asked: str) -> str:
    if isinstance(told, str) and 0 < len(told) <= _MOST_MODEL_CHARS and told.isprintable():
        return told
    return asked
