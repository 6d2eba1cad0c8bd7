"""Check an answer again, outside the worker that gave it: JSON, schema, confidence floor."""

from __future__ import annotations

import msgspec
import orjson

from nightproof.base import schema as json_schema
from nightproof.declare.describe import Description


class Verdict(msgspec.Struct, frozen=True):
    """What the checks say of one answer."""

    failure: str = ""
    detail: str = ""
    confidence: float | None = None


class OutputChecks:
    """A release's output checks, compiled once from its description."""

    def __init__(self, description: Description) -> None:
        self._schema = json_schema.compile(description.output_schema)
        self._holds = self._schema.holds
        self._chat = description.chat
        self._floor = description.confidence_floor
        self._confidence_field = description.confidence_field

    def judge_constant(self, output: bytes) -> Verdict:
        """Judge the answer of a `fallback.constant`; of a chat without types that is a text, held to its rules."""
        chat = self._chat
        if chat is None or chat.is_typed:
            return self.judge(output)
        from nightproof.checks.leaving import CompiledRules, OutputScanner  # of chat services only
        from nightproof.checks.prompt_shadow import PromptShadow

        prompt = PromptShadow(chat.prompt, chat.output.sayable)
        scanner = OutputScanner(CompiledRules(chat.output), canary="", prompt=prompt)
        scanner.feed(msgspec.json.decode(output, type=str))
        scanner.end()
        return Verdict("unsafe_output", scanner.stopped) if scanner.stopped else Verdict()

    def judge(self, output: bytes) -> Verdict:
        """Judge one answer. An answer that is no JSON, or has NaN, does not get out."""
        try:
            value = orjson.loads(output)
        except orjson.JSONDecodeError:
            return Verdict("invalid_output", "the answer is not JSON")
        if not self._holds(value):
            told = "; ".join(
                f"{error.pointer or '/'} {error.detail}" for error in self._schema.errors(value)[:3]
            )
            return Verdict("invalid_output", told)
        if not self._confidence_field:
            return Verdict()
        confidence = value.get(self._confidence_field)
        if not isinstance(confidence, int | float):
            return (
                Verdict()
                if self._floor is None
                else Verdict("low_confidence", "the answer has no confidence")
            )
        if self._floor is not None and confidence < self._floor:
            return Verdict(
                "low_confidence", f"confidence is under the floor of {self._floor:g}", float(confidence)
            )
        return Verdict(confidence=float(confidence))
