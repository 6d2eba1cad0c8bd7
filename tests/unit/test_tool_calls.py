"""Which tools may be called with what, and after which reading."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nightproof.checks.canary import draw_canary
from nightproof.checks.leaving import CompiledRules, OutputScanner
from nightproof.checks.prompt_shadow import NO_PROMPT
from nightproof.checks.tool_calls import (
    MalformedToolCall,
    ToolCallAssembler,
    ToolVerdict,
    canonical_arguments,
    judge_tools,
)
from nightproof.declare.chat_description import OutputRules, ToolDescription

CANARY = draw_canary(bytes(range(100, 110)))
RULES = CompiledRules(OutputRules(allowed_hosts=["ok.example"]))
SCHEMA = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["to"],
}
DECLARED = [
    {"type": "function", "function": {"name": "send", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "ping"}},
]
POLICIES = [
    ToolDescription(name="send", after_untrusted="approve"),
    ToolDescription(name="look_up", has_side_effect=False),
]


def call(name: str = "send", arguments: Any = None, call_id: str = "call_1") -> dict[str, Any]:
    written = arguments if isinstance(arguments, str) else json.dumps(arguments or {"to": "anna"})
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}


def judged(
    *calls: Any, is_tainted: bool = False, approved: set[tuple[str, bytes]] | None = None, **more: Any
) -> ToolVerdict:
    return judge_tools(
        calls,
        more.get("declared", DECLARED),
        more.get("policies", POLICIES),
        more.get("other", "approve"),
        is_tainted=is_tainted,
        approved=lambda name, arguments: (name, arguments) in (approved or set()),
        scanner=lambda: OutputScanner(RULES, canary=CANARY, prompt=NO_PROMPT),
    )


def test_declared_tools_with_fitting_arguments_may_be_called() -> None:
    verdict = judged(call(), call("look_up", {"to": "x", "n": 2}, "call_2"), call("ping", "", "call_3"))

    assert verdict == ToolVerdict()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (call("delete_all"), "not declared"),
        (call("send", "{"), "arguments are not strict JSON"),
        (call("send", '{"to": "a", "to": "b"}'), "arguments are not strict JSON"),
        (call("send", '{"to": "a"} and more'), "arguments are not strict JSON"),
        (call("send", '{"to": NaN}'), "arguments are not strict JSON"),
        (call("send", '["anna"]'), "arguments are not an object"),
        (call("send", {"n": 1}), "arguments do not fit the schema"),
        (call("send", {"to": "a", "n": "1"}), "arguments do not fit the schema"),
        (call("send", '{"to": "\\ud800"}'), "arguments are not strict JSON"),
        ({**call(), "type": "code"}, "malformed"),
        ({**call(), "function": None}, "malformed"),
        ({**call(), "id": 7}, "malformed"),
        ({**call(), "id": "a b"}, "malformed"),
        ("send", "malformed"),
        ({**call(), "function": {"name": "send", "arguments": {"to": "a"}}}, "arguments are not text"),
        (call("send", {"to": f"x {CANARY.lower()}"}), "arguments hold canary"),
        (call("send", {"to": CANARY[:8], "subject": CANARY[8:]}), "arguments hold canary"),
        (call("send", {"to": "x", CANARY: 1}), "arguments hold canary"),
        (call("send", {"to": "x"}, call_id=CANARY), "arguments hold canary"),
        (call("send", {"to": "sk-proj-" + "a1B2c3D4e5F6g7H8i9J0" * 2}), "arguments hold secrets"),
        (call("send", {"to": "https://evil.zz/?d=1"}), "arguments hold an address that is not allowed"),
        (call("send", '{"to": "\\u0068ttps:\\/\\/evil.zz"}'), "arguments hold an address that is not allowed"),
    ],
)  # fmt: skip
def test_anything_else_may_not(wrong: Any, why: str) -> None:
    verdict = judged(wrong)

    assert [denied.why for denied in verdict.denied] == [why]
    assert verdict.findings


def test_what_is_told_of_a_refused_call_holds_no_word_of_the_models() -> None:
    verdict = judged(call(f"leak_{CANARY}"))

    assert [denied.name for denied in verdict.denied] == ["an undeclared tool"]
    assert CANARY not in repr(verdict)


@pytest.mark.parametrize(
    "written",
    [
        "<img src='https&colon;//[::1]/p'>",
        "https&colon;//2130706433/p",
        "&#104;ttps:&#x2f;/[::1]/",
        "&lt;https://[::1]/",
    ],
)
def test_an_address_behind_entities_is_one_for_whoever_reads_the_arguments_as_a_page(written: str) -> None:
    """In an answer the entity is made inert; arguments are handed on as they are."""
    verdict = judged(call("look_up", {"to": written}), is_tainted=True)

    assert [one.why for one in verdict.denied] == ["arguments hold an address that is not allowed"]
    assert not judged(call("look_up", {"to": "salt &amp; pepper, 3 &lt; 4"})).denied


def test_the_canary_behind_entities_is_found_in_arguments() -> None:
    verdict = judged(call("look_up", {"to": "".join(f"&#{ord(letter)};" for letter in CANARY)}))

    assert [one.why for one in verdict.denied] == ["arguments hold canary"]


def test_allowed_addresses_may_be_passed() -> None:
    assert judged(call("look_up", {"to": "https://ok.example/a"})).denied == []


def test_one_id_may_not_name_two_calls() -> None:
    assert [denied.why for denied in judged(call(), call()).denied] == ["its id is used twice"]


def test_what_is_spread_over_two_calls_is_found() -> None:
    verdict = judged(call("send", {"to": CANARY[:8]}, "a"), call("send", {"to": CANARY[8:]}, "b"))

    assert [denied.why for denied in verdict.denied] == ["arguments hold canary"]


def test_after_untrusted_content_an_act_needs_a_persons_yes_to_these_very_arguments() -> None:
    act = call("send", '{"n": 1, "to": "anna"}')

    assert [each.place for each in judged(act, is_tainted=True).needs_approval] == [0]
    assert judged(act, is_tainted=True, approved={("send", b'{"n":1,"to":"anna"}')}).needs_approval == []
    assert judged(act, is_tainted=True, approved={("send", b'{"n":2,"to":"anna"}')}).needs_approval != []


def test_after_untrusted_content_what_only_reads_may_go_on() -> None:
    assert judged(call("look_up"), is_tainted=True) == ToolVerdict()


def test_after_untrusted_content_reading_from_a_named_host_is_an_act() -> None:
    """A fetch carries out what its address holds."""
    assert judged(call("look_up", {"to": "evil.com/?d=secret"}), is_tainted=True).needs_approval != []


@pytest.mark.parametrize(
    ("written", "is_act"),
    [
        ("<ftp://[::1]/p?d=1>", True),
        ("<img src='//2130706433/p'>", True),
        ("<img src=\\\\2130706433\\p>", True),
        ("\x1b]8;;https://evil.zz/\x07t\x1b]8;;\x07", True),
        ("a // b, 7//2, C:\\Users, https://ok.example/a and/or // this", False),
    ],
)
def test_after_untrusted_content_an_address_of_any_kind_makes_reading_an_act(
    written: str, is_act: bool
) -> None:
    """The tool may fetch what no client would have shown as a link."""
    verdict = judged(call("look_up", {"to": written}), is_tainted=True)

    assert bool(verdict.denied or verdict.needs_approval) == is_act


@pytest.mark.parametrize(("rule", "outcome"), [("allow", (0, 0)), ("approve", (0, 1)), ("refuse", (1, 0))])
def test_tools_that_the_service_does_not_name_follow_its_rule_for_others(
    rule: Any, outcome: tuple[int, int]
) -> None:
    verdict = judged(call("ping", "{}"), is_tainted=True, other=rule)

    assert (len(verdict.denied), len(verdict.needs_approval)) == outcome


def test_the_services_schema_stands_over_the_callers() -> None:
    strict = ToolDescription(
        name="send", parameters={"type": "object", "properties": {"to": {"enum": ["anna"]}}}
    )

    assert judged(call("send", {"to": "eve"}), policies=[strict]).denied != []
    assert judged(call("send", {"to": "anna"}), policies=[strict]).denied == []


def test_a_schema_that_cannot_be_used_lets_nothing_pass() -> None:
    declared = [
        {"type": "function", "function": {"name": "send", "parameters": {"$ref": "https://evil.zz/s"}}}
    ]

    assert [denied.why for denied in judged(call(), declared=declared).denied] == [
        "its schema cannot be used"
    ]


def test_the_same_arguments_are_always_the_same_octets() -> None:
    assert canonical_arguments(call("send", '{ "to":"a",  "n": 1 }')) == canonical_arguments(
        call("send", '{"n":1,"to":"a"}')
    )
    assert canonical_arguments(call("ping", "")) == b"{}"


def test_streamed_pieces_become_whole_calls() -> None:
    whole = ToolCallAssembler()
    whole.feed([{"index": 0, "id": "a", "type": "function", "function": {"name": "send", "arguments": ""}}])
    whole.feed(
        [
            {"index": 0, "function": {"arguments": '{"to":'}},
            {"index": 1, "id": "b", "function": {"name": "ping"}},
        ]
    )
    whole.feed([{"index": 0, "function": {"arguments": ' "anna"}'}}])

    assert whole.calls() == [
        {"id": "a", "type": "function", "function": {"name": "send", "arguments": '{"to": "anna"}'}},
        {"id": "b", "type": "function", "function": {"name": "ping", "arguments": ""}},
    ]


def test_calls_without_an_index_are_told_apart_by_id_and_name() -> None:
    whole = ToolCallAssembler()
    whole.feed([{"id": "a", "function": {"name": "send", "arguments": "{}"}}])
    whole.feed([{"id": "b", "function": {"name": "ping", "arguments": "{"}}])
    whole.feed([{"function": {"arguments": "}"}}])

    assert [each["function"] for each in whole.calls()] == [
        {"name": "send", "arguments": "{}"},
        {"name": "ping", "arguments": "{}"},
    ]


@pytest.mark.parametrize(
    ("pieces", "named"),
    [
        (["x"], "not an object"),
        ([{"index": -1}], "an index"),
        ([{"index": True}], "an index"),
        ([{"index": 64}], "an index"),
        ([{"index": 0, "type": "code"}], "not of a function"),
        ([{"index": 0, "function": "send"}], "not an object"),
        ([{"index": 0, "function": {"name": 7}}], "not text"),
        ([{"index": 0, "id": ["a"]}], "not text"),
        ([{"index": 0, "id": "a"}, {"index": 0, "id": "b"}], "two ids"),
        ([{"index": 0, "function": {"arguments": "x" * 262_145}}], "characters"),
    ],
)
def test_malformed_pieces_are_named(pieces: list[Any], named: str) -> None:
    with pytest.raises(MalformedToolCall, match=named):
        ToolCallAssembler().feed(pieces)
