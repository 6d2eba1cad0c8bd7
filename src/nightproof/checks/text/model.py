"""Layer B: a small linear classifier over hashed features, shipped with the package. It scores; it does not decide.

Two models answer two questions. Of a user's prompt: is this an attack on the assistant? Of a document or a tool's
result: does a sentence in it give the assistant an order? Weights are eight-bit numbers in a plain array file, read
without pickle. A score is a log-odds; which one counts as a finding is a threshold of its own, calibrated on the
site's own benign traffic (`calibrate`). Needs numpy, so workers only.
"""

from __future__ import annotations

import importlib.resources
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from nightproof.checks.text import features
from nightproof.checks.text.normalise import View, Views
from nightproof.checks.text.rules import built_in, rules

Question = Literal["prompt", "document"]
LONGEST_PIECE = 1_600
"""Characters that are scored as one text; a longer one is scored in overlapping pieces, and the highest counts."""
_OVERLAP = 400
_SENTENCE = re.compile(r"[^.!?\n。！？]+[.!?\n。！？]*")
_LONGEST_SENTENCE = 400
_MOST_FORMS = 8
_NOTHING = -20.0
"""The score of a text that says nothing: lower than that of any that does."""
_TOGETHER = 256
"""Pieces scored at once, so that a long text needs little memory."""
_RULE_NUMBERS = {rule.name: number for number, rule in enumerate(rules())}


class Weights(msgspec.Struct, frozen=True):
    """What is said about a model beside its array."""

    question: Question
    version: int
    """Of the features."""
    bias: float
    scales: list[float]
    """Of a group's eight-bit weights, group by group."""
    threshold: float
    """Score from which it finds something, where the site has no calibration."""
    trained_on: list[str]


class Scored(NamedTuple):
    """A score, and the form of the text that has it."""

    score: float
    view: str = "plain"


class Model:
    """One question's classifier."""

    def __init__(self, about: Weights, table: npt.NDArray[np.int8]) -> None:
        if about.version != features.VERSION or table.shape != (features.SLOTS,):
            raise ValueError(f"the weights of {about.question!r} are of another version of the features")
        self.about = about
        self._table = table.astype(np.float32)
        for group, scale in enumerate(about.scales):
            start = features.OFFSETS[group]
            end = features.OFFSETS[group + 1] if group + 1 < len(features.OFFSETS) else features.SLOTS
            self._table[start:end] *= scale

    @property
    def threshold(self) -> float:
        """Score from which it finds something."""
        return self.about.threshold

    def score(self, seen: Views) -> Scored:
        """Score a text and what it may stand for; of a long form its highest-scoring piece counts."""
        return self.score_all([seen])[0]

    def score_all(self, some: Sequence[Views]) -> list[Scored]:
        """Score texts, each on its own, at once: of short texts that costs a fraction of one after the other."""
        forms = [(at, form) for at, seen in enumerate(some) for form in _scored_forms(seen)]
        best: list[Scored | None] = [None] * len(some)
        for (at, form), found in zip(forms, self._score_forms(forms, some), strict=True):
            known = best[at]
            if known is None or found > known.score:
                best[at] = Scored(found, form.name)
        return [one or Scored(_NOTHING) for one in best]

    def _score_forms(self, forms: Sequence[tuple[int, View]], some: Sequence[Views]) -> list[float]:
        """Return the score of each form: its highest piece's, of pieces that no form of its text before it had."""
        waiting: list[features.Piece] = []
        whose: list[int] = []
        found = [_NOTHING] * len(forms)
        known: list[set[str]] = [set() for _ in some]

        def flush() -> None:
            if waiting:
                for place, score in zip(whose, self.scores(waiting).tolist(), strict=True):
                    found[place] = max(found[place], score)
                waiting.clear()
                whose.clear()

        for place, (at, form) in enumerate(forms):
            texts = [piece for piece in pieces(form.text, self.about.question) if piece not in known[at]]
            known[at].update(texts)
            normal = some[at].normal if form.name == "plain" else form.text
            for start in range(0, len(texts), _TOGETHER):
                part = texts[start : start + _TOGETHER]
                if len(waiting) + len(part) > _TOGETHER:
                    flush()
                waiting += self._prepared(part, normal if len(texts) == 1 else "")
                whose += [place] * len(part)
        flush()
        return found

    def _prepared(self, texts: Sequence[str], normal: str) -> list[features.Piece]:
        """Look up the rules of a prompt's pieces; sentences have no shape, and need none."""
        if self.about.question == "document":
            return [features.Piece(text, text) for text in texts]
        return prepared(texts, normal)

    def scores(self, some: Sequence[features.Piece]) -> npt.NDArray[np.float64]:
        """Score pieces, each on its own."""
        total = np.full(len(some), self.about.bias)
        for group in features.of(some, with_shape=self.about.question == "prompt"):
            sums = np.bincount(group.piece, weights=self._table[group.slot], minlength=len(some))
            counts = np.bincount(group.piece, minlength=len(some))
            total += sums / np.sqrt(np.maximum(counts, 1))
        return total


def prepared(texts: Sequence[str], normal: str = "") -> list[features.Piece]:
    """Look up the rules of each text, as the features want them."""
    find = built_in().names
    return [
        features.Piece(text, normal or text, [_RULE_NUMBERS[name] for name in find(text)]) for text in texts
    ]


def _scored_forms(seen: Views) -> list[View]:
    """Return the forms worth a score: turned texts are for the rules alone, they look like nothing learnt."""
    return [form for form in seen.forms if not form.name.endswith(("rot13", "reversed"))][:_MOST_FORMS]


def pieces(form: str, question: Question) -> Iterator[str]:
    """Yield what is scored on its own: overlapping pieces of a prompt, sentences and pairs of them of a document."""
    if question == "prompt":
        if len(form) <= LONGEST_PIECE:
            yield form
            return
        for start in range(0, len(form) - _OVERLAP, LONGEST_PIECE - _OVERLAP):
            yield form[start : start + LONGEST_PIECE]
        return
    before = ""
    for found in _SENTENCE.finditer(form):
        whole = found.group().strip(" \n|")
        for start in range(0, max(1, len(whole)), _LONGEST_SENTENCE):
            sentence = whole[start : start + _LONGEST_SENTENCE]
            if len(sentence) < 3:
                continue
            yield sentence
            if before and len(before) + len(sentence) <= _LONGEST_SENTENCE:
                yield f"{before} {sentence}"
            before = sentence


@cache
def load(question: Question) -> Model:
    """Return the shipped model of a question; read once in a process."""
    folder = importlib.resources.files("nightproof.checks.text") / "weights"
    about = msgspec.json.decode((folder / f"{question}.json").read_bytes(), type=Weights)
    table: Any = np.load(io.BytesIO((folder / f"{question}.npy").read_bytes()), allow_pickle=False)
    return Model(about, table)
