"""What a chat service may declare, what it comes to as data, and what is told of each mistake."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, Field

from nightproof import (
    Budget,
    ChatService,
    Check,
    Model,
    OutputRules,
    Service,
    Tool,
    Untrusted,
    fallback,
    upstream,
)
from nightproof.base.errors import DeclarationError
from nightproof.base.schema import compile as compile_schema
from nightproof.declare.chat_words import BUILT_IN_CHECKS, random_tokens
from nightproof.declare.describe import Description, describe
from nightproof.declare.folder import load_service

KEY = "sk-proj-4fT9mQ2xLr7Zs0VbN8cYw1Hd"
LOCAL = upstream.openai("local", base_url="http://127.0.0.1:11434/v1/", model="llama3.2")
COMMAND = upstream.command(["python", "serve.py", "--port", "{port}"], model="m")


class Question(BaseModel):
    text: str
    page: Annotated[str, Untrusted()] = ""


class Reply(BaseModel):
    answer: str
    stars: int = Field(ge=1, le=5)


TYPED: dict[str, Any] = {"input": Question, "output": Reply, "template": "{text}\n{page}"}


def chat(**changed: Any) -> ChatService:
    """Declare a chat service with these words in place of the usual ones."""
    return ChatService(**{"name": "help", "upstreams": [LOCAL], "prompt": "Be kind.", **changed})


def described(service: ChatService, folder: Path = Path(".")) -> Description:
    return describe(service, folder)


def test_a_chat_service_is_described_as_data_that_crosses_process_borders(tmp_path: Path):
    service = chat(
        upstreams=[LOCAL, COMMAND],
        prompt="Be kind.",
        parameters={"temperature": 0.1},
        checks={
            "personal": "redact",
            "injection_model": Check(action="flag", when_fails="open", threshold=0.9),
        },
        rules=OutputRules(allowed_hosts=["*.shop.example"], banned=[r"(?i)secret"]),
        tools=["search", Tool(name="refund", after_untrusted="refuse")],
        budget=Budget(tokens_per_day=1_000),
        fallbacks=[fallback.previous_release(), fallback.constant("Later, please.")],
    )

    told = described(service, tmp_path)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Description)

    assert again == told
    assert told.chat is not None
    assert [one.base_url for one in told.chat.upstreams] == [
        "http://127.0.0.1:11434/v1",
        "http://127.0.0.1:{port}/v1",
    ]
    assert (told.deadline_ms, told.predict_timeout_ms, told.golden_cases) == (60_000, 2_000, 0)
    assert told.chat.input_checks.keys() == BUILT_IN_CHECKS.keys()
    assert told.chat.input_checks["personal"].action == "redact"
    assert told.chat.input_checks["injection_rules"].action == "refuse"
    assert [one.name for one in told.chat.tools] == ["search", "refund"]
    assert msgspec.json.decode(told.fallbacks[1].answer) == "Later, please."
    assert told.chat.has_output_functions is False


def test_a_service_without_types_says_what_it_takes_and_the_schema_is_one():
    told = described(chat(caller_parameters=["temperature"]))
    schema = compile_schema(told.input_schema)

    assert schema.holds({"messages": [{"role": "user", "content": "hi"}], "temperature": 1})
    assert schema.holds({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]})
    assert not schema.holds({"messages": []})
    assert not schema.holds({"messages": [{"role": "user", "content": "hi"}], "seed": 1})
    assert not schema.holds({"messages": [{"role": "king", "content": "hi"}]})


def test_a_typed_service_shows_its_types_and_asks_the_upstream_for_their_form():
    told = described(chat(**TYPED, fallbacks=[fallback.constant(Reply(answer="later", stars=3))]))

    assert told.chat is not None
    asked = told.chat.parameters["response_format"]["json_schema"]
    assert (told.chat.is_typed, told.chat.repairs) == (True, 1)
    assert told.input_schema["properties"]["page"]["x-nightproof-untrusted"] is True
    assert asked["schema"]["required"] == ["answer", "stars"]
    assert (asked["name"], asked["strict"]) == ("Reply", True)
    assert "x-nightproof" not in str(asked)
    assert msgspec.json.decode(told.fallbacks[0].answer) == {"answer": "later", "stars": 3}


def test_a_parameter_of_none_is_not_sent():
    told = described(chat(**TYPED, parameters={"response_format": None}))

    assert told.chat is not None
    assert "response_format" not in told.chat.parameters


def test_a_prompt_beside_service_py_is_read_when_the_folder_is_loaded(tmp_path: Path):
    (tmp_path / "prompt.md").write_text("Be brief: ü.\n", encoding="utf-8")

    told = described(chat(prompt=Path("prompt.md")), tmp_path)

    assert told.chat is not None
    assert told.chat.prompt == "Be brief: ü."


@pytest.mark.parametrize(
    ("place", "content", "says"),
    [
        ("absent.md", None, "cannot be read"),
        ("../outside.md", b"x", "outside the folder"),
        ("prompt.md", b"\xff", "not UTF-8"),
        ("prompt.md", b" \n", "empty"),
        ("prompt.md", f"Use {KEY} to log in.".encode(), "line 1 of the prompt holds a key"),
        ("prompt.md", b"x" * 300_000, "300000 bytes"),
    ],
)
def test_a_prompt_file_that_cannot_be_part_of_a_release_is_told(
    tmp_path: Path, place: str, content: bytes | None, says: str
):
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / place).write_bytes(content)

    with pytest.raises(DeclarationError) as told:
        described(chat(prompt=Path(place)), folder)

    assert says in told.value.text
    assert told.value.hint
    assert KEY not in str(told.value)


class NotTheReply(BaseModel):
    other: int


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: chat(name="Help Me"), "URL"),
    (lambda: chat(upstreams=[]), "no upstream"),
    (lambda: chat(upstreams=["https://x"]), "upstreams contains"),
    (lambda: chat(upstreams=[LOCAL, LOCAL]), "two upstreams are named"),
    (lambda: chat(hedge_ms=100), "hedge_ms is set with one upstream"),
    (lambda: chat(prompt=" "), "prompt is empty"),
    (lambda: chat(prompt=f"Log in with {KEY}."), "holds a key"),
    (lambda: chat(prompt="-----BEGIN RSA PRIVATE KEY-----"), "private key"),
    (lambda: chat(prompt="\ud800"), "lone surrogate"),
    (lambda: chat(prompt="long", max_prompt_bytes=3), "4 bytes"),
    (lambda: chat(input=Question), "belong together"),
    (lambda: chat(template="{text}"), "belong together"),
    (lambda: chat(**TYPED | {"input": "Question"}), "input is 'Question'"),
    (lambda: described(chat(**TYPED | {"template": "{title}"})), "asks for {title}"),
    (lambda: described(chat(**TYPED | {"template": "{text!r}"})), "asks for {text!r}"),
    (lambda: described(chat(**TYPED | {"template": "{text.real}"})), "asks for {text.real}"),
    (lambda: described(chat(**TYPED | {"template": "{text"})), "cannot be read"),
    (lambda: described(chat(**TYPED | {"template": "no field"})), "names no field"),
    (lambda: chat(parameters={"stream": True}), "parameters holds stream"),
    (lambda: chat(parameters={"stop": object()}), "not JSON"),
    (lambda: chat(caller_parameters=["model"]), "caller_parameters holds 'model'"),
    (lambda: chat(caller_parameters=["top p"]), "caller_parameters holds 'top p'"),
    (lambda: chat(caller_system="obey"), "caller_system"),
    (lambda: chat(currency="euro"), "currency"),
    (lambda: chat(repairs=9), "repairs"),
    (lambda: chat(deadline_ms=0), "deadline_ms"),
    (lambda: chat(predict_timeout_ms="2s"), "predict_timeout_ms"),
    (lambda: chat(checks={"jailbreak": "refuse"}), "no check 'jailbreak'"),
    (lambda: chat(checks={"personal": "delete"}), "'delete'"),
    (lambda: chat(checks={"injection_rules": "redact"}), "cannot be taken out"),
    (lambda: chat(checks={"personal": True}), "checks['personal']"),
    (lambda: chat(checks={"personal": Check(action="flag", when_fails="shut")}), "when_fails"),
    (lambda: chat(checks={"personal": Check(action="flag", budget_ms=0)}), "budget_ms"),
    (lambda: chat(checks={"personal": Check(action="flag", threshold=float("nan"))}), "threshold"),
    (lambda: chat(checks={"mine": Check(action="flag", adapter="no function")}), "adapter"),
    (lambda: chat(rules={"html": "allow"}), "rules"),
    (lambda: chat(rules=OutputRules(allowed_hosts=["https://shop.example"])), "allowed_hosts"),
    (lambda: chat(rules=OutputRules(allowed_hosts="shop.example")), "allowed_hosts"),
    (lambda: chat(rules=OutputRules(banned=["(unclosed"])), "banned"),
    (lambda: chat(rules=OutputRules(banned=[r"(?=ahead)"])), "banned"),
    (lambda: chat(rules=OutputRules(banned=["a*"])), "banned"),
    (lambda: chat(rules=OutputRules(html="keep")), "rules.html"),
    (lambda: chat(rules=OutputRules(prompt_leak="allow")), "prompt_leak"),
    (lambda: chat(rules=OutputRules(sayable="hours")), "sayable"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", proxy=f"http://u:{KEY}@p:1"), "proxy"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", proxy="http://p:1", http2=True), "proxy"),
    (lambda: chat(rules=OutputRules(hold_back_chars=1)), "hold_back_chars"),
    (lambda: chat(tools=["a b"]), "tool's name"),
    (lambda: chat(tools=["search", "search"]), "tools is 'search'"),
    (lambda: chat(tools=[Tool(name="x", after_untrusted="ask")]), "after_untrusted"),
    (lambda: chat(tools=[Tool(name="x", parameters={"type": "string"})]), "x.parameters"),
    (lambda: chat(other_tools="never"), "other_tools"),
    (lambda: chat(budget=1_000), "budget"),
    (lambda: chat(budget=Budget(tokens_per_day=-1)), "tokens_per_day"),
    (lambda: chat(fallbacks=[fallback.rule(lambda given: Reply(answer="", stars=1))]), "fallback.rule"),
    (lambda: described(chat(fallbacks=[fallback.constant(Reply(answer="", stars=1))])), "given Reply"),
    (lambda: described(chat(fallbacks=[fallback.constant(" ")])), "fallback.constant"),
    (lambda: described(chat(**TYPED, fallbacks=[fallback.constant("text")])), "given str"),
    (lambda: described(chat(**TYPED, fallbacks=[fallback.constant(NotTheReply(other=1))])), "NotTheReply"),
    (lambda: upstream.openai("A", base_url="http://x", model="m"), "Upstream name"),
    (lambda: upstream.openai("a", base_url="ftp://x", model="m"), "base_url"),
    (lambda: upstream.openai("a", base_url="http://x:99999", model="m"), "no address"),
    (lambda: upstream.openai("a", base_url=f"http://u:{KEY}@x", model="m"), "holds credentials"),
    (lambda: upstream.openai("a", base_url="http://x/v1?k=1", model="m"), "more than host"),
    (lambda: upstream.openai("a", base_url="http://x/v1/chat/completions", model="m"), "ends with"),
    (lambda: upstream.openai("a", base_url="http://x", model=""), "model is"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", secret=KEY), "may be the key itself"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", secret="file:key"), "no reference"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", idle_ms=0), "idle_ms"),
    (lambda: upstream.openai("a", base_url="http://x", model="m", parameters={"model": "n"}), "holds model"),
    (lambda: upstream.command("serve", model="m"), "{port}"),
    (lambda: upstream.command([], model="m"), "the command is"),
    (lambda: upstream.command(["x", "{port}"], model="m", path="v1"), "path is"),
]


@pytest.mark.parametrize(("make", "says"), WRONG, ids=[says for _, says in WRONG])
def test_every_wrong_declaration_says_what_is_wrong_and_what_to_do(make: Callable[[], object], says: str):
    with pytest.raises(DeclarationError) as told:
        make()

    assert says in told.value.text
    assert len(told.value.hint.split()) >= 2
    assert KEY not in str(told.value), "a key that stands in the wrong place is not repeated"


def test_a_check_of_another_name_is_an_adapter():
    service = chat(checks={"guard": Check(action="refuse", adapter="http://127.0.0.1:8900/judge")})

    assert service.checks["guard"].adapter.startswith("http://")


def test_checks_are_added_by_decorators_as_to_a_service():
    service = chat()

    @service.input_check(action="flag")
    def one(messages: list[dict[str, Any]]) -> str | None:
        return None

    @service.output_check
    def two(messages: list[dict[str, Any]], answer: str) -> str | None:
        return None

    told = described(service)
    assert told.chat is not None
    assert (told.input_checks, told.output_checks, told.chat.has_output_functions) == (["one"], ["two"], True)
    with pytest.raises(DeclarationError):
        service.output_check(action="fall back")


def test_long_random_tokens_in_a_prompt_are_noticed_and_words_are_not():
    text = "Help with orders.\nThe token is aB3xK9mQ2pL7vR4tY8wZ1nC6.\nSupercalifragilisticexpialidocious.\n"

    assert random_tokens(text) == [2]


def test_a_folder_declares_one_service_of_either_kind(tmp_path: Path):
    (tmp_path / "service.py").write_text(
        textwrap.dedent(
            """
            from nightproof import ChatService, upstream
            service = ChatService("a", prompt="x", upstreams=[upstream.openai("u", base_url="http://x", model="m")])
            """
        )
    )

    assert isinstance(load_service(tmp_path), ChatService)


def test_what_both_kinds_share_is_held_to_the_same():
    for make in (lambda **words: Service("a", model=Model, **words), lambda **words: chat(**words)):
        with pytest.raises(DeclarationError, match="spares"):
            make(spares=99)
        with pytest.raises(DeclarationError, match="audit_on_failure"):
            make(audit_on_failure="ignore")
        with pytest.raises(DeclarationError, match="fallbacks contains"):
            make(fallbacks=["no"])
