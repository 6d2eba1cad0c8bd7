"""The chat service that is measured: the support chat of the example, with an upstream that costs nothing.

All that a chat service has by default is on, and the rules, the budget and the tools of the example with it. One thing
is not: the example's own output check, since a service that has one holds a stream to its end, as it says, and then
there is no stream to be measured.
"""

from pathlib import Path
from typing import Any

from nightproof import Budget, ChatService, Check, Objective, OutputRules, Tool, fallback, upstream

PORT = Path(__file__).with_name("upstream.port").read_text().strip()

service = ChatService(
    "chat",
    prompt=Path("prompt.md"),
    upstreams=[upstream.openai("fast", base_url=f"http://127.0.0.1:{PORT}/v1", model="fast-1")],
    parameters={"temperature": 0.2},
    max_input_tokens=8_000,
    max_output_tokens=512,
    checks={"personal": "redact", "injection_model": Check(action="flag", when_fails="open")},
    rules=OutputRules(
        allowed_hosts=["lumen-oak.example", "*.lumen-oak.example"],
        banned=[r"(?i)\b\d{1,2}\s?% (?:off|discount)\b", r"(?i)\bcheaper at\b"],
        secrets="withhold",
        personal="redact",
        max_chars=8_000,
    ),
    tools=[Tool(name="lookup_order", has_side_effect=False, after_untrusted="allow")],
    other_tools="refuse",
    budget=Budget(tokens_per_minute=10**9, tokens_per_day=10**12),  # counted, and never used up
    fallbacks=[fallback.previous_release(), fallback.constant("I cannot answer right now.")],
    objective=Objective(availability=0.999, latency_p99_ms=10_000),
    deadline_ms=20_000,
)


@service.input_check
def one_customer_at_a_time(messages: list[dict[str, Any]]) -> str | None:
    """Refuse what is no conversation with the support."""
    return "too many questions" if sum(one["role"] == "user" for one in messages) > 60 else None
