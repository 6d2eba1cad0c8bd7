"""Ask the rooms what is wrong, remember since when, and notice when one of them cannot be asked.

The runtime hands in one question for each room. A question that raises is itself a condition, `watch_blind`, and the
failures that it would have told of are not known to be well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from nightproof.base.conditions import Condition
from nightproof.watch.log import log


class Question(msgspec.Struct, frozen=True):
    """One room's question, and which failures its answer can name."""

    room: str
    failures: Sequence[str]
    ask: Callable[[], Iterable[Condition]]


class Conditions:
    """Remembers when each condition began."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        self._blind: set[str] = set()

    def ask(self, questions: Iterable[Question], *, now_s: float) -> tuple[list[Condition], list[str]]:
        """Return what is wrong now, each with its beginning, and the failures that could not be asked for."""
        found: dict[tuple[str, str], Condition] = {}
        unread: list[str] = []
        blind: dict[str, str] = {}
        for question in questions:
            try:
                answer = list(question.ask())
            except Exception as error:  # noqa: BLE001 - a border: a room that cannot be asked is what is wrong
                blind[question.room] = type(error).__name__
                unread += question.failures
                continue
            for one in answer:
                found.setdefault((one.failure, one.service), one)
        for room in blind.keys() - self._blind:
            log("watch_blind", level="error", room=room, error=blind[room])
        self._blind = set(blind)
        if blind:
            detail = "; ".join(f"{room} cannot be asked ({error})" for room, error in sorted(blind.items()))
            found["watch_blind", ""] = Condition(failure="watch_blind", detail=detail)
        keep = {key for key in self._since if key in found or key[0] in unread}
        self._since = {key: since_s for key, since_s in self._since.items() if key in keep}
        dated = []
        for key, one in found.items():
            since_s = self._since.setdefault(key, one.since_s or now_s)
            dated.append(msgspec.structs.replace(one, since_s=since_s))
        return dated, unread
