"""Judge the tools that a model wants called, before anybody hears of it.

Called by the chat conductors once every call of an answer is whole. A call passes if its tool was declared in the
request, its arguments are strict JSON that fits the schema and hold nothing that may not leave as text, and if it is
not an act that content nobody vouches for may have asked for. What is refused is told by place and reason, never with
words of the model's.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import orjson

from nightproof.base import schema as json_schema
from nightproof.base.errors import DeclarationError
from nightproof.base.strictjson import JsonRefused, parse
from nightproof.checks.chat_tasks import Finding
from nightproof.checks.leaving import OutputScanner
from nightproof.declare.chat_description import AfterUntrusted, ToolDescription

MOST_CALLS = 64
MOST_CHARS = 262_144
"""Of the names, ids and arguments of all calls of one answer."""

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_.:|=+/-]{0,256}")
_UNKNOWN_NAME = "an undeclared tool"
# Of what the scanner changes in a text, these are addresses that would be fetched or opened.
_ADDRESSES = frozenset(
    ("host", "scheme", "form", "long_query", "address_inside", "long", "inline", "definition")
)

_NAMES_A_HOST = re.compile(r"(?i)(?:\b(?!https:)[a-z][a-z0-9+.-]*:|(?<![:/\\\w]))[/\\]{2}[\w\[]")
"""An address that no client makes live in prose, so that the scanner lets it be, but that a tool may fetch."""


class MalformedToolCall(ValueError):
    """A streamed call in a form that the protocol does not have."""


class Denied(NamedTuple):
    """One call that may not be made, or not yet."""

    place: int
    name: str
    why: str


class ToolVerdict(msgspec.Struct, kw_only=True):
    """What becomes of the calls of one answer: all of them are good if nothing is denied and nothing waits."""

    denied: list[Denied] = []
    needs_approval: list[Denied] = []
    """May be made once a person has said yes to this very call."""
    findings: list[Finding] = []


class ToolCallAssembler:
    """Puts streamed pieces together to whole calls."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}
        self._last = -1
        self._chars = 0

    def __repr__(self) -> str:
        return f"<ToolCallAssembler of {len(self._calls)} calls, {self._chars} characters>"

    def feed(self, pieces: Sequence[Mapping[str, Any]]) -> None:
        """Take the pieces of one event, or raise `MalformedToolCall`."""
        for piece in pieces:
            if not isinstance(piece, Mapping):
                raise MalformedToolCall("a piece is not an object")
            call = self._call_of(piece)
            kind, call_id, function = piece.get("type"), piece.get("id"), piece.get("function")
            if kind not in (None, "", "function"):
                raise MalformedToolCall("a call is not of a function")
            if call_id is not None and call_id != "":
                self._take_id(call, call_id)
            if function is None:
                continue
            if not isinstance(function, Mapping):
                raise MalformedToolCall("a function is not an object")
            for part in ("name", "arguments"):
                self._take(call["function"], part, function.get(part))

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls so far, in their order."""
        return [self._calls[index] for index in sorted(self._calls)]

    def _call_of(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        index = piece.get("index")
        if index is None:  # some upstreams send whole calls without one
            index = self._next() if self._is_new(piece) else self._last
        if type(index) is not int or not 0 <= index < MOST_CALLS:
            raise MalformedToolCall(f"an index that is not a number from 0 to {MOST_CALLS - 1}")
        self._last = index
        if index not in self._calls:
            self._calls[index] = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        return self._calls[index]

    def _next(self) -> int:
        return max(self._calls, default=-1) + 1

    def _is_new(self, piece: Mapping[str, Any]) -> bool:
        if self._last < 0:
            return True
        call_id = piece.get("id")
        if call_id:
            return bool(call_id != self._calls[self._last]["id"])
        function = piece.get("function")
        return isinstance(function, Mapping) and bool(function.get("name"))

    def _take_id(self, call: dict[str, Any], call_id: Any) -> None:
        if call["id"] == call_id:
            return
        if call["id"]:
            raise MalformedToolCall("two ids for one call")
        self._take(call, "id", call_id)

    def _take(self, into: dict[str, Any], part: str, text: Any) -> None:
        if text is None or text == "":
            return
        if not isinstance(text, str):
            raise MalformedToolCall(f"a piece of {part} is not text")
        self._chars += len(text)
        if self._chars > MOST_CHARS:
            raise MalformedToolCall(f"calls of more than {MOST_CHARS} characters")
        into[part] += text


def judge_tools(
    calls: Sequence[Mapping[str, Any]],
    declared: Sequence[Mapping[str, Any]],
    policies: Sequence[ToolDescription],
    other: AfterUntrusted,
    *,
    is_tainted: bool,
    approved: Callable[[str, bytes], bool],
    scanner: Callable[[], OutputScanner],
) -> ToolVerdict:
    """Say which of `calls` may not be made, and which only once somebody has approved them.

    `declared` are the request's tools, `policies` what the service knows of some of them, `other` its rule for the
    rest. `is_tainted` says that the conversation has read untrusted content; `approved` that a person has said yes to
    a tool with these arguments, written canonically.
    """
    verdict = ToolVerdict()
    tools = {tool["name"]: tool for tool in _functions(declared)}
    known = {policy.name: policy for policy in policies}
    if len(calls) > MOST_CALLS:
        _deny(verdict, 0, "", "too many calls")
        return verdict
    ids: set[str] = set()
    for index, call in enumerate(calls):
        name, call_id, written = _parts(call)
        why = _wrong_form(name, call_id, ids, tools)
        if why:
            _deny(verdict, index, name if name in tools else "", why)
            continue
        ids.add(call_id)
        policy = known.get(name) or ToolDescription(name=name, after_untrusted=other)
        why, arguments = _wrong_arguments(written, policy, tools[name])
        if why:
            _deny(verdict, index, name, why)
            continue
        why, has_host = _wrong_content(arguments, call_id, scanner, verdict, index)
        if why:
            _deny(verdict, index, name, why)
        elif is_tainted and (policy.has_side_effect or has_host):
            _judge_act(verdict, index, policy, is_approved=lambda: approved(name, canonical_arguments(call)))  # noqa: B023
    if len(calls) > 1 and not verdict.denied and (why := _wrong_together(calls, scanner())):
        _deny(verdict, 0, "", why)
    return verdict


def canonical_arguments(call: Mapping[str, Any]) -> bytes:
    """Write a call's arguments so that the same ones are always the same octets."""
    written = call["function"]["arguments"]
    return orjson.dumps(parse(written.encode()) if written.strip() else {}, option=orjson.OPT_SORT_KEYS)


