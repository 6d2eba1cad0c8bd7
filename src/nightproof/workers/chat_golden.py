"""Golden cases of a chat service: inputs and answers with what the checks must say of them.

Known-bad ones prove that the checks run, known-good ones that they do not refuse everything: each worker shows both
before it serves, and again at every heartbeat. No upstream is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import BaseModel

from nightproof.base.errors import DeclarationError
from nightproof.base.failures import CATALOGUE
from nightproof.checks.chat_tasks import InputTask, InputVerdict, OutputTask, OutputVerdict
from nightproof.declare.folder import GoldenCase
from nightproof.workers.usercode import same

_EXPECTED = frozenset(("failure", "findings", "output"))
_HINT = (
    'A line is {"input": {"messages": […]}, "expect": {"failure": "injection_suspected"}}; with "answer" in the input'
    " it is about an answer. expect may hold failure (empty: none), findings and, of a typed answer, output."
)


class ChatCase(msgspec.Struct, frozen=True):
    """One golden case as the task that it comes to."""

    line: int
    task: InputTask | OutputTask
    expect: dict[str, Any]


def chat_cases(
    cases: Sequence[GoldenCase], given: type[BaseModel] | None, *, boundary: str
) -> list[ChatCase]:
    """Read golden cases as tasks. Raises DeclarationError for a line that is none."""
    read = []
    for case in cases:
        try:
            task = task_of(msgspec.json.decode(case.input), given, boundary=boundary)
            read.append(ChatCase(case.line, task, _expected(case.expect)))
        except ValueError as error:
            raise DeclarationError(f"golden.jsonl, line {case.line}: {error}.", hint=_HINT) from error
    return read


def trouble_with(case: ChatCase, verdict: InputVerdict | OutputVerdict) -> str:
    """Say what does not hold of a case; empty if all does."""
    where = f"golden.jsonl line {case.line}"
    wanted = case.expect.get("failure", "")
    if verdict.failure != wanted:
        told = "; ".join(f"{error.pointer or '/'} {error.detail}" for error in verdict.errors)
        seen = (
            f"{verdict.failure} {verdict.detail} {told}".strip() if verdict.failure else "nothing was found"
        )
        return f"{where}: expected {wanted or 'no failure'}, but {seen}"
    found = {name for one in verdict.findings for name in (one.check, f"{one.check}:{one.rule}")}
    if missing := [name for name in case.expect.get("findings", ()) if name not in found]:
        return f"{where}: {missing[0]} found nothing"
    if "output" in case.expect:
        written = verdict.output if isinstance(verdict, OutputVerdict) else msgspec.Raw(b"null")
        got = msgspec.json.decode(written)
        for name, expected in case.expect["output"].items():
            if not isinstance(got, dict) or not same(got.get(name), expected):
                value = got.get(name) if isinstance(got, dict) else got
                return f"{where}: {name} is {value!r}, expected {expected!r} (numbers within 1e-6)"
    return ""


def task_of(said: Any, given: type[BaseModel] | None, *, boundary: str) -> InputTask | OutputTask:
    """Return what a worker is asked about an input as golden cases write it. Raises ValueError."""
    if not isinstance(said, dict):
        raise ValueError("its input is no object")
    if given is not None and "messages" not in said:
        if said.keys() == {"record", "answer"}:
            record = msgspec.Raw(msgspec.json.encode(said["record"]))
            return OutputTask(messages=[], text=_text(said["answer"]), record=record)
        return InputTask(messages=[], boundary=boundary, record=msgspec.Raw(msgspec.json.encode(said)))
    if not said.keys() <= {"messages", "tools", "answer", "tool_calls"} or "messages" not in said:
        raise ValueError("its input has no messages, or more than messages, tools, answer and tool_calls")
    messages = _dicts("messages", said["messages"])
    if "answer" in said or "tool_calls" in said:
        calls = _dicts("tool_calls", said.get("tool_calls", []))
        return OutputTask(messages=messages, text=_text(said.get("answer", "")), tool_calls=calls)
    return InputTask(messages=messages, boundary=boundary, tools=_dicts("tools", said.get("tools", [])))


def _expected(expect: dict[str, Any]) -> dict[str, Any]:
    if not expect or not expect.keys() <= _EXPECTED:
        raise ValueError("it expects nothing, or something else than failure, findings and output")
    failure = expect.get("failure", "")
    if not isinstance(failure, str) or (failure and failure not in CATALOGUE):
        raise ValueError(f"there is no failure {failure!r}")
    findings = expect.get("findings", [])
    if not isinstance(findings, list) or not all(isinstance(one, str) for one in findings):
        raise ValueError("findings is no list of names")
    if not isinstance(expect.get("output", {}), dict):
        raise ValueError("output is no object")
    return expect


def _dicts(word: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError(f"{word} is no list of objects")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("its answer is no text")
    return value
