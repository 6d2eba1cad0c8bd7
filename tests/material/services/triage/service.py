"""A typed chat service with checks that misbehave on cue: sorts mails with an attachment."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from nightproof import ChatService, Untrusted, fallback, upstream


class Page(BaseModel):
    title: str
    text: Annotated[str, Untrusted()]


class Mail(BaseModel):
    subject: str = Field(max_length=200)
    language: Literal["en", "de"] = "en"
    body: Annotated[str, Untrusted()] = Field(alias="mail-body")
    pages: list[Page] = []
    tags: dict[str, str] = {}

    @field_validator("subject")
    @classmethod
    def raises(cls, subject: str) -> str:
        if subject == "validator":
            raise RuntimeError("the caller's own words")
        return subject


class Sorted(BaseModel):
    queue: Literal["orders", "returns", "other"]
    sure: float = Field(ge=0, le=1)
    note: str | None = None


service = ChatService(
    "triage",
    input=Mail,
    output=Sorted,
    template="Sort this {language} mail.\nSubject: {subject}\n{body}\nPages: {pages} {{as JSON}}{tags}",
    prompt=Path("prompt.md"),
    upstreams=[
        upstream.openai("hosted", base_url="https://llm.example/v1", model="m-1", secret="env:NO_SUCH_KEY"),
        upstream.openai("spare", base_url="http://127.0.0.1:9/v1", model="m-2"),
    ],
    max_input_tokens=5_000,
    checks={"personal": "redact"},
    fallbacks=[fallback.last_good(), fallback.constant(Sorted(queue="other", sure=0.0))],
    deadline_ms=10_000,
    predict_timeout_ms=500,
    workers=(1, 1),
    spares=0,
)


@service.input_check
def acts_on_cue(given: Mail) -> str | None:
    if given.subject == "raise":
        raise ValueError("the caller's own words")
    if given.subject == "number":
        return 3  # type: ignore[return-value]
    if given.subject == "hang":
        time.sleep(30)
    if given.subject == "die":
        os._exit(3)
    return "this subject is refused" if given.subject == "refuse" else None


@service.input_check(action="flag")
def shouting(given: Mail) -> str | None:
    return "all capitals" if given.subject.isupper() else None


@service.output_check
def returns_are_sure(given: Mail, answer: Sorted) -> str | None:
    if given.subject == "raise later":
        raise ValueError("the caller's own words")
    return "an unsure return" if answer.queue == "returns" and answer.sure < 0.5 else None


@service.output_check(action="flag")
def noted(given: Mail, answer: Sorted) -> str | None:
    return "a note" if answer.note else None
