"""A chat's record as its model read it: what was taken out is not shown, and where that is not known more is hidden."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nightproof.base.masking import MASK, with_text
from nightproof.steer.unread import as_the_model_read

CARD = "4111 1111 1111 1111"
SAID = f"my card is {CARD}, thanks"


def record(*findings: dict[str, Any], **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return content and leaf of a chat of one message, with what was found in it."""
    item: dict[str, Any] = {
        "input": {"model": "chat", "messages": [{"role": "user", "content": SAID}]},
        "output": {"text": "ok"},
        **more,
    }
    found = [f"{one['check']}:{one.get('rule', '')}:{one.get('action', 'flag')}" for one in findings]
    return {"items": [item], "findings": list(findings)}, {"chat": {"found": found}}


def finding(check: str = "personal", action: str = "redact", pointer: str = "/messages/0/content") -> Any:
    return {"check": check, "rule": "card", "action": action, "pointer": pointer}


def test_what_was_redacted_is_shown_as_the_model_read_it():
    content, facts = record(finding(), redacted={"/messages/0/content": "my card is [card], thanks"})

    shown, is_less = as_the_model_read(content, facts)

    assert is_less
    assert shown["items"][0]["input"]["messages"] == [
        {"role": "user", "content": "my card is [card], thanks"}
    ]
    assert shown["items"][0]["output"] == {"text": "ok"}
    assert "redacted" not in shown["items"][0]
    assert SAID in json.dumps(content), "the record itself is not touched"


@pytest.mark.parametrize("found", [finding(), finding(action="refuse"), finding("secrets", "refuse")])
def test_of_a_record_that_does_not_say_what_was_taken_out_the_whole_text_is_masked(found: Any):
    shown, is_less = as_the_model_read(*record(found))

    assert is_less
    assert shown["items"][0]["input"] == {"model": "chat", "messages": [{"role": "user", "content": MASK}]}


@pytest.mark.parametrize(
    "found",
    [finding(action="flag"), finding("injection_rules", "refuse"), finding("injection_model", "flag")],
)
def test_what_the_model_read_and_what_is_no_secret_is_shown(found: Any):
    content, facts = record(found)

    assert as_the_model_read(content, facts) == (content, False)


def test_what_was_told_of_an_input_does_not_quote_what_was_taken_out():
    content, facts = record(
        finding(),
        redacted={"/messages/0/content": "my card is [card], thanks"},
        detail=f"no cards here: {CARD}",
        errors=[["", "4111 is bad"]],
    )
    content["detail"] = "a text with 1111 in it"

    shown, _ = as_the_model_read(content, facts)

    assert "1111" not in json.dumps(shown)
    assert "my card is" in json.dumps(shown)


@pytest.mark.parametrize("pointer", ["/messages/7/content", "/messages/0", "/messages/x/content", ""])
def test_a_text_that_is_not_where_it_was_found_hides_the_whole_input(pointer: str):
    shown, is_less = as_the_model_read(*record(finding(), redacted={pointer: "[card]"}))

    assert is_less
    assert shown["items"][0]["input"] == MASK


def test_of_several_records_each_is_without_its_own_and_whose_finding_a_refusal_was_is_not_guessed():
    content, facts = record(finding(pointer="/a"), finding(action="refuse", pointer="/a"))
    content["items"] = [
        {"input": {"a": SAID}, "redacted": {"/a": "my card is [card]"}},
        {"input": {"a": "harmless"}, "output": {"y": 1}},
        {"input": {"a": CARD}, "detail": "personal: card"},
    ]

    shown, _ = as_the_model_read(content, facts)

    assert [one["input"]["a"] for one in shown["items"]] == ["my card is [card]", "harmless", MASK]


def test_where_the_findings_are_gone_the_leaf_says_that_there_was_something():
    content, facts = record(finding())
    del content["findings"]

    shown, is_less = as_the_model_read(content, facts)

    assert is_less
    assert shown["items"][0]["input"] == MASK


def test_what_a_model_said_of_the_kind_and_nobody_was_told_is_not_shown():
    withheld = {"check": "personal", "rule": "card", "action": "refuse"}
    content, facts = record(withheld)
    harmless, its_facts = record({"check": "canary", "action": "refuse"})

    shown, _ = as_the_model_read({**content, "withheld": CARD}, facts)
    other, _ = as_the_model_read({**harmless, "withheld": "the prompt"}, its_facts)

    assert "withheld" not in shown
    assert other["withheld"] == "the prompt"


def test_a_record_that_is_no_chat_is_shown_as_it_is():
    content = {"items": [{"input": {"x": 1}, "output": {"y": 2}}]}

    assert as_the_model_read(content, {"kind": "request"}) == (content, False)


@pytest.mark.parametrize(
    ("pointer", "after"),
    [
        ("/a~1b/0/c", {"a/b": [{"c": "new"}], "~": "t"}),
        ("/~0", {"a/b": [{"c": "old"}], "~": "new"}),
        ("/a~1b/1/c", None),
        ("/a~1b/0/c/d", None),
        ("/a~1b/0", None),
        ("/", None),
    ],
)
def test_a_text_is_replaced_at_its_pointer_and_nowhere_else(pointer: str, after: Any):
    value = {"a/b": [{"c": "old"}], "~": "t"}

    assert with_text(value, pointer, "new") == after
    assert value == {"a/b": [{"c": "old"}], "~": "t"}
