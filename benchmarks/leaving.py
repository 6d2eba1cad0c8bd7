"""Time what the scanner of answers costs: `python -m benchmarks.leaving`. Processor time, the best of several rounds.

Nothing here is held against a number: the machine's other work shows in it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from nightproof.checks.canary import CanaryIndex, draw_canary, index_of
from nightproof.checks.leaving import CompiledRules, OutputScanner
from nightproof.checks.prompt_shadow import PromptShadow
from nightproof.declare.chat_description import OutputRules

_PLAIN = (
    "Thank you for writing. Your order was shipped on Tuesday and should arrive within three working days, depending"
    " on the carrier. If it does not, please reply to this message and we will look into it at once. You can return"
    " anything within thirty days, as long as it was not used, and we will refund the price. Let me know if there is"
    " anything else that I can do for you today, and have a good evening there!"
)
_RICH = (
    "## Returns\n\n1. Go to [your orders](https://shop.example.org/orders?id=12) and choose **Return**.\n2. Print the"
    " label, e.g. with `lp label.pdf`; it costs 4.90 EUR.\n3. Questions? See https://shop.example.org/help or write to"
    " help@shop.example.org (Mon-Fri, 9:00-18:00).\n\n| item | price |\n|---|---|\n| lamp | 19.90 |\n| cable | 3.50 |\n"
)
_PROMPT = (
    "You are the helper of the Example shop. Answer kindly and briefly, in the customer's language. " * 20
)
_ROUNDS, _TIMES = 7, 150


def main() -> None:
    """Print the figures."""
    rules = CompiledRules(OutputRules(allowed_hosts=["shop.example.org"], banned=[r"(?i)secret\s+plan"]))
    shadow, canary = PromptShadow(_PROMPT), draw_canary(bytes(range(10)))
    index_of(canary)
    print(f"a canary's index         {_best_us(lambda: CanaryIndex(canary)):8.1f} us")
    for name, text in (("plain", _PLAIN), ("with links and marks", _RICH)):
        tokens = re.findall(r" ?\w+|[^\w]", text)

        def scan(pieces: list[str]) -> None:
            scanner = OutputScanner(rules, canary=canary, prompt=shadow)
            for piece in pieces:
                scanner.feed(piece)
            scanner.end()

        print(f"{name}: {len(text)} characters, {len(tokens)} pieces")
        print(f"  as a whole             {_best_us(lambda text=text: scan([text])):8.1f} us")
        print(
            f"  each piece             {_best_us(lambda tokens=tokens: scan(tokens)) / len(tokens):8.1f} us"
        )
        scanner = OutputScanner(rules, canary=canary, prompt=shadow)
        held: list[int] = []
        for token in tokens:
            scanner.feed(token)
            held.append(scanner.held_chars)
        print(f"  held back on average   {sum(held) / len(held):8.1f} characters, at most {max(held)}")
        print(f"  pieces that wait       {sum(chars > 0 for chars in held) / len(held):8.0%}")


def _best_us(act: Callable[[], object]) -> float:
    rounds = []
    for _ in range(_ROUNDS):
        begun = time.process_time()
        for _ in range(_TIMES):
            act()
        rounds.append((time.process_time() - begun) / _TIMES * 1e6)
    return min(rounds)


if __name__ == "__main__":
    main()
