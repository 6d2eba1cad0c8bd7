"""Ask a bigger detector: a remote service over HTTP, or a function of the service's own. Both answer in one form.

They are given texts, and answer `{"scores": [...]}`, one number from 0 to 1 for each text, or
`{"findings": [{"text": 0, "rule": "...", "score": 1.0, "start": 3, "end": 9}]}`; the places are for redaction and may
be missing. Anything else, a score that is no number, a redirect, or no answer in time is no verdict. Each question runs
in a thread of its own, so that one which never ends costs its caller no more than its budget.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

LONGEST_ANSWER_BYTES = 1 << 20
MOST_UNANSWERED = 8
"""Questions that may still run after their time; with more, nobody is asked until one has ended."""


class NoVerdict(Exception):
    """A check said nothing that can be used."""


class Found(msgspec.Struct, frozen=True):
    """One thing that a detector found."""

    text: int
    """Which of the texts, counted from 0."""
    rule: str = ""
    score: float = 1.0
    start: int = 0
    end: int = 0
    """Where in the text, in characters; nowhere in particular if both are 0."""


class Answer(msgspec.Struct, frozen=True):
    """What a detector says."""

    scores: list[float] | None = None
    findings: list[Found] | None = None


Ask = Callable[[Sequence[str]], Any]


class Adapter:
    """One detector outside of this package."""

    def __init__(self, name: str, ask: Ask) -> None:
        self._name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._running = 0  # under the lock

    def __repr__(self) -> str:
        return f"Adapter({self._name}, {self._running} running)"

    def close(self) -> None:
        """Give back what it holds, if it holds anything."""
        if isinstance(self._ask, Remote):
            self._ask.close()

    def look(self, texts: Sequence[str], *, within_s: float, threshold: float) -> list[Found]:
        """Return what it finds in the texts; raise `NoVerdict` where it says nothing usable in its time."""
        return read(self._answer(list(texts), within_s), len(texts), threshold)

    def _answer(self, texts: list[str], within_s: float) -> Any:
        with self._lock:
            if self._running >= MOST_UNANSWERED:
                raise NoVerdict(f"{self._running} earlier questions are still not answered")
            self._running += 1
        box: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(texts, box), name=f"check {self._name}", daemon=True).start()
        try:
            is_answer, said = box.get(timeout=within_s)
        except queue.Empty:
            raise NoVerdict("no answer in its time") from None
        if not is_answer:
            raise NoVerdict(f"it raised {type(said).__name__}")
        return said

    def _run(self, texts: list[str], box: queue.SimpleQueue[tuple[bool, Any]]) -> None:
        try:
            box.put((True, self._ask(texts)))
        except BaseException as error:  # noqa: BLE001
            # Whatever a foreign function raises is no verdict; the policy of the check says what follows.
            box.put((False, error))
        finally:
            with self._lock:
                self._running -= 1


def read(said: Any, count: int, threshold: float) -> list[Found]:
    """Read an answer about so many texts strictly; what is not understood is no verdict."""
    if isinstance(said, list | tuple):
        said = {"scores": list(said)}
    try:
        answer = msgspec.convert(said, type=Answer, from_attributes=True)
    except msgspec.ValidationError as error:
        raise NoVerdict(f"the answer has another form: {error}") from None
    if answer.scores is None and answer.findings is None:
        raise NoVerdict("the answer has neither scores nor findings")
    found = list(answer.findings or ())
    if answer.scores is not None:
        if len(answer.scores) != count:
            raise NoVerdict(f"{len(answer.scores)} scores for {count} texts")
        if not all(math.isfinite(score) for score in answer.scores):
            raise NoVerdict("a score is no number")
        found += [Found(at, "score", score) for at, score in enumerate(answer.scores) if score >= threshold]
    for one in found:
        if not 0 <= one.text < count or not math.isfinite(one.score) or not 0 <= one.start <= one.end:
            raise NoVerdict("a finding is about no text that was asked about")
    return found


class Remote:
    """A service elsewhere; its connections are kept."""

    def __init__(self, url: str, *, within_s: float) -> None:
        import httpx  # only where a remote service is declared

        self._url = url
        self._client = httpx.Client(timeout=within_s, follow_redirects=False, trust_env=False)

    def __call__(self, texts: Sequence[str]) -> Any:
        """Send the texts and return what the service says."""
        body = bytearray()
        with self._client.stream("POST", self._url, json={"texts": list(texts)}) as response:
            if response.status_code != 200:
                raise NoVerdict(f"status {response.status_code}")
            for part in response.iter_bytes():
                body += part
                if len(body) > LONGEST_ANSWER_BYTES:
                    raise NoVerdict("the answer is too long")
        return msgspec.json.decode(bytes(body))

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()
