"""Find the system prompt in an answer: fifty characters of it in a row, or many of its phrases.

`PromptShadow` is made once per release. It knows the prompt's letters and digits in every run of 16, so that a stream
needs to ask for one of its own runs in 16 only: no copy of 31 or more escapes that.
"""

from __future__ import annotations

from collections.abc import Sequence

from nightproof.checks.squeezed import squeeze

RUN = 16
LEAK_CHARS = 50
"""So many letters and digits in a row are a leak."""
GRACE_CHARS = 32
"""So many of a copy may have left before it is held back; less could not be told from chance."""
SHORTEST_CHARS = 32
"""A prompt with less than this says nothing that is worth keeping; of one with less than 50 it is the whole."""
SHINGLE_WORDS = 8
SHINGLES_SHARE = 0.3
FEWEST_SHINGLES = 6
_MOST_CHARS = 131_072
_MOST_PLACES = 16


class PromptShadow:
    """What of a prompt may not be said."""

    def __init__(self, prompt: str, sayable: Sequence[str] = ()) -> None:
        squeezed = squeeze(prompt)[:_MOST_CHARS]
        for phrase in sayable:  # facts that answers are there to give
            if said := squeeze(phrase):
                squeezed = squeezed.replace(said, b"\0")
        self.text = squeezed
        whole = len(squeezed.replace(b"\0", b""))
        self.leak_chars = min(LEAK_CHARS, whole) if whole >= SHORTEST_CHARS else 0
        self.places: dict[bytes, list[int]] = {}
        if self.leak_chars:
            for at in range(len(squeezed) - RUN + 1):
                places = self.places.setdefault(squeezed[at : at + RUN], [])
                if len(places) < _MOST_PLACES:
                    places.append(at)
        self._shingles = _shingles(prompt) if self.leak_chars == LEAK_CHARS else frozenset()
        for phrase in sayable:
            self._shingles -= _shingles(phrase)

    def __repr__(self) -> str:
        return f"<PromptShadow of {len(self.text)} characters>"

    def runs(self, squeezed: bytes, at: int) -> list[tuple[int, int]]:
        """Return the copies around the run at `at`, each as start in `squeezed` and end in the prompt."""
        found = []
        for place in self.places.get(squeezed[at : at + RUN], ()):
            start, left = at, place
            while left > 0 and start > 0 and self.text[left - 1] == squeezed[start - 1] != 0:
                left, start = left - 1, start - 1
            found.append((start, place + RUN))
        return found

    def share(self, window: str) -> float:
        """Return the share of the window's phrases of eight words that are the prompt's; 0 for too few."""
        said = _shingles(window)
        both = len(said & self._shingles)
        return both / len(said) if both >= FEWEST_SHINGLES else 0.0


def _shingles(text: str) -> frozenset[bytes]:
    words = [word for word in map(squeeze, text.split()) if word]
    many = len(words) - SHINGLE_WORDS + 1
    return frozenset(b" ".join(words[at : at + SHINGLE_WORDS]) for at in range(many))


NO_PROMPT = PromptShadow("")
