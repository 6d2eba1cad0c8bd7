"""Laws of asking upstreams: breakers, budgets and limits in any order of events, streams cut anywhere."""

from __future__ import annotations

import json
from itertools import pairwise

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.limits.breaker import Breaker, Pass
from nightproof.limits.concurrency import Concurrency
from nightproof.limits.retry_budget import RetryBudget
from nightproof.pipeline.upstream_choice import MOST_TRIES, Option, next_step, time_for
from nightproof.workers.upstream.shapes import MalformedAnswer, StreamShape, ToldError, completion_of
from nightproof.workers.upstream.sse import MalformedStream, SseReader

LAW = settings(max_examples=150, deadline=None)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "good", "bad", "cancel", "wait"]), st.floats(0, 8), st.integers(0, 50)
    ),
    max_size=150,
)


@LAW
@given(acts=ACTS, chance=st.floats(0, 1))
def test_a_breaker_lets_nothing_through_while_open_and_few_while_half_open(
    acts: list[tuple[str, float, int]], chance: float
):
    breaker, now, out = Breaker(), 0.0, list[Pass]()
    for act, pause_s, which in acts:
        if act == "wait":
            now += pause_s
            continue
        if act == "enter":
            state, wait_s = breaker.state(now), breaker.wait_s(now)
            given_pass = breaker.enter(now)
            assert (given_pass is None) == (wait_s > 0)
            if state == "open":
                assert given_pass is None
            if given_pass is not None:
                assert given_pass.is_probe == (state == "half_open")
                out.append(given_pass)
        elif out:
            ended = out.pop(which % len(out))
            if act == "good":
                breaker.succeeded(ended, now=now)
            elif act == "bad":
                breaker.failed(ended, now=now, chance=chance)
            else:
                breaker.cancelled(ended)
        newest = max((one.episode for one in out if one.is_probe), default=-1)
        if breaker.state(now) == "half_open":
            assert sum(one.is_probe and one.episode == newest for one in out) <= 3
    # Whatever happened, it is let in again within a minute and its jitter, if what is inside ends.
    for one in out:
        breaker.cancelled(one)
    assert breaker.enter(now + 72.1) is not None


@LAW
@given(
    share=st.floats(0, 1),
    acts=st.lists(st.tuples(st.sampled_from(["first", "retry"]), st.floats(0, 3)), max_size=200),
)
def test_retries_never_exceed_burst_share_and_trickle(share: float, acts: list[tuple[str, float]]):
    budget = RetryBudget(share)
    now, firsts, retries = 0.0, 0, 0
    for act, pause_s in acts:
        now += pause_s
        if act == "first":
            budget.earn()
            firsts += 1
        elif budget.spend(now=now):
            retries += 1

    assert retries <= 10 + share * firsts + 0.1 * now + 1e-6
    if share == 0:
        assert retries == 0


@LAW
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["enter", "answered", "good", "refused", "slow", "none"]), st.floats(0, 2)),
        max_size=200,
    ),
    most=st.integers(1, 64),
)
def test_nobody_enters_beyond_the_limit_and_the_limit_keeps_its_bounds(
    acts: list[tuple[str, float]], most: int
):
    limit, now, inside = Concurrency(most=most), 0.0, 0
    for act, pause_s in acts:
        now += pause_s
        if act == "enter":
            before = limit.limit
            if limit.enter():
                inside += 1
                assert inside <= before
        elif act == "answered":
            limit.answered()
        elif inside:
            limit.leave(act, now=now)  # type: ignore[arg-type]
            inside -= 1
        assert limit.in_flight == inside
        assert min(2, most) <= limit.limit <= most


OPTIONS = st.lists(
    st.builds(
        lambda closed_for_s, why, tries, may_help: Option(
            closed_for_s=closed_for_s if why else 0.0, why=why, tries=tries, may_help=may_help
        ),
        st.floats(0.001, 100),
        st.sampled_from(["", "", "pause", "breaker"]),
        st.integers(0, 4),
        st.booleans(),
    ),
    max_size=5,
)