def _judge_act(
    verdict: ToolVerdict, index: int, policy: ToolDescription, *, is_approved: Callable[[], bool]
) -> None:
    """Decide about an act in a conversation that has read untrusted content."""
    if policy.after_untrusted == "refuse":
        _deny(verdict, index, policy.name, "not after untrusted content")
    elif policy.after_untrusted == "approve" and not is_approved():
        verdict.needs_approval.append(Denied(index, policy.name, "needs approval after untrusted content"))
        verdict.findings.append(_finding(index, "needs_approval"))


def _deny(verdict: ToolVerdict, index: int, name: str, why: str) -> None:
    verdict.denied.append(Denied(index, name or _UNKNOWN_NAME, why))
    verdict.findings.append(_finding(index, why.replace(" ", "_")))


def _finding(index: int, rule: str) -> Finding:
    return Finding("tool_calls", rule, pointer=f"/tool_calls/{index}", action="refuse")


def _functions(declared: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for tool in declared:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            yield function


def _parts(call: Any) -> tuple[str, str, Any]:
    """Return name, id and arguments of a call; empty where they are not there or not text."""
    if not isinstance(call, Mapping) or call.get("type", "function") != "function":
        return "", "", None
    function = call.get("function")
    if not isinstance(function, Mapping):
        return "", "", None
    name, call_id, written = function.get("name"), call.get("id") or "", function.get("arguments", "")
    if not isinstance(name, str) or not isinstance(call_id, str):
        return "", "", None
    return name, call_id, written


def _wrong_form(name: str, call_id: str, ids: set[str], tools: Mapping[str, Any]) -> str:
    if not name or _ID.fullmatch(call_id) is None:
        return "malformed"
    if name not in tools or _NAME.fullmatch(name) is None:
        return "not declared"
    if call_id and call_id in ids:
        return "its id is used twice"
    return ""


def _wrong_arguments(written: Any, policy: ToolDescription, tool: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what is wrong with the arguments, or nothing and their value."""
    if not isinstance(written, str):
        return "arguments are not text", None
    if len(written) > MOST_CHARS:
        return "arguments too long", None
    try:
        arguments = parse(written.encode()) if written.strip() else {}
    except (JsonRefused, UnicodeEncodeError):
        return "arguments are not strict JSON", None
    if not isinstance(arguments, dict):
        return "arguments are not an object", None
    schema = policy.parameters if policy.parameters is not None else tool.get("parameters")
    if schema is None:
        return "", arguments
    try:
        holds = _compiled(orjson.dumps(schema)).holds(arguments)
    except (DeclarationError, TypeError):
        return "its schema cannot be used", None
    return ("", arguments) if holds else ("arguments do not fit the schema", None)


@lru_cache(maxsize=256)
def _compiled(schema: bytes) -> json_schema.Schema:
    return json_schema.compile(orjson.loads(schema))


def _wrong_content(
    arguments: Any, call_id: str, scanner: Callable[[], OutputScanner], verdict: ToolVerdict, index: int
) -> tuple[str, bool]:
    """Scan all texts of the arguments; return why they may not go, and whether they name a host all the same."""
    written = "\n".join((call_id, *_names(arguments), *_texts(arguments)))
    has_host = False
    # In an answer an entity is made inert; arguments go as they are, so they are also read as a page would be.
    for text in dict.fromkeys((written, html.unescape(written))):
        looked = scanner()
        looked.feed(text)
        looked.end()
        findings = [each for each in looked.findings if each.check != "empty"]
        pointer = f"/tool_calls/{index}/function/arguments"
        told = [msgspec.structs.replace(each, pointer=pointer) for each in findings]
        verdict.findings += [each for each in told if each not in verdict.findings]
        if looked.stopped:
            return f"arguments hold {looked.stopped.replace('_', ' ')}", False
        if any(each.check == "links" and each.rule in _ADDRESSES for each in findings):
            return "arguments hold an address that is not allowed", False
        has_host |= _NAMES_A_HOST.search(text) is not None
        has_host |= any(each.rule in ("bare_host", "escape") for each in findings)
    return "", has_host


def _wrong_together(calls: Sequence[Mapping[str, Any]], scanner: OutputScanner) -> str:
    """Look for what was spread over several calls."""
    for call in calls:
        scanner.feed("\n".join((*_texts(parse(canonical_arguments(call))), "")))
    scanner.end()
    return (
        f"arguments hold {scanner.stopped.replace('_', ' ')}"
        if scanner.stopped in ("canary", "prompt_leak")
        else ""
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text and number in a JSON value, in their order: what is spread over several stands together."""
    for node in _nodes(value):
        if isinstance(node, str):
            yield node
        elif isinstance(node, int | float) and not isinstance(node, bool):
            yield repr(node)


def _names(value: Any) -> Iterator[str]:
    for node in _nodes(value):
        if isinstance(node, dict):
            yield from node


def _nodes(value: Any) -> Iterator[Any]:
    rest = [value]
    while rest:
        node = rest.pop()
        yield node
        if isinstance(node, dict):
            rest += reversed(node.values())
        elif isinstance(node, list):
            rest += reversed(node)
