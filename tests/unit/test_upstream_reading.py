"""What upstreams write, read strictly: shapes, ids, usage, pauses; and what an end means to breaker and limit."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from nightproof.pipeline.upstream_choice import Ask, Option, backoff_s, line_time, next_step, time_for
from nightproof.pipeline.upstream_gate import judge
from nightproof.workers.upstream.addresses import is_public_name, may_connect
from nightproof.workers.upstream.client import failure_of, pause_of
from nightproof.workers.upstream.shapes import (
    MalformedAnswer,
    StreamShape,
    ToldError,
    code_in,
    completion_of,
)
from nightproof.workers.upstream.sse import MalformedStream, SseReader
from nightproof.workers.upstream.values import Completion, Delta, UpstreamFault, Usage

MESSAGES = [{"role": "user", "content": "x" * 384}]


def answered(message: Any = None, *, finish: Any = "stop", **over: Any) -> Completion:
    """Read an answer with this message."""
    choice = {"message": {"content": "hi"} if message is None else message, "finish_reason": finish}
    body = json.dumps({"choices": [choice]} | over).encode()
    return completion_of(body, messages=MESSAGES, model="asked")


def call(one: Any, name: Any = "look", arguments: Any = "{}", **over: Any) -> dict[str, Any]:
    """Return a tool call as upstreams write it."""
    return {"id": one, "type": "function", "function": {"name": name, "arguments": arguments}} | over


def test_text_may_come_in_parts_and_what_is_unknown_is_left_out():
    parts = [
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "…"},
        {"type": "text", "text": "b"},
    ]

    assert answered({"content": parts}).text == "ab"
    assert answered({"content": None, "refusal": "no"}).refusal == "no"


@pytest.mark.parametrize("content", [5, {"a": 1}, [1], [{"type": "text"}], [{"type": "text", "text": 1}]])
def test_content_that_is_no_text_is_malformed(content: Any):
    with pytest.raises(MalformedAnswer):
        answered({"content": content})


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("stop", "stop"), ("length", "length"), ("tool_calls", "tool_calls"), ("content_filter", "content_filter"),
        ("eos", "stop"), ("end_turn", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
    ],
)  # fmt: skip
def test_ends_are_told_in_the_protocols_words(told: str, read: str):
    assert answered(finish=told).finish_reason == read


@pytest.mark.parametrize("told", [None, "", "error", "abort", "whatever"])
def test_an_end_that_is_none_is_malformed(told: str | None):
    with pytest.raises(MalformedAnswer):
        answered(finish=told)


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 11, "completion_tokens": 7}, Usage(11, 7)),
        ({"prompt_tokens": 0, "completion_tokens": 1}, Usage(0, 1)),
        (None, Usage(100, 1, is_estimated=True)),
        ({}, Usage(100, 1, is_estimated=True)),
        ([], Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": -1, "completion_tokens": 7}, Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": 11, "completion_tokens": 10**12}, Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": True, "completion_tokens": 7}, Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": 1.5, "completion_tokens": 7}, Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": "11", "completion_tokens": 7}, Usage(100, 1, is_estimated=True)),
        ({"prompt_tokens": 11, "completion_tokens": 0}, Usage(100, 1, is_estimated=True)),
    ],
)
def test_usage_that_cannot_be_true_is_an_estimate_and_flagged(told: Any, usage: Usage):
    assert answered(usage=told).usage == usage


def test_usage_far_below_what_was_said_is_not_believed():
    answer = answered({"content": "y" * 10_000}, usage={"prompt_tokens": 1, "completion_tokens": 3})

    assert answer.usage == Usage(100, 2_500, is_estimated=True)


def test_tool_calls_have_ids_of_their_own_whatever_the_upstream_says():
    calls = answered(
        {"tool_calls": [call("a"), call("a"), call(None), call("")]}, finish="tool_calls"
    ).tool_calls
    ids = [one["id"] for one in calls]

    assert ids[0] == "a"
    assert len(set(ids)) == 4
    assert all(one.startswith("call_") and len(one) == 29 for one in ids[1:])
    assert calls[0] == {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    "bad", [call("a", name=None), call("a", name=""), call("a", arguments=5), {"id": "a"}]
)
def test_a_tool_call_that_cannot_be_made_is_malformed(bad: dict[str, Any]):
    with pytest.raises(MalformedAnswer):
        answered({"tool_calls": [bad]})


def test_arguments_may_be_an_object_and_calls_are_bounded():
    assert (
        answered({"tool_calls": [call("a", arguments={"b": 1})]}).tool_calls[0]["function"]["arguments"]
        == '{"b":1}'
    )
    with pytest.raises(MalformedAnswer):
        answered({"tool_calls": [call(str(at)) for at in range(129)]})


@pytest.mark.parametrize(("told", "read"), [("m-2026", "m-2026"), (None, "asked"), (5, "asked"), ("x" * 201, "asked"),
                                            ("a\nb", "asked"), ("", "asked")])  # fmt: skip
def test_the_model_is_as_told_if_it_is_a_name(told: Any, read: str):
    assert answered(model=told).model == read


def streamed(*events: Any) -> list[Delta]:
    """Read events of a stream."""
    shape = StreamShape(MESSAGES, "asked")
    deltas = [shape.take(one if isinstance(one, bytes) else json.dumps(one).encode()) for one in events]
    return [delta for delta in deltas if delta is not None]


def chunk(delta: Any, finish: Any = None, **over: Any) -> dict[str, Any]:
    """Return a chunk as upstreams write it."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | over


