"""Make numbers of a text for the classifier: hashed words and letters, concepts in their order, and its shape.

Used by the training and by the detector alike, so that both see the same. Needs numpy, so workers only.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nightproof.checks.text import concepts

VERSION = 1
"""Of the features: weights of another version do not fit."""
LETTER_SLOTS = 1 << 16
WORD_SLOTS = 1 << 16
CONCEPT_SLOTS = 1 << 14
SHAPE_SLOTS = 1 << 9
OFFSETS = (
    0,
    LETTER_SLOTS,
    LETTER_SLOTS + WORD_SLOTS,
    LETTER_SLOTS + WORD_SLOTS + CONCEPT_SLOTS,
)
SLOTS = OFFSETS[-1] + SHAPE_SLOTS
GROUPS = ("letters", "words", "concepts", "shape")

Numbers = npt.NDArray[np.int64]
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)?|[^\w\s]|_")
_A, _B, _C, _D, _E = (
    np.uint32(constant) for constant in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
)


class Piece(NamedTuple):
    """A text to make numbers of."""

    form: str
    """In its `matching` form."""
    normal: str
    """As a person sees it."""
    rules: Sequence[int] = ()
    """The numbers of the rules that match it."""


class Group(NamedTuple):
    """The slots that a group of features sets, each once in a piece."""

    piece: Numbers
    slot: Numbers


@lru_cache(maxsize=16_384)
def _word(word: str) -> tuple[int, int]:
    return zlib.crc32(word.encode("utf-8", "replace")), concepts.of(word.replace("’", "'"))


def of(pieces: Sequence[Piece], *, with_shape: bool = True) -> list[Group]:
    """Return the slots that are set, group by group, of all pieces at once; sentences have no shape to speak of."""
    words = [_TOKEN.findall(piece.form) for piece in pieces]
    looked_up = [_word(word) for found in words for word in found]
    of_word = np.repeat(np.arange(len(pieces)), [len(found) for found in words])
    hashes = np.array([entry[0] for entry in looked_up], dtype=np.uint32)
    sequence = np.array([entry[1] for entry in looked_up], dtype=np.uint32)
    groups = [
        _letters([piece.form for piece in pieces]),
        _words(hashes, of_word),
        _concepts(sequence, of_word),
    ]
    if with_shape:
        groups.append(_shapes(pieces, words, sequence, of_word))
    return groups


def _group(hashed: Sequence[Any], of_piece: Sequence[Any], size: int, offset: int) -> Group:
    mixed = np.concatenate(hashed) * _E
    mixed ^= mixed >> np.uint32(15)
    mixed *= _B
    slots = (mixed >> np.uint32(33 - size.bit_length())).astype(np.int64)
    both = np.concatenate(of_piece) * size + slots
    both.sort()
    both = both[np.concatenate(([True], both[1:] != both[:-1]))] if len(both) else both
    return Group(both // size, both % size + offset)


def _letters(forms: Sequence[str]) -> Group:
    """Hash runs of three to five characters."""
    points = np.frombuffer(
        "".join(f" {form} " for form in forms).encode("utf-32-le", "replace"), dtype=np.uint32
    )
    of_piece = np.repeat(np.arange(len(forms)), [len(form) + 2 for form in forms])
    three = (points[:-2] * _A + points[1:-1]) * _B + points[2:]
    four = three[:-1] * _C + points[3:]
    five = four[:-1] * _D + points[4:]
    hashed, pieces = [], []
    for run, longest in ((three, 3), (four, 4), (five, 5)):
        if len(forms) == 1:
            hashed.append(run)
            pieces.append(of_piece[: len(run)])
            continue
        is_inside = of_piece[: len(run)] == of_piece[longest - 1 :][: len(run)]
        hashed.append(run[is_inside])
        pieces.append(of_piece[: len(run)][is_inside])
    return _group(hashed, pieces, LETTER_SLOTS, OFFSETS[0])


def _words(hashes: Any, of_word: Any) -> Group:
    """Hash words, and pairs of words, next to each other and over one."""
    beside = of_word[1:] == of_word[:-1]
    over = of_word[2:] == of_word[:-2]
    return _group(
        (
            hashes,
            ((hashes[:-1] * _A) ^ hashes[1:])[beside],
            ((hashes[:-2] * _C) ^ (hashes[2:] * _D))[over],
        ),
        (of_word, of_word[1:][beside], of_word[2:][over]),
        WORD_SLOTS,
        OFFSETS[1],
    )


def _concepts(sequence: Any, of_word: Any) -> Group:
    """Hash concepts, and pairs and triples in the order they come, with how far apart."""
    places = np.flatnonzero(sequence)
    which, piece = sequence[places], of_word[places]
    hashed, pieces = [which * _A + np.uint32(7)], [piece]
    for step in (1, 2, 3):
        apart = places[step:] - places[:-step]
        near = (apart <= 8) & (piece[step:] == piece[:-step])
        pair = (which[:-step] * np.uint32(64) + which[step:])[near]
        hashed.append(pair * _B + np.uint32(step > 1))
        pieces.append(piece[step:][near])
        if step == 1:
            hashed.append(pair * _C + (apart[near] <= 2).astype(np.uint32))
            pieces.append(piece[step:][near])
    near = (places[2:] - places[:-2] <= 12) & (piece[2:] == piece[:-2])
    hashed.append((((which[:-2] * np.uint32(64) + which[1:-1]) * np.uint32(64) + which[2:]) * _D)[near])
    pieces.append(piece[2:][near])
    starts = np.flatnonzero(np.diff(of_word, prepend=-1))
    hashed.append(sequence[starts] * _D + np.uint32(3))
    pieces.append(of_word[starts])
    return _group(hashed, pieces, CONCEPT_SLOTS, OFFSETS[2])


def _shapes(pieces: Sequence[Piece], words: Sequence[list[str]], sequence: Any, of_word: Any) -> Group:
    """Return the steps that a few measures of each piece reach."""
    counts = np.zeros((len(pieces), len(concepts.NAMES)), dtype=np.int64)
    np.add.at(counts, (of_word, sequence.astype(np.int64)), 1)
    of_piece: list[int] = []
    slots: list[int] = []
    for at, (piece, found) in enumerate(zip(pieces, words, strict=True)):
        steps = _steps(piece, found, counts[at].tolist())
        slots += [measure * 16 + min(15, step) for measure, step in enumerate(steps)]
        slots += [256 + rule for rule in piece.rules]
        of_piece += [at] * (len(steps) + len(piece.rules))
    return Group(np.array(of_piece, dtype=np.int64), np.array(slots, dtype=np.int64) + OFFSETS[3])


def _steps(piece: Piece, words: list[str], counts: list[int]) -> tuple[int, ...]:
    form = piece.form
    count, chars = max(1, len(words)), max(1, len(form))
    return (
        form.count("?"),
        int(form.rstrip().endswith("?")),
        form.count("\n"),
        form.count('"') + form.count("“") + form.count("'"),
        form.count("`") + form.count("{") + form.count("<") + form.count("["),
        form.count("!"),
        form.count(":"),
        20 * sum(map(str.isupper, piece.normal)) // chars,
        20 * (count - sum(map(str.isalpha, words))) // count,
        0 if form.isascii() else 1 + 10 * (len(form.encode("utf-8", "replace")) - chars) // chars,
        20 * (count - counts[0]) // count,
        20 * counts[_YOU] // count,
        20 * counts[_ME] // count,
        sum(counts[concept] > 0 for concept in _TELLING),
        int(math.log2(chars)),
        len(piece.rules),
    )


_YOU = concepts.NAMES.index("you")
_ME = concepts.NAMES.index("me")
_TELLING = frozenset(
    concepts.NAMES.index(name)
    for name in (
        "forget",
        "disable",
        "earlier",
        "orders",
        "limits",
        "secret",
        "system",
        "reveal",
        "persona",
        "free",
        "model",
    )
)