@LAW
@given(options=OPTIONS, remaining_s=st.floats(-1, 60), may_retry=st.booleans(), chance=st.floats(0, 1))
def test_what_is_asked_next_may_be_asked_in_time_and_in_order(
    options: list[Option], remaining_s: float, may_retry: bool, chance: float
):
    step = next_step(options, remaining_s=remaining_s, may_retry=may_retry, chance=chance)
    fresh = [place for place, one in enumerate(options) if not one.tries and one.closed_for_s <= 0]

    if step is None:
        assert not fresh or remaining_s <= 0
        return
    asked = options[step.place]
    assert asked.why != "breaker", "an open breaker is never waited for"
    assert 0 <= step.after_s <= remaining_s / 2
    assert step.is_retry == (asked.tries > 0)
    if fresh:
        assert (step.place, step.after_s) == (fresh[0], 0.0), "the first that was not asked, at once"
    if step.is_retry:
        assert may_retry
        assert asked.may_help
        assert asked.tries < MOST_TRIES
    if asked.closed_for_s > 0:
        assert step.after_s >= asked.closed_for_s, "a pause is kept"


@LAW
@given(remaining_s=st.floats(0, 600), others=st.integers(0, 20))
def test_a_try_leaves_time_for_the_others_and_takes_at_least_half(remaining_s: float, others: int):
    taken_s = time_for(remaining_s=remaining_s, others=others)

    assert remaining_s / 2 <= taken_s <= remaining_s
    assert taken_s == remaining_s or others


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at these places."""
    places = sorted({0, len(data), *[at % (len(data) + 1) for at in cuts]})
    return [data[start:end] for start, end in pairwise(places)]


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
EVENT_TEXTS = st.lists(
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=8
)


@LAW
@given(
    texts=st.lists(EVENT_TEXTS.filter(bool), min_size=1, max_size=6),
    end=LINE_ENDS,
    cuts=st.lists(st.integers(0, 10_000), max_size=40),
    bom=st.booleans(),
    dressing=st.sampled_from([b"", b": a comment", b"event: x", b"id", b"retry: 3"]),
)
def test_a_stream_reads_the_same_wherever_it_is_cut(
    texts: list[list[str]], end: bytes, cuts: list[int], bom: bool, dressing: bytes
):
    data = b"\xef\xbb\xbf" if bom else b""
    for lines in texts:
        data += (dressing + end if dressing else b"") + b"".join(
            b"data: " + line.encode() + end for line in lines
        )
        data += end

    reader = SseReader()
    events = [event for part in cut(data, cuts) for event in reader.feed(part)]

    assert events == ["\n".join(lines).encode() for lines in texts]
    assert reader.end() is None


@LAW
@given(pieces=st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_events_or_a_malformed_stream_and_nothing_else(pieces: list[bytes]):
    reader = SseReader(most_line_bytes=256)
    try:
        for piece in pieces:
            for event in reader.feed(piece):
                event.decode()
                assert len(event) <= 256
        reader.end()
    except MalformedStream:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "delta", "content", "usage", "finish_reason", "tool_calls", "index", "id",
                 "function", "name", "arguments", "error", "model", "prompt_tokens", "completion_tokens", "type",
                 "text"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)  # fmt: skip


def as_json(value: object) -> bytes:
    """Write JSON, with integers of any size."""
    return json.dumps(value).encode()


@LAW
@given(value=JSON, end=st.integers(0, 400))
def test_any_json_cut_anywhere_is_an_answer_or_a_named_fault(value: object, end: int):
    for body in (
        as_json(value),
        as_json(value)[:end],
        as_json({"choices": [{"message": value, "finish_reason": "stop"}]}),
    ):
        try:
            answer = completion_of(body, messages=[], model="m")
        except (MalformedAnswer, ToldError):
            continue
        assert answer.finish_reason in ("stop", "length", "tool_calls", "content_filter")
        assert min(answer.usage.input_tokens, answer.usage.output_tokens) >= 0
        orjson.dumps(answer.tool_calls)


@LAW
@given(values=st.lists(JSON, max_size=4), ends=st.booleans())
def test_a_stream_ends_well_only_by_a_finish_reason_and_a_done_mark(values: list[object], ends: bool):
    shape = StreamShape([], "m")
    finished = False
    try:
        for value in values:
            for event in (value, {"choices": [{"delta": value}]}, {"choices": [value]}):
                delta = shape.take(as_json(event))
                assert delta is None or not delta.finish_reason, "the end is not told before it is certain"
        if ends:
            finished = True
            shape.take(as_json({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        last = shape.take(b"[DONE]")
    except (MalformedAnswer, ToldError):
        return
    assert last is not None
    assert last.finish_reason
    assert last.usage is not None
    assert finished or any("finish_reason" in str(value) for value in values)
