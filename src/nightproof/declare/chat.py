"""`ChatService`: the declaration of a service that answers with somebody's LLM, in one file.

Prompt, upstreams with their models and parameters, and checks are the release: they canary and roll back as one.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from pydantic import BaseModel

from nightproof.base.errors import DeclarationError
from nightproof.declare.chat_description import (
    AfterUntrusted,
    BudgetDescription,
    CheckAction,
    InputCheckDescription,
    OutputRules,
    ToolDescription,
    UpstreamDescription,
)
from nightproof.declare.chat_words import (
    checks_of,
    refuse_bad_budget,
    refuse_bad_rules,
    refuse_keys_in,
    tools_of,
)
from nightproof.declare.endpoint import AuditOnFailure, Endpoint, Objective
from nightproof.declare.fallback import Fallback
from nightproof.declare.upstream import NOT_PARAMETERS

CALLER_PARAMETERS = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "reasoning_effort",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
)
"""What callers may set unless the service says otherwise: nothing here makes several answers of one, or stores it."""
CallerSystem = Literal["as_user", "refuse"]
_CHECKS_MS = 2_000
_FALLBACKS = ("previous_release", "last_good", "constant")


class ChatService(Endpoint):
    """A chat endpoint in OpenAI's form over upstreams in order of preference, with checks, fallbacks and promises.

    `prompt` is the operator's system prompt, as a text or as the `Path` of a file beside service.py. With `input`,
    `output` and `template` (all three) it answers `/services/NAME/predict` too: the template's `{field}` stand for
    the input's fields, and the answer is parsed and validated as the output. Times are milliseconds; `deadline_ms`
    is the whole request's, `predict_timeout_ms` a worker's for its checks, 2,000 unless
    given. `docs/chat.md` tells every option.
    """

    def __init__(
        self,
        name: str,
        *,
        upstreams: Sequence[UpstreamDescription],
        prompt: str | Path,
        template: str | Path = "",
        input: type[BaseModel] | None = None,
        output: type[BaseModel] | None = None,
        repairs: int = 1,
        parameters: Mapping[str, Any] | None = None,
        caller_parameters: Sequence[str] = CALLER_PARAMETERS,
        caller_system: CallerSystem = "as_user",
        images: bool = False,
        max_prompt_bytes: int = 262_144,
        max_input_tokens: int = 0,
        max_output_tokens: int = 4_096,
        hedge_ms: int = 0,
        retries_share: float = 0.1,
        spotlight: bool = True,
        checks: Mapping[str, CheckAction | InputCheckDescription] | None = None,
        rules: OutputRules | None = None,
        tools: Sequence[ToolDescription | str] = (),
        other_tools: AfterUntrusted = "approve",
        budget: BudgetDescription | None = None,
        currency: str = "USD",
        fallbacks: Sequence[Fallback] = (),
        objective: Objective | None = None,
        deadline_ms: int = 60_000,
        predict_timeout_ms: int | None = None,
        max_batch: int = 64,
        max_items: int = 16,
        workers: tuple[int, int] | None = None,
        spares: int = 1,
        memory_mb: int = 1_024,
        load_timeout_s: float = 120.0,
        audit_on_failure: AuditOnFailure = "refuse",
        keep_payload_days: float = 187.0,
    ) -> None:
        super().__init__(
            name,
            deadline_ms=deadline_ms,
            predict_timeout_ms=(
                predict_timeout_ms if predict_timeout_ms is not None else min(_CHECKS_MS, deadline_ms)
            ),
            fallbacks=fallbacks,
            objective=objective,
            max_batch=max_batch,
            max_wait_ms=0.0,
            max_items=max_items,
            workers=workers,
            spares=spares,
            memory_mb=memory_mb,
            load_timeout_s=load_timeout_s,
            audit_on_failure=audit_on_failure,
            keep_payload_days=keep_payload_days,
        )
        self.upstreams = list(upstreams)
        self.prompt = prompt
        self.template = template
        self.input = input
        self.output = output
        self.repairs = repairs
        self.parameters = dict(parameters or {})
        self.caller_parameters = (
            [caller_parameters] if isinstance(caller_parameters, str) else list(caller_parameters)
        )
        self.caller_system = caller_system
        self.images = images
        self.max_prompt_bytes = max_prompt_bytes
        self.max_input_tokens = max_input_tokens
        self.max_output_tokens = max_output_tokens
        self.hedge_ms = hedge_ms
        self.retries_share = retries_share
        self.spotlight = spotlight
        self.checks = checks_of(name, checks)
        self.rules = rules if rules is not None else OutputRules()
        self.tools = tools_of(name, tools, other_tools)
        self.other_tools = other_tools
        self.budget = budget if budget is not None else BudgetDescription()
        self.currency = currency
        self._refuse_what_no_chat_can_be()

    @property
    def is_typed(self) -> bool:
        """Say whether it has a typed input and output."""
        return self.input is not None

    def _refuse_what_no_chat_can_be(self) -> None:
        for word, value, low, high in (
            ("repairs", self.repairs, 0, 3),
            ("max_prompt_bytes", self.max_prompt_bytes, 1, 16_777_216),
            ("max_input_tokens", self.max_input_tokens, 0, 100_000_000),
            ("max_output_tokens", self.max_output_tokens, 1, 1_000_000),
            ("hedge_ms", self.hedge_ms, 0, self.deadline_ms),
            ("retries_share", self.retries_share, 0, 1),
        ):
            self._between(word, value, low, high)
        self._refuse_bad_upstreams()
        self._refuse_bad_types()
        self._refuse_bad_parameters()
        refuse_bad_rules(self.name, self.rules)
        refuse_bad_budget(self.name, self.budget)
        if isinstance(self.prompt, str):
            self.refuse_bad_text("prompt", self.prompt)
        if isinstance(self.template, str):
            self.refuse_bad_text("template", self.template)
        if self.caller_system not in get_args(CallerSystem):
            raise self._wrong(f"caller_system is {self.caller_system!r}", "Use 'as_user' or 'refuse'.")
        if not (isinstance(self.currency, str) and len(self.currency) == 3 and self.currency.isalpha()):
            raise self._wrong(f"currency is {self.currency!r}", "Give its three letters, for example EUR.")
        for way in self.fallbacks:
            if way.kind not in _FALLBACKS:
                raise self._wrong(
                    f"fallback.{way.kind} is for services that run a model",
                    "Use fallback.previous_release(), .last_good() or .constant(…), or one more upstream.",
                )

    def _refuse_bad_upstreams(self) -> None:
        if not self.upstreams:
            raise self._wrong("no upstream is declared", "Give upstreams=[upstream.openai(…)].")
        for one in self.upstreams:
            if not isinstance(one, UpstreamDescription):
                raise self._wrong(
                    f"upstreams contains {one!r}", "Use upstream.openai(…) or upstream.command([…])."
                )
        names = [one.name for one in self.upstreams]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise self._wrong(f"two upstreams are named {twice!r}", "Give each a name of its own.")
        if self.hedge_ms and len(self.upstreams) < 2:
            raise self._wrong("hedge_ms is set with one upstream", "Declare a second one, or take it out.")

    def _refuse_bad_types(self) -> None:
        for word, kind in (("input", self.input), ("output", self.output)):
            if kind is not None and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                raise self._wrong(f"{word} is {kind!r}", "Give a Pydantic model (a class), or leave it out.")
        given = (self.input is not None, self.output is not None, bool(self.template))
        if any(given) and not all(given):
            raise self._wrong(
                "input, output and template belong together",
                "Give all three for a typed service, or none for a chat in OpenAI's form.",
            )

    def _refuse_bad_parameters(self) -> None:
        if strange := sorted(NOT_PARAMETERS & self.parameters.keys()):
            raise self._wrong(
                f"parameters holds {', '.join(strange)}", "These are made for each call; take them out."
            )
        try:
            msgspec.json.encode(self.parameters)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"parameters are not JSON: {error}", "Give numbers, texts, lists.") from error
        for name in self.caller_parameters:
            if not isinstance(name, str) or not name.isidentifier() or name in NOT_PARAMETERS - {"n"}:
                raise self._wrong(
                    f"caller_parameters holds {name!r}",
                    "Name parameters of a request, for example temperature; model, messages and stream are a"
                    " matter of the protocol.",
                )

    def refuse_bad_text(self, where: str, text: str) -> None:
        """Refuse a prompt or template that cannot be sent, or that holds a key."""
        if where == "prompt" and not text.strip():
            raise self._wrong("the prompt is empty", "Say what the model is to do.")
        if (size := len(text.encode("utf-8", "surrogatepass"))) > self.max_prompt_bytes:
            raise self._wrong(
                f"the {where} has {size} bytes",
                f"max_prompt_bytes is {self.max_prompt_bytes}: shorten it, or raise that.",
            )
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise self._wrong(f"the {where} holds a lone surrogate", "Write it in UTF-8.")
        refuse_keys_in(self.name, where, text)

    def _wrong(self, what: str, hint: str) -> DeclarationError:
        return DeclarationError(f"Service {self.name!r}: {what}.", hint=hint)

    def __repr__(self) -> str:
        asked = ", ".join(one.name for one in self.upstreams)
        return f"<ChatService {self.name} upstreams={asked} deadline_ms={self.deadline_ms}>"


def template_parts(service: ChatService, template: str) -> list[tuple[str, str]]:
    """Cut a template into pairs of plain text and the input's attribute that follows it; the last one is empty.

    Raises DeclarationError for what is no field of the input.
    """
    fields = service.input.model_fields if service.input is not None else {}
    parts: list[tuple[str, str]] = []
    try:
        for text, field, form, conversion in string.Formatter().parse(template):
            if field is None:
                parts.append((text, ""))
                continue
            if form or conversion or field not in fields:
                known = ", ".join(f"{{{name}}}" for name in fields)
                shown = f"{{{field}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
                raise DeclarationError(
                    f"Service {service.name!r}: the template asks for {shown}.",
                    hint=f"The input has {known}, each written plainly; a literal brace is written {{{{ or }}}}.",
                )
            parts.append((text, field))
    except ValueError as error:
        raise DeclarationError(
            f"Service {service.name!r}: the template cannot be read: {error}.",
            hint="A field is written {name}; a literal brace is written {{ or }}.",
        ) from error
    if not any(field for _, field in parts):
        raise DeclarationError(
            f"Service {service.name!r}: the template names no field of the input.",
            hint="Put {field} where the input's fields belong.",
        )
    return parts