def test_the_end_of_a_stream_is_told_last_with_its_usage():
    told = {"prompt_tokens": 11, "completion_tokens": 7}
    deltas = streamed(
        chunk({"role": "assistant"}), chunk({"content": "hi"}), chunk({}, "stop"),
        {"choices": [], "usage": told}, b"[DONE]",
    )  # fmt: skip

    assert deltas == [Delta(text="hi"), Delta(finish_reason="stop", usage=Usage(11, 7))]


def test_a_streams_usage_is_estimated_of_what_came():
    deltas = streamed(chunk({"content": "y" * 40}), chunk({"refusal": "z" * 40}, "stop"), b"[DONE]")

    assert deltas[-1].usage == Usage(100, 20, is_estimated=True)


def test_streamed_tool_calls_have_one_id_each_in_their_first_piece():
    deltas = streamed(
        chunk({"tool_calls": [call(None) | {"index": 0}, call("b") | {"index": 1}]}),
        chunk({"tool_calls": [{"index": 0, "id": "later", "function": {"arguments": " "}}]}),
        chunk({"tool_calls": [{"index": 2, "id": "b", "function": {"name": "look"}}]}),
    )
    pieces = [piece for delta in deltas for piece in delta.tool_calls]
    ids = [piece.get("id") for piece in pieces]

    assert ids[1] == "b"
    assert ids[2] is None
    assert len({ids[0], ids[1], ids[3], "later"}) == 4
    assert pieces[2] == {"index": 0, "function": {"arguments": " "}}


def test_tool_calls_without_an_index_follow_each_other():
    deltas = streamed(
        chunk({"tool_calls": [call("a", arguments="")]}),
        chunk({"tool_calls": [{"function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [call("b")]}),
    )

    assert [piece["index"] for delta in deltas for piece in delta.tool_calls] == [0, 0, 1]


@pytest.mark.parametrize(
    "event",
    [
        b"{", b"[]", b"", chunk({"content": 5}), chunk({}, "error"), {"choices": [{}, {}]},
        {"choices": [{"index": 1, "delta": {"content": "a"}}]},
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [call("a") | {"index": -1}]}), chunk({"tool_calls": [call("a") | {"index": 10**9}]}),
        b"[DONE]",
    ],
)  # fmt: skip
def test_an_event_that_is_none_is_malformed(event: Any):
    with pytest.raises(MalformedAnswer):
        streamed(event)


def test_an_error_within_a_stream_is_told_by_its_known_name_only():
    with pytest.raises(ToldError, match=r"^server_error$"):
        streamed({"error": {"message": "secret", "code": "server_error"}})
    with pytest.raises(ToldError, match=r"^$"):
        streamed({"error": "secret"})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "model_not_found", "message": "x"}}', "model_not_found"),
        (b'{"error": {"code": null, "type": "server_error"}}', "server_error"),
        (b'{"code": "rate_limit_exceeded"}', "rate_limit_exceeded"),
        (b'{"error": {"code": "our_secret_sauce"}}', ""),
        (b'{"error": {"code": 5}}', ""),
        (b"[1]", ""),
        (b"<html>", ""),
        (b"", ""),
    ],
)
def test_an_error_is_named_from_our_list_or_not_at_all(body: bytes, code: str):
    assert code_in(body) == code


