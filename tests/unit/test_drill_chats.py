"""Drills of chat services without a server: what a caller was told, how it is judged, what is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nightproof.declare.chat_description import ChatDescription
from nightproof.drills import judge
from nightproof.drills.chat_inputs import ChatInputs
from nightproof.drills.drill import Drill
from nightproof.drills.faults.chat_checks import copied
from nightproof.drills.kinds import NEEDS_CHAT, OF_MODELS, why_not
from nightproof.drills.load import Answer, classify
from nightproof.drills.observed import Call, Marks, Observations
from nightproof.drills.promise import promised
from nightproof.drills.suite import all_drills
from tests.unit.test_drills import declared

CHAT = ChatDescription(prompt="Be kind.", upstreams=[])
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error": {"code": "upstream_broken"}}\n\n'


def event(text: str = "", finish: str | None = None, **more: Any) -> bytes:
    """Write one event of a stream."""
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


def told(body: bytes, kind: str = "text/event-stream", status: int = 200) -> Call:
    """Say how a call ended whose caller got this."""
    return classify(
        Answer(status, {"content-type": kind, "x-request-id": "r1"}, body), sent_s=0.0, took_s=0.1
    )


FALLBACK = {"nightproof": {"degraded": {"failure": "upstream_error", "by": "constant"}}}


@pytest.mark.parametrize(
    ("body", "ending", "failure"),
    [
        (event("Hi") + event(finish="stop") + DONE, "answered", ""),
        (event("Hi") + event(finish="stop", **FALLBACK) + DONE, "degraded", "upstream_error"),
        (event("Hi") + ERROR, "failed", "upstream_broken"),
        (event("Hi") + ERROR.replace(b"upstream_broken", b"tool_denied"), "refused", "tool_denied"),
        (event("Hi"), "lost", ""),
        (event("Hi") + b'data: {"choi', "lost", ""),
        (b"", "lost", ""),
        (event("Hi") + DONE, "torn", "looks_whole"),
        (event("Hi") + event(finish="stop"), "torn", "looks_whole"),
        (event("Hi") + event(finish="stop") + ERROR + DONE, "torn", "upstream_broken"),
    ],
)
def test_a_stream_counts_as_whole_only_with_its_reason_and_its_end(body: bytes, ending: str, failure: str):
    call = told(body)

    assert (call.ending, call.failure) == (ending, failure)
    assert bool(call.output) == (ending == "answered")


def test_an_error_of_the_protocol_has_the_name_of_the_catalogue():
    body = b'{"error": {"code": "model_not_found"}}'

    assert (told(body, "application/json", 404).ending, told(body, "application/json", 404).failure) == (
        "refused",
        "unknown_service",
    )


def calls(*endings: str, output: str = "right") -> list[Call]:
    """Return calls after the fault that ended so."""
    return [Call(sent_s=2.0, took_s=0.1, ending=one, output=output, id="r") for one in endings]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        (calls("answered"), True),
        (calls("answered", output="shorter"), False),
        (calls("answered", "torn"), False),
        (calls("answered", "hung"), False),
    ],
)
def test_an_answer_that_looks_whole_and_is_not_is_harm_whatever_was_promised(seen: list[Call], holds: bool):
    promise = promised(declared(chat=CHAT), "upstream_broken", shelter="named")
    before = [Call(sent_s=0.0, took_s=0.1, output="right", id="b")]
    marks = Marks(fault_s=1.0, undone_s=3.0, steady_s=3.0, ended_s=4.0)

    contained = judge.judge(promise, Observations(marks=marks, calls=[*before, *seen]))[0]

    assert (contained.word == "held") is holds, contained


def test_what_befalls_the_workers_of_a_chat_is_a_check_without_a_verdict():
    promise = promised(declared(chat=CHAT), "model_error")

    assert (promise.alert, promise.recorded_as) == ("check_failed", "check_failed")
    assert promised(declared(), "model_error").alert == "model_error"


@pytest.fixture
def inputs(tmp_path: Path) -> ChatInputs:
    """Know a chat service by good and bad golden cases."""
    chat = [{"role": "user", "content": "Where is my order?"}]
    lines: list[dict[str, Any]] = [
        {"input": {"messages": chat}, "expect": {"failure": ""}},
        {"input": {"messages": chat}, "expect": {"failure": "injection_suspected"}},
        {"input": {"messages": chat, "answer": "Soon."}, "expect": {"failure": ""}},
        {"input": {"messages": chat, "answer": "Never."}, "expect": {"failure": "unsafe_output"}},
    ]
    (tmp_path / "golden.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return ChatInputs(tmp_path, declared(chat=CHAT))


def test_chats_are_golden_inputs_that_pass_half_of_them_streamed(inputs: ChatInputs):
    assert [one["stream"] for one in inputs.good()] == [False, True]
    assert (inputs.good_answer(), inputs.bad_answers()) == ("Soon.", ["Never."])
    assert len(inputs.known_bad("injection_suspected")) == 2
    assert inputs.fields() == {}


def test_each_drill_fits_a_kind_of_service_or_says_why_not():
    drills = {one.name: one for one in all_drills() if isinstance(one, Drill)}

    assert set(OF_MODELS) <= set(drills)
    for drill in drills.values():
        for_model, for_chat = why_not(drill, declared()), why_not(drill, declared(chat=CHAT))
        assert (for_model == NEEDS_CHAT) is drill.needs_chat
        assert not (for_model and for_chat), "it fits neither"


def test_what_an_answer_has_in_common_with_the_prompt_is_counted_in_letters_and_digits():
    assert copied("He said: Be, kind!", "Be kind.") == 6
    assert copied("nothing", "") == 0
