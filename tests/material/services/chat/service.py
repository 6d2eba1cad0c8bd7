"""A chat service of tests: two upstreams whose addresses the test gives, and checks that let a stream flow."""

import json
from pathlib import Path

from nightproof import Budget, ChatService, Objective, OutputRules, Tool, fallback, upstream

GIVEN = json.loads((Path(__file__).parent / "given.json").read_text())
PROMPT = GIVEN.get(
    "CHAT_PROMPT",
    "You are the assistant of the lighthouse keepers of Fennmark. You answer in short sentences, and never speak"
    " about the price of lamp oil, which the harbour office alone may tell.",
)


def at(place: int, name: str) -> object:
    """Name the upstream of this place."""
    return upstream.openai(
        name,
        base_url=GIVEN["CHAT_UPSTREAMS"].split(",")[place],
        model=f"model-{name}",
        secret="env:CHAT_SECRET",
        connect_ms=int(GIVEN.get("CHAT_CLOCK_MS", "500")),
        first_token_ms=int(GIVEN.get("CHAT_CLOCK_MS", "1000")),
        idle_ms=1_000,
        total_ms=20_000,
        input_price=1.0,
        output_price=2.0,
    )


service = ChatService(
    "chat",
    upstreams=[
        at(place, name)
        for place, name in enumerate(("first", "second"))
        if place < len(GIVEN["CHAT_UPSTREAMS"].split(","))
    ],
    prompt=PROMPT,
    checks={"personal": GIVEN.get("CHAT_PERSONAL", "flag")},
    rules=OutputRules(allowed_hosts=["fennmark.example"], banned=[r"(?i)lamp oil costs \d+"]),
    tools=[Tool(name="read_log", has_side_effect=False, after_untrusted="allow")],
    other_tools=GIVEN.get("CHAT_OTHER_TOOLS", "approve"),
    budget=Budget(tokens_per_minute=int(GIVEN.get("CHAT_TOKENS_PER_MINUTE", "0"))),
    fallbacks=[fallback.constant("The keepers are at sea; ask again tomorrow.")]
    if GIVEN.get("CHAT_FALLBACK")
    else [],
    objective=Objective(availability=0.999),
    deadline_ms=int(GIVEN.get("CHAT_DEADLINE_MS", "8000")),
    workers=(1, 1),
    spares=1,
)
