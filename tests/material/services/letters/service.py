"""A typed chat service of tests: a letter in, its subject and mood out."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from nightproof import ChatService, Untrusted, fallback, upstream

GIVEN = json.loads((Path(__file__).parent / "given.json").read_text())


class Letter(BaseModel):
    sender: str = Field(max_length=100)
    text: Annotated[str, Untrusted()]


class Sorted(BaseModel):
    subject: str = Field(min_length=1, max_length=200)
    mood: Literal["calm", "angry"]


service = ChatService(
    "letters",
    upstreams=[
        upstream.openai(
            "only",
            base_url=GIVEN["CHAT_UPSTREAMS"].split(",")[0],
            model="model-only",
            first_token_ms=1_000,
            idle_ms=1_000,
        )
    ],
    prompt="You sort the letters of an office. Answer in JSON.",
    template="A letter by {sender}:\n{text}",
    input=Letter,
    output=Sorted,
    repairs=1,
    fallbacks=[fallback.constant(Sorted(subject="unsorted", mood="calm"))],
    deadline_ms=8_000,
    workers=(1, 1),
    spares=0,
)


@service.output_check
def no_swearing(given: Letter | list, answer: Sorted) -> str | None:
    return "swears" if "damn" in answer.subject.lower() else None
