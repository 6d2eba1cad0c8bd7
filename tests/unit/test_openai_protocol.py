"""The OpenAI protocol: what is read of a request, and what is refused with the parameter's name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from nightproof.base import strictjson
from nightproof.base.errors import Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Degraded, ItemReply, Reply
from nightproof.gateway import openai
from nightproof.pipeline.chat_values import ChatAnswer

USER = {"role": "user", "content": "Where is my parcel?"}
FETCHED = {"$ref": "http://x/y"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def body(**changed: Any) -> bytes:
    return orjson.dumps({"model": "support", "messages": [USER], **changed})


def refusal(**changed: Any) -> Refusal:
    with pytest.raises(Refusal) as raised:
        openai.read_request(body(**changed))
    return raised.value


def test_a_request_is_read_with_what_goes_on_to_the_upstream():
    asked = openai.read_request(
        body(
            model="support@1.2",
            temperature=0.5,
            stream=True,
            stream_options={"include_usage": True},
            user="ada",
            tools=[TOOL],
            metadata={"a": "b"},
            seed=None,
        )
    )
    assert (asked.service, asked.version, asked.user) == ("support", "1.2", "ada")
    assert asked.is_streamed
    assert asked.wants_usage
    assert asked.extras == {"temperature": 0.5, "tools": [TOOL]}
    assert asked.messages == [USER]


def test_what_the_client_sends_back_of_an_answer_is_taken_without_its_empty_fields():
    told = {"role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "audio": None}
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "42"}
    asked = openai.read_request(body(messages=[USER, told, called, result]))
    assert asked.messages[1] == {"role": "assistant", "content": "Hello"}
    assert "content" not in asked.messages[2]
    assert asked.messages[3] == result


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"model": ""}, "/model"),
        ({"model": 7}, "/model"),
        ({"messages": []}, "/messages"),
        ({"messages": "hello"}, "/messages"),
        ({"messages": [USER] * 2_001}, "/messages"),
        ({"messages": ["hello"]}, "/messages/0"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "/messages/0/role"),
        ({"messages": [{"role": "user"}]}, "/messages/0/content"),
        ({"messages": [{"role": "user", "content": 7}]}, "/messages/0/content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "/messages/0/content/0"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "/messages/0/content/0"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "/messages/0/content/0/text"),
        ({"messages": [{**USER, "thoughts": "x"}]}, "/messages/0/thoughts"),
        ({"messages": [{**USER, "name": 7}]}, "/messages/0/name"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "/messages/0/tool_calls"),
        ({"temperature": 3}, "/temperature"),
        ({"temperature": True}, "/temperature"),
        ({"max_tokens": 0}, "/max_tokens"),
        ({"max_tokens": 1.5}, "/max_tokens"),
        ({"n": 2}, "/n"),
        ({"stream": "yes"}, "/stream"),
        ({"stream_options": []}, "/stream_options"),
        ({"user": 7}, "/user"),
        ({"tools": {}}, "/tools"),
        ({"tools": [{"type": "function"}]}, "/tools/0"),
        ({"tools": [TOOL] * 129}, "/tools"),
        ({"response_format": {"type": "xml"}}, "/response_format"),
        ({"response_format": {"type": "json_schema"}}, "/response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": FETCHED}}}, "/response_format"),
        ({"web_search_options": {}}, "/web_search_options"),
    ],
)  # fmt: skip
def test_a_request_of_another_form_is_refused_by_its_parameter(changed: dict[str, Any], pointer: str):
    refused = refusal(**changed)
    assert refused.failure == "malformed_request"
    assert refused.errors[0].pointer == pointer


@pytest.mark.parametrize("sent", [b"[]", b'"x"', b"7", b"null"])
def test_a_body_that_is_no_object_is_refused(sent: bytes):
    with pytest.raises(Refusal, match="object"):
        openai.read_request(sent)


def test_a_body_that_is_no_strict_json_is_refused():
    with pytest.raises(strictjson.JsonRefused):
        openai.read_request(b'{"model": "a", "model": "b", "messages": []}')


def reply(answer: ChatAnswer, **changed: Any) -> Reply:
    import msgspec

    return Reply(
        id="r-1",
        service="support",
        release="1.0",
        ending="answered",
        items=[ItemReply(output=msgspec.Raw(msgspec.json.encode(answer)), **changed)],
    )


def test_a_whole_answer_has_the_form_of_the_protocol():
    status, written, _ = openai.encode(
        reply(ChatAnswer(content="Tomorrow.", input_tokens=9, output_tokens=2))
    )
    told = orjson.loads(written)
    assert status == 200
    assert told["choices"][0]["message"] == {"role": "assistant", "content": "Tomorrow.", "refusal": None}
    assert told["choices"][0]["finish_reason"] == "stop"
    assert told["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert told["system_fingerprint"] == "1.0"


def test_tool_calls_end_an_answer_in_the_protocols_words():
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    _, written, _ = openai.encode(reply(ChatAnswer(tool_calls=[call])))
    choice = orjson.loads(written)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"] == [call]


def test_an_answer_of_a_fallback_says_so_in_body_and_header():
    _, written, headers = openai.encode(
        reply(ChatAnswer(content="Call us."), degraded=Degraded("upstream_timeout", "constant"))
    )
    assert orjson.loads(written)["nightproof"]["degraded"] == {
        "failure": "upstream_timeout",
        "by": "constant",
    }
    assert (b"nightproof-degraded", b"upstream_timeout; by=constant") in headers


@pytest.mark.parametrize("failure", sorted(code for code, one in CATALOGUE.items() if one.statuses))
def test_every_ending_can_be_told_as_an_error(failure: str):
    status, written, headers = openai.error_of(Reply(id="r-1", failure=failure))
    error = orjson.loads(written)["error"]
    assert status == CATALOGUE[failure].statuses[0]
    assert {"message", "type", "param", "code"} <= error.keys()
    should = dict(headers)[b"x-should-retry"]
    assert should == (b"true" if CATALOGUE[failure].retryable and status not in (413, 422) else b"false")


def test_the_chunks_of_a_stream_are_events_and_end_with_done():
    chunks = openai.Chunks(request_id="r-1", service="support", release="1.0")
    answer = ChatAnswer(content='say "hi"\n', finish_reason="length", input_tokens=3, output_tokens=4)
    written = (
        chunks.role() + chunks.text(answer.content) + chunks.end(reply(answer), answer, wants_usage=True)
    )
    events = [event.removeprefix(b"data: ") for event in written.split(b"\n\n") if event]
    assert events[-1] == b"[DONE]"
    told = [orjson.loads(event) for event in events[:-1]]
    assert {one["id"] for one in told} == {"chatcmpl-r-1"}
    assert told[1]["choices"][0]["delta"] == {"content": 'say "hi"\n'}
    assert told[2]["choices"][0]["finish_reason"] == "length"
    assert told[3]["usage"]["total_tokens"] == 7