@pytest.mark.parametrize(
    "line",
    [
        b'{"error": "x"}\n',
        b"<html>\n",
        b"data : x\n",
        b"DATA: x\n",
        b"x" * 300 + b"\n",
        b"data: " + b"x" * 300,
    ],
)
def test_a_line_that_is_no_field_or_too_long_is_malformed(line: bytes):
    with pytest.raises(MalformedStream):
        SseReader(most_line_bytes=256).feed(line)


def test_an_event_of_many_lines_is_bounded_too_and_empty_ones_are_left_out():
    reader = SseReader(most_line_bytes=256)

    assert reader.feed(b"data:\n\ndata: a\n\n") == [b"a"]
    with pytest.raises(MalformedStream):
        for _ in range(20):
            reader.feed(b"data: " + b"x" * 50 + b"\n")


NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, 0.0),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "1e3"}, 0.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "99999999"}, 300.0),
        ({"retry-after": "9" * 400}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:07 GMT"}, 7.0),
        ({"retry-after": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 24 Nov 2026 12:00:07"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_a_pause_is_read_in_all_its_forms_and_bounded(headers: dict[str, str], pause_s: float):
    assert pause_of(lambda name: headers.get(name, ""), now=NOW) == pause_s


def test_every_status_that_is_no_answer_has_a_failure():
    table = {status: failure_of(status) for status in (202, 400, 401, 402, 403, 404, 408, 409, 413, 415, 422, 429, 500,
                                                       501, 502, 503, 504, 529)}  # fmt: skip

    assert {status for status, name in table.items() if name == "upstream_rejected"} == {400, 413, 415, 422}
    assert {status for status, name in table.items() if name == "upstream_timeout"} == {408, 504}
    assert {status for status, name in table.items() if name == "upstream_limited"} == {429}
    assert {status for status, name in table.items() if name == "upstream_broken"} == {202}
    assert {status for status, name in table.items() if name == "upstream_error"} == {
        401, 402, 403, 404, 409, 500, 501, 502, 503, 529
    }  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "status", "was_cut", "waited_s", "counts", "signal"),
    [
        ("", 0, False, 0.1, "good", "good"),
        ("upstream_rejected", 400, False, 0.1, "good", "none"),
        ("upstream_error", 401, False, 0.1, "good", "none"),
        ("upstream_error", 404, False, 0.1, "good", "none"),
        ("upstream_timeout", 408, False, 0.1, "bad", "slow"),
        ("upstream_limited", 429, False, 0.1, "bad", "refused"),
        ("upstream_error", 500, False, 0.1, "bad", "none"),
        ("upstream_error", 503, False, 0.1, "bad", "refused"),
        ("upstream_error", 529, False, 0.1, "bad", "refused"),
        ("upstream_error", 307, False, 0.1, "bad", "none"),
        ("upstream_error", 0, False, 0.1, "bad", "none"),
        ("upstream_broken", 0, False, 0.1, "bad", "none"),
        ("upstream_unreachable", 0, False, 0.1, "bad", "refused"),
        ("upstream_timeout", 0, False, 0.1, "bad", "slow"),
        ("upstream_timeout", 0, True, 1.9, "neither", "none"),
        ("upstream_timeout", 0, True, 2.1, "bad", "slow"),
    ],
)
def test_what_an_end_says_of_the_upstream(
    failure: str, status: int, was_cut: bool, waited_s: float, counts: str, signal: str
):
    fault = UpstreamFault(failure, "", status=status, was_cut=was_cut) if failure else None

    assert judge(fault, waited_s=waited_s, patience_s=2.0) == (counts, signal)


FRESH = Option()
OPEN = Option(closed_for_s=3.0, why="breaker")
PAUSED = Option(closed_for_s=3.0, why="pause")
FAILED = Option(tries=1)
HOPELESS = Option(tries=1, may_help=False)


@pytest.mark.parametrize(
    ("options", "remaining_s", "may_retry", "step"),
    [
        ([FRESH, FRESH], 10.0, True, Ask(0)),
        ([FAILED, FRESH], 10.0, True, Ask(1)),
        ([OPEN, FRESH], 10.0, True, Ask(1)),
        ([PAUSED, FRESH], 10.0, True, Ask(1)),
        ([FRESH], 0.0, True, None),
        ([OPEN], 100.0, True, None),
        ([PAUSED], 10.0, False, Ask(0, 3.15)),
        ([PAUSED], 6.0, False, None),
        ([FAILED], 10.0, True, Ask(0, 0.1, True)),
        ([FAILED], 10.0, False, None),
        ([FAILED], 0.1, True, None),
        ([HOPELESS], 10.0, True, None),
        ([HOPELESS, FAILED], 10.0, True, Ask(1, 0.1, True)),
        ([FAILED, PAUSED], 10.0, True, Ask(0, 0.1, True)),
        ([FAILED, OPEN], 10.0, False, None),
        ([Option(tries=3)], 10.0, True, None),
        ([Option(tries=1, closed_for_s=2.0, why="pause")], 10.0, True, Ask(0, 2.1, True)),
        ([Option(tries=1, closed_for_s=2.0, why="breaker")], 10.0, True, None),
        ([], 10.0, True, None),
    ],
)
def test_what_a_call_does_next(options: list[Option], remaining_s: float, may_retry: bool, step: Ask | None):
    chosen = next_step(options, remaining_s=remaining_s, may_retry=may_retry, chance=0.5)

    if step is None or chosen is None:
        assert chosen == step
    else:
        assert (chosen.place, chosen.is_retry) == (step.place, step.is_retry)
        assert chosen.after_s == pytest.approx(step.after_s)


def test_back_off_doubles_with_full_jitter_up_to_its_cap():
    assert [backoff_s(tries, 1.0) for tries in (1, 2, 3, 20)] == [0.2, 0.4, 0.8, 20.0]
    assert backoff_s(3, 0.0) == 0.0


def test_time_is_kept_for_others_and_a_line_is_left_early_where_they_could_answer():
    assert [time_for(remaining_s=20.0, others=others) for others in (0, 1, 2, 5)] == [20.0, 15.0, 10.0, 10.0]
    assert [line_time(remaining_s=10.0, others=others) for others in (0, 1)] == [5.0, 0.25]
    assert line_time(remaining_s=1.0, others=1) == 0.1


@pytest.mark.parametrize(
    ("host", "address", "private", "may"),
    [
        ("api.example.com", "93.184.216.34", False, True),
        ("api.example.com", "10.1.2.3", False, False),
        ("api.example.com", "10.1.2.3", True, True),
        ("api.example.com", "127.0.0.1", False, False),
        ("api.example.com", "::1", False, False),
        ("api.example.com", "::ffff:10.0.0.1", False, False),
        ("api.example.com", "64:ff9b::7f00:1", False, False),
        ("api.example.com", "2002:7f00:1::", False, False),
        ("api.example.com", "100.64.0.1", False, False),
        ("api.example.com", "169.254.169.254", True, False),
        ("api.example.com", "::ffff:169.254.169.254", True, False),
        ("api.example.com", "fe80::1", True, False),
        ("api.example.com", "fd00:ec2::254", True, False),
        ("api.example.com", "0.0.0.0", True, False),
        ("api.example.com", "224.0.0.1", True, False),
        ("api.example.com", "not an address", True, False),
        ("169.254.169.254", "169.254.169.254", True, False),
        ("10.1.2.3", "10.1.2.3", False, True),
        ("[::1]", "::1", False, True),
        ("localhost", "127.0.0.1", False, True),
        ("localhost", "10.1.2.3", False, False),
        ("gpu1", "10.1.2.3", False, True),
        ("vllm.models.svc", "10.1.2.3", False, True),
        ("vllm.internal", "10.1.2.3", False, True),
        ("vllm.internal", "127.0.0.1", False, False),
        ("metadata.google.internal", "169.254.169.254", False, False),
    ],
)
def test_a_name_leads_only_where_it_may(host: str, address: str, private: bool, may: bool):
    assert may_connect(host, address, private=private) is may


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("api.example.com", True), ("api.example.com:443", True), ("8.8.8.8", True), ("[2606:4700::1]:80", True),
        ("localhost:11434", False), ("127.0.0.1:8000", False), ("[::1]:8000", False), ("10.0.0.1", False),
        ("gpu1:8000", False), ("vllm.internal", False),
    ],
)  # fmt: skip
def test_public_names_are_known(host: str, public: bool):
    assert is_public_name(host) is public
