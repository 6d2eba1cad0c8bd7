"""What is told when one chat release follows another: breaking for callers, or worth knowing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nightproof import Budget, ChatService, Check, OutputRules, Tool, upstream
from nightproof.declare.describe import describe
from nightproof.releases.chat_changes import asks, chat_changes, stated
from nightproof.releases.compatibility import breaking, compare
from nightproof.steer.examine import compared


def one(name: str = "a", model: str = "m-1", **more: Any) -> Any:
    return upstream.openai(name, base_url="http://127.0.0.1:1/v1", model=model, **more)


def facts(**words: Any) -> dict[str, Any]:
    """Return what a manifest would say of a chat service declared so."""
    service = ChatService(**{"name": "help", "upstreams": [one()], "prompt": "Be kind.", **words})
    told = stated(describe(service, Path(".")).chat)
    assert told is not None
    return told


CHANGES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({}, {}, []),
    ({}, {"prompt": "Be brief."}, ["chat /prompt: is another"]),
    ({}, {"upstreams": [one(model="m-2")]}, ["chat /upstreams/a: its model was m-1 and is now m-2"]),
    ({}, {"upstreams": [one(), one("b")]}, ["chat /upstreams/b: is asked too (m-1)"]),
    ({"upstreams": [one(), one("b")]}, {}, ["chat /upstreams/b: is no longer asked (m-1)"]),
    (
        {"upstreams": [one(), one("b")]},
        {"upstreams": [one("b"), one()]},
        ["chat /upstreams: are asked in the order b, a"],
    ),
    ({}, {"upstreams": [one(idle_ms=9)]}, ["chat /upstreams/a: is asked in another way (idle_ms)"]),
    (
        {},
        {"parameters": {"temperature": 0}},
        ['chat /parameters: the parameters was {} and is now {"temperature":0}'],
    ),
    ({}, {"checks": {"personal": "refuse"}}, ["chat /input_checks/personal: was flag and is now refuse"]),
    (
        {},
        {"checks": {"personal": Check(action="flag", threshold=0.5)}},
        ["chat /input_checks/personal: is still flag, with other limits"],
    ),
    ({}, {"images": True}, ["chat /images: images are now taken"]),
    (
        {"tools": ["x"]},
        {"tools": [Tool(name="x", has_side_effect=False)]},
        ["chat /tools/x: is declared in another way"],
    ),
]


@pytest.mark.parametrize(("before", "after", "told"), CHANGES, ids=[str(told) for *_, told in CHANGES])
def test_what_makes_other_answers_is_told(before: dict[str, Any], after: dict[str, Any], told: list[str]):
    changes = chat_changes(facts(**before), facts(**after))

    assert [str(change) for change in changes] == told
    assert breaking(changes) == []


@pytest.mark.parametrize(
    ("before", "after", "pointer"),
    [
        ({"images": True}, {}, "/images"),
        ({}, {"max_input_tokens": 1_000}, "/max_input_tokens"),
        ({"max_prompt_bytes": 9_000}, {"max_prompt_bytes": 8_000}, "/max_prompt_bytes"),
        ({"tools": ["x"]}, {"tools": [Tool(name="x", after_untrusted="refuse")]}, "/tools/x"),
        ({"tools": ["x"]}, {"other_tools": "refuse"}, "/tools/x"),
        ({}, {"other_tools": "refuse"}, "/other_tools"),
    ],
)
def test_what_callers_may_no_longer_do_is_breaking(
    before: dict[str, Any], after: dict[str, Any], pointer: str
):
    changes = chat_changes(facts(**before), facts(**after))

    assert changes[0].kind == "breaking"
    assert pointer in [change.pointer for change in breaking(changes)]
    assert breaking(chat_changes(facts(**after), facts(**before))) == []


def test_a_parameter_that_callers_may_no_longer_set_breaks_them_by_the_schema():
    old = describe(ChatService("help", upstreams=[one()], prompt="x"), Path("."))
    new = describe(ChatService("help", upstreams=[one()], prompt="x", caller_parameters=["seed"]), Path("."))

    told = compare(old.input_schema, old.output_schema, new.input_schema, new.output_schema)

    assert "/temperature" in [change.pointer for change in breaking(told)]


def test_prompts_are_stated_by_digest_and_a_commands_place_is_left_out():
    told = facts(
        prompt="The word is xyzzy.",
        upstreams=[upstream.command(["python", "serve.py", "{port}"], model="m", name="c")],
        rules=OutputRules(banned=["x"]),
        budget=Budget(tokens_per_day=5),
    )

    assert "xyzzy" not in str(told)
    assert told["prompt"]["bytes"] == 18
    assert told["upstreams"][0]["command"] == ["serve.py", "{port}"]
    assert asks(told) == "m at c"
    assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_a_release_of_before_there_were_chats_is_compared_by_its_types_alone():
    assert chat_changes(None, facts()) == []
    assert (stated(None), asks(None)) == (None, "")


def test_the_gate_is_told_of_both_kinds():
    from nightproof.releases.manifest import Facts

    new = describe(ChatService("help", upstreams=[one(model="m-2")], prompt="y", images=False), Path("."))
    old = Facts(
        service="help", version="1", bundle="", made="", made_by="", nightproof="", versions={},
        input_schema=new.input_schema, output_schema=new.output_schema, golden_cases=0, memory_mb=1, sizes={},
        chat=facts(images=True),
    )  # fmt: skip

    told = compared("1.0", old, new)

    assert [(found.kind, found.subject) for found in told] == [
        ("chat_breaking", "chat /images"),
        ("chat_changed", "chat /prompt"),
        ("chat_changed", "chat /upstreams/a"),
    ]
    assert told[0].hint
