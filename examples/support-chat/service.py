"""The example chat service `support`: the support chat of a shop.

It needs no account and no internet: `upstream.py` beside this file answers, started and watched by `nightproof serve`.
To have a real model answer, put an `upstream.openai(…)` before it; what stands behind it then is the fallback.
"""

from pathlib import Path
from typing import Any

from nightproof import Budget, ChatService, Check, Objective, OutputRules, Tool, fallback, upstream

SORRY = (
    "I cannot answer right now. Please write to us at https://lumen-oak.example/help, and a colleague will answer"
    " within a day."
)

service = ChatService(
    "support",
    prompt=Path("prompt.md"),  # part of the release, as everything in this folder
    upstreams=[
        # upstream.openai(
        #     "hosted",
        #     base_url="https://api.openai.com/v1",
        #     model="gpt-4.1-mini",
        #     secret="env:OPENAI_API_KEY",  # where the key is, never the key
        #     input_price=0.40,
        #     output_price=1.60,
        # ),
        upstream.command(
            ["python", "upstream.py", "--port", "{port}"],
            name="local",
            model="shop-1",
            first_token_ms=2_000,
            idle_ms=2_000,
            total_ms=15_000,
        ),
    ],
    parameters={"temperature": 0.2},
    max_input_tokens=8_000,
    max_output_tokens=512,
    checks={
        "personal": "redact",  # the model need not know a customer's card or account number
        "injection_model": Check(action="flag", when_fails="open"),
    },
    rules=OutputRules(
        allowed_hosts=["lumen-oak.example", "*.lumen-oak.example"],
        # What answers may repeat of the prompt, word for word; anything else of it is withheld as a leak.
        sayable=[
            "Delivery takes two to four working days within the country and up to ten abroad.",
            "From 50 euros on it is free.",
            "Unused articles may be returned within 30 days.",
            "The money comes back within 14 days, the way it was paid.",
            "Lamps have two years of warranty, furniture five.",
        ],
        banned=[r"(?i)\b\d{1,2}\s?% (?:off|discount)\b", r"(?i)\bcheaper at\b"],
        secrets="withhold",
        personal="redact",
        max_chars=8_000,
    ),
    tools=[
        Tool(name="lookup_order", has_side_effect=False, after_untrusted="allow"),
        Tool(
            name="open_return",
            after_untrusted="approve",
            parameters={
                "type": "object",
                "properties": {
                    "order": {"type": "string", "pattern": "^[0-9]{4,8}$"},
                    "reason": {"type": "string", "maxLength": 200},
                },
                "required": ["order"],
                "additionalProperties": False,
            },
        ),
    ],
    other_tools="refuse",
    budget=Budget(tokens_per_minute=100_000, tokens_per_day=5_000_000),
    currency="EUR",
    fallbacks=[fallback.previous_release(), fallback.constant(SORRY)],
    objective=Objective(availability=0.999, latency_p99_ms=10_000),
    deadline_ms=20_000,
)


@service.input_check
def one_customer_at_a_time(messages: list[dict[str, Any]]) -> str | None:
    """Refuse what is no conversation with the support; the text says why, without the caller's words."""
    if sum(message["role"] == "user" for message in messages) > 60:
        return "a conversation of more than sixty questions: start a new one"
    return None


@service.output_check
def no_promise_of_a_refund_sum(messages: list[dict[str, Any]], answer: str) -> str | None:
    """Withhold what only the back office may promise. A stream is held until this has spoken."""
    lowered = answer.lower()
    if "i have refunded" in lowered or "your refund of" in lowered:
        return "the answer says that money was paid back"
    return None
