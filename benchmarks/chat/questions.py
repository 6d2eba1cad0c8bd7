"""What is asked: 64 conversations of one to five messages, no two requests of a run the same.

Each question carries a number, `number 0000000`, which the load generator counts up. A worker knows texts of earlier
turns again, so the same bodies sent over and over would measure its memory and not its checks: the turns before carry
the number too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

NUMBER = "0000000"
_OPENINGS = (
    "Hello, my order has not come yet and I wonder where it is.",
    "Guten Tag, ich habe eine Frage zu meiner Bestellung vom letzten Montag.",
    "I would like to return a floor lamp that does not fit our living room.",
    "Can you tell me how long the warranty on your furniture is, and what it covers?",
    "The parcel came yesterday but the box was wet and one of the two shades is dented.",
    "Bonjour, est-ce que vous livrez aussi en Belgique et combien cela coûte-t-il ?",
    "I paid by bank transfer last week and have not heard from you since. Has the money arrived?",
    "Is the oak table also sold in 1.60 m, or only in the two sizes that the page shows?",
)
_FOLLOW_UPS = (
    "And could it be delivered to my neighbour on the second floor instead?",
    "Thank you. What would it cost to have it carried up and put together?",
    "Danke. Kann ich die Rechnung bitte auch auf den Namen meiner Firma bekommen?",
    "Fine, but I will be travelling until the 14th. Can you hold it until then?",
)
_EARLIER = "Thank you for writing. Your parcel is on its way and comes within two days."
CONVERSATIONS = 64


def conversations() -> Iterator[list[dict[str, str]]]:
    """Yield the conversations: half of one message, a quarter of three, a quarter of five."""
    pairs = itertools.cycle(itertools.product(_OPENINGS, _FOLLOW_UPS))
    for place, (opening, follow_up) in zip(range(CONVERSATIONS), pairs, strict=False):
        messages = [{"role": "user", "content": f"{opening} Customer number {NUMBER}."}]
        for _ in range((0, 1, 0, 2)[place % 4]):
            messages.append({"role": "assistant", "content": f"{_EARLIER} Reference: number {NUMBER}."})
            messages.append({"role": "user", "content": f"{follow_up} Order number {NUMBER}."})
        yield messages


def bodies(*, model: str, is_streamed: bool = False) -> tuple[bytes, ...]:
    """Return the bodies, each with its numbers still to be counted up."""
    more = {"stream": True} if is_streamed else {}
    return tuple(
        json.dumps(
            {"model": model, "messages": messages, **more}, ensure_ascii=False, separators=(",", ":")
        ).encode()
        for messages in conversations()
    )


def numbered(body: bytes, number: int) -> bytes:
    """Return a body with its number."""
    return body.replace(NUMBER.encode(), b"%07d" % number)
