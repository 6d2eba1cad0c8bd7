"""Marks on fields of inputs and outputs. They travel as `x-nightproof-…` words in the JSON Schema.

The server process judges them from the schema alone, without the user's code.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

CONFIDENCE_WORD = "x-nightproof-confidence"
FRESH_WORD = "x-nightproof-fresh"
USUAL_WORD = "x-nightproof-usual"
SUBJECT_WORD = "x-nightproof-subject"
SENSITIVE_WORD = "x-nightproof-sensitive"
UNTRUSTED_WORD = "x-nightproof-untrusted"

Confidence = Annotated[float, Field(ge=0.0, le=1.0, json_schema_extra={CONFIDENCE_WORD: True})]
"""How sure the model is, 0 to 1: watched, and held to the service's `confidence_floor`."""


@dataclass(frozen=True)
class Fresh:
    """Refuse a time that is older than `max_age`, or further ahead than `ahead` (clocks differ a little).

    Use it on a `datetime` field: `as_of: Annotated[datetime, Fresh(timedelta(days=30))]`.
    A time without its offset is refused, as by every `datetime` field: nobody knows which hour it names.
    """

    max_age: timedelta
    ahead: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        if self.max_age <= timedelta(0) or self.ahead < timedelta(0):
            raise ValueError("Fresh needs a positive max_age and an ahead of zero or more.")

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        schema[FRESH_WORD] = {
            "max_age_s": self.max_age.total_seconds(),
            "ahead_s": self.ahead.total_seconds(),
        }
        return schema


@dataclass(frozen=True, init=False)
class Usual:
    """Flag, and do not refuse, a value outside what the data had: a sample is not the world.

    `Usual(ge=18, le=90)` for numbers, `Usual(among=["red", "blue"])` for categories. A flagged request
    is answered; its record and the metric `nightproof_findings_total` say so.
    """

    ge: float | None
    le: float | None
    among: tuple[str | int | float | bool, ...] | None

    def __init__(
        self,
        *,
        ge: float | None = None,
        le: float | None = None,
        among: Collection[str | int | float | bool] | None = None,
    ) -> None:
        if ge is None and le is None and among is None:
            raise ValueError("Usual needs a bound: ge, le or among.")
        object.__setattr__(self, "ge", ge)
        object.__setattr__(self, "le", le)
        object.__setattr__(self, "among", None if among is None else tuple(among))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        usual: dict[str, Any] = {}
        if self.ge is not None:
            usual["minimum"] = self.ge
        if self.le is not None:
            usual["maximum"] = self.le
        if self.among is not None:
            usual["enum"] = list(self.among)
        schema[USUAL_WORD] = usual
        return schema


@dataclass(frozen=True)
class Subject:
    """Name the person whom a record is about: `patient: Annotated[str, Subject()]`, one field of the input.

    Content about a person is sealed under a key of that person's, so that `nightproof audit erase --subject X`
    can destroy it. The log knows the person by a pseudonym only.
    """

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        schema[SUBJECT_WORD] = True
        return schema


@dataclass(frozen=True)
class Sensitive:
    """Never show a field's value: `note: Annotated[str, Sensitive()]`, in inputs and outputs.

    It is in the sealed content, and shown masked; `nightproof audit show --reveal` shows it, and is recorded.
    """

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        schema[SENSITIVE_WORD] = True
        return schema


@dataclass(frozen=True)
class Untrusted:
    """Say that a field carries somebody else's text: `page: Annotated[str, Untrusted()]`, in a chat service's input.

    Web pages, mails, files, search results: whoever wrote them may have written instructions for the model. Such a
    field is inspected as a document, marked as data before the model reads it, and taints the conversation.
    """

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        schema[UNTRUSTED_WORD] = True
        return schema
