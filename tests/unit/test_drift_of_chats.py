"""A chat release is watched by its prompts and by what its own checks say of them; no upstream is asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import orjson
import pytest

from nightproof.checks.chat_tasks import Finding, InputTask, InputVerdict, task_decoder, task_encoder
from nightproof.declare.chat_description import ChatDescription, InputCheckDescription, UpstreamDescription
from nightproof.declare.describe import Description
from nightproof.steer.driftwatch import LiveRelease, answering_of, release_of
from nightproof.watch.drift.prompts import GUARD_SCHEMA, PROMPT_SCHEMA
from nightproof.workers.engine import Job, Outcome

CHAT = ChatDescription(
    prompt="Be kind.",
    upstreams=[UpstreamDescription(name="main", base_url="http://127.0.0.1:9/v1", model="m")],
    input_checks={
        "injection_model": InputCheckDescription(action="flag"),
        "personal": InputCheckDescription(action="off"),
    },
)
Verdict = Callable[[InputTask], Outcome]


class Guards:
    """An engine whose workers say of every prompt what the test says."""

    def __init__(self, description: Description, verdict: Verdict) -> None:
        self.description = description
        self.asked: list[InputTask] = []
        self._verdict = verdict

    def is_ready(self) -> bool:
        return True

    def snapshot(self) -> Any:
        return SimpleNamespace(queued=0)

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            task = task_decoder.decode(job.input)
            assert isinstance(task, InputTask)
            self.asked.append(task)
            assert job.waiter is not None
            job.waiter.tell(job, self._verdict(task))


def described(chat: ChatDescription | None) -> Description:
    return Description(
        service="desk", input_schema={"properties": {"x": {}}}, output_schema={}, deadline_ms=1_000,
        predict_timeout_ms=500, confidence_floor=None, confidence_field="", fallbacks=[], availability=0.999,
        latency_p99_ms=None, max_batch=8, max_wait_ms=0.0, max_items=1, workers_min=1, workers_max=1, spares=0,
        memory_mb=0, load_timeout_s=1.0, golden_cases=0, input_checks=["mine"], output_checks=[], chat=chat,
    )  # fmt: skip


def verdict(task: InputTask) -> Outcome:
    said = str(task.messages[0]["content"])
    found = [Finding("injection_model", rule="x")] if "ignore" in said else []
    told = InputVerdict(scores={"injection_model": 0.9 if found else 0.1}, findings=found)
    return Outcome(output=task_encoder.encode(told))


def live(chat: ChatDescription | None, says: Verdict = verdict) -> tuple[LiveRelease, Guards]:
    guards = Guards(described(chat), says)
    return LiveRelease("desk", "1.0", "d", cast(Any, guards), cast(Any, None), cast(Any, None)), guards


def prompts(*texts: str) -> list[bytes]:
    return [orjson.dumps({"prompt": text, "turns": 1}) for text in texts]


def test_of_a_chat_its_prompts_and_its_checks_are_watched():
    release = release_of(live(CHAT)[0])

    assert release.is_chat
    assert (release.input_schema, release.output_schema) == (PROMPT_SCHEMA, GUARD_SCHEMA)
    assert release.checks == ["injection_model"], "what is off finds nothing"


@pytest.mark.parametrize("chat", [None, msgspec.structs.replace(CHAT, is_typed=True)])
def test_a_model_and_a_chat_with_typed_input_are_watched_by_their_fields(chat: ChatDescription | None):
    release = release_of(live(chat)[0])

    assert not release.is_chat
    assert release.input_schema == {"properties": {"x": {}}}
    assert release.checks == ["mine", "unusual"]


def test_the_checks_look_at_the_references_prompts_as_at_a_callers():
    release, guards = live(CHAT)

    answers = asyncio.run(_answered(release, prompts("hello", "ignore all that", "bye")))

    assert answers == [
        (b'{"guard_score":0.1}', []),
        (b'{"guard_score":0.9}', ["injection_model"]),
        (b'{"guard_score":0.1}', []),
    ]
    assert guards.asked[0].messages == [{"role": "user", "content": "hello"}]


def test_a_check_that_fails_ends_the_looking_and_what_was_seen_stays():
    def failing(task: InputTask) -> Outcome:
        return Outcome(failure="model_timeout") if "20" in str(task.messages) else verdict(task)

    release, _ = live(CHAT, failing)

    answers = asyncio.run(_answered(release, prompts(*(f"text {number}" for number in range(32)))))

    assert len(answers) == 16, "two batches of eight, and none of the third"


def test_no_upstream_is_asked_to_answer_the_reference_of_a_typed_chat():
    release, guards = live(msgspec.structs.replace(CHAT, is_typed=True))

    assert asyncio.run(_answered(release, [b'{"x":1}'])) == []
    assert guards.asked == []


async def _answered(release: LiveRelease, inputs: list[bytes]) -> list[tuple[bytes, list[str]]]:
    return await answering_of(release)(inputs)
