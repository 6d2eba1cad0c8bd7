"""What to ask a chat service: chats of its golden cases, each whole and streamed; and what no chat service takes.

Of a typed service the records that it is given on the native route; these are never streamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from nightproof.base.clock import utc_now
from nightproof.declare.folder import read_golden
from nightproof.drills.inputs import Inputs, Marked

_MARKS = tuple(f"drillmark{number}" for number in range(10, 50))
_MESSAGES = frozenset({"messages", "tools"})


class ChatInputs(Inputs):
    """What to ask a chat service."""

    @property
    def is_typed(self) -> bool:
        """Say whether it is asked for records on the native route."""
        return self._declared.chat is not None and self._declared.chat.is_typed

    def good(self) -> list[dict[str, Any]]:
        """Return requests that are answered: each golden input that passes, whole and streamed in turn."""
        if self.is_typed:
            given = [*self._passing(), *self._passing(of_answers=True)]
            return [one["record"] if one.keys() == {"record", "answer"} else one for one in given]
        return [
            {**self.body_of(one["messages"], streamed=streamed), **_tools(one)}
            for one in self._passing()
            if one.keys() <= _MESSAGES
            for streamed in (False, True)
        ]

    def body_of(self, messages: list[dict[str, Any]], *, streamed: bool, **more: Any) -> dict[str, Any]:
        """Write a request of OpenAI's protocol."""
        return {"model": self._declared.service, "messages": messages, "stream": streamed, **more}

    def chat(self, text: str, *, streamed: bool = False, **more: Any) -> dict[str, Any]:
        """Write a request that says one thing."""
        return self.body_of([{"role": "user", "content": text}], streamed=streamed, **more)

    def question(self) -> str:
        """Return a question that is answered."""
        last = [one["messages"][-1] for one in self.good()] if not self.is_typed else []
        return next((str(one["content"]) for one in last if one.get("role") == "user"), "Hello")

    def known_bad(self, failure: str) -> list[dict[str, Any]]:
        """Return the golden inputs of which the service itself says that they are refused by this name."""
        if self.is_typed:
            return []
        return [
            {**self.body_of(one["messages"], streamed=streamed), **_tools(one)}
            for one, expected in self._cases()
            if one.keys() <= _MESSAGES and expected.get("failure") == failure
            for streamed in (False, True)
        ]

    def good_answer(self) -> str:
        """Return an answer of which the service says that it may leave; empty where it names none."""
        return next((one["answer"] for one in self._passing(of_answers=True) if one.get("answer")), "")

    def bad_answers(self) -> list[str]:
        """Return answers of which the service says that they may not leave."""
        return [
            one["answer"]
            for one, expected in self._cases()
            if one.get("answer") and expected.get("failure") == "unsafe_output"
        ]

    def marked(self) -> Iterator[Marked]:
        """Propose questions that no golden case asks, each known by a word in it."""
        for mark in _MARKS if not self.is_typed and self.good() else ():
            yield Marked(self.chat(f"{self.question()} {mark}"), "", mark)

    def _cases(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [(json.loads(case.input), case.expect) for case in read_golden(self._folder, utc_now())]

    def _passing(self, *, of_answers: bool = False) -> list[dict[str, Any]]:
        return [
            one
            for one, expected in self._cases()
            if not expected.get("failure") and of_answers == ("answer" in one or "tool_calls" in one)
        ]

    # A chat in OpenAI's form has no fields of its own: nothing of a schema can be broken, moved or made old.

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the fields at the top of a typed input; of a chat none."""
        return super().fields() if self.is_typed else {}

    def broken(self) -> dict[str, Any]:
        """Return inputs that do not fit the type; of a chat none."""
        return super().broken() if self.is_typed else {}


def _tools(said: dict[str, Any]) -> dict[str, Any]:
    return {"tools": said["tools"]} if said.get("tools") else {}
