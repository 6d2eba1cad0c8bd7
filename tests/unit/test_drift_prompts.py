"""Prompts are watched like fields: what language they are in, their form, their words, and what the guards said."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from nightproof.base.profile import Profile
from nightproof.storage.reference_file import NoReference, has_reference, read_prompts
from nightproof.watch.drift import wire
from nightproof.watch.drift.child import Child, Watching
from nightproof.watch.drift.detector import Rules
from nightproof.watch.drift.prompts import (
    FEATURES,
    GUARD,
    GUARD_SCHEMA,
    PROMPT_SCHEMA,
    last_said,
    prompt_in,
    prompt_seen,
    text_features,
    with_features,
)
from nightproof.watch.drift.wire import Row
from tests.prompts import english, mixed

RELEASE = wire.Release("desk", "d", PROMPT_SCHEMA, GUARD_SCHEMA, ["injection_model"], is_chat=True)
RULES = Rules(promise_s=100_000.0, window_rows=100, window_s=1.0)
DAY_US = 86_400_000_000


def row(text: str, score: float | None = None, *, flagged: bool = False) -> Row:
    seen = prompt_seen(
        [{"role": "user", "content": text}],
        scores={} if score is None else {"injection_model": score},
        checks_flagged=["injection_model"] if flagged else [],
    )
    assert seen is not None
    return Row(seen.input, seen.output, seen.findings, "key")


def scored(texts: list[str], *, seed: int, attacks: float = 0.0) -> list[Row]:
    chance = random.Random(seed)
    return [
        row(text, chance.betavariate(8, 2) if chance.random() < attacks else chance.betavariate(1, 12))
        for text in texts
    ]


@pytest.fixture(scope="module")
def profile() -> bytes:
    """Learn from 1,500 prompts in English, with what a guard says of them."""
    watched = Watching(wire.Watch(RELEASE, RULES, b"", b"", 1_500, 0))
    given = scored(english(1_500, seed=1), seed=1)
    built = next(iter(watched.take(wire.Rows("desk", "d", given, 1.0, DAY_US))))
    assert isinstance(built, wire.Built)
    return built.profile


def windows_until_alarm(profile: bytes, windows: list[list[Row]]) -> tuple[int, list[str]]:
    """Return in which window it alarmed, from 1, and what it named; 0 where it never did."""
    watched = Watching(wire.Watch(RELEASE, RULES, profile, b"", 0, 0))
    for number, window in enumerate(windows, 1):
        (told,) = watched.take(wire.Rows("desk", "d", window, 1.0, DAY_US))
        assert isinstance(told, wire.Told)
        if told.raised and told.alarm is not None:
            return number, told.alarm.signals
    return 0, []


def test_the_form_the_words_the_languages_and_the_guard_are_signals(profile: bytes):
    made = msgspec.msgpack.decode(profile, type=Profile)

    features = {signal.feature for signal in made.signals}
    assert {"/prompt", "/turns", "output /guard_score", "check injection_model"} <= features
    assert {f"/{name}" for name in FEATURES} <= features
    assert sum(signal.measure.startswith("words ") for signal in made.signals) == 12


def test_prompts_like_those_of_the_reference_never_alarm(profile: bytes):
    windows = [scored(english(100, seed=1_000 + number), seed=number) for number in range(150)]

    assert windows_until_alarm(profile, windows) == (0, [])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_of_five_prompts_in_other_languages_are_found_in_the_first_windows(profile: bytes, seed: int):
    windows = [scored(mixed(100, 0.4, seed=seed * 100 + number), seed=number) for number in range(10)]

    found, signals = windows_until_alarm(profile, windows)

    assert 1 <= found <= 2
    assert {"/english", "/germanic", "/romance", "/cyrillic", "/latin_marks"} & set(signals)


def test_one_of_five_is_found_within_seven_windows(profile: bytes):
    windows = [scored(mixed(100, 0.2, seed=700 + number), seed=number) for number in range(10)]

    found, _ = windows_until_alarm(profile, windows)

    assert 1 <= found <= 7


def test_a_campaign_of_attacks_shows_in_the_guards_score_though_none_is_refused(profile: bytes):
    windows = [scored(english(100, seed=50 + number), seed=number, attacks=0.2) for number in range(10)]

    found, signals = windows_until_alarm(profile, windows)

    assert 1 <= found <= 5
    assert signals == ["output /guard_score"]


def test_findings_that_become_frequent_are_found(profile: bytes):
    chance = random.Random(5)
    windows = [
        [
            row(text, chance.betavariate(1, 12), flagged=chance.random() < 0.2)
            for text in english(100, seed=number)
        ]
        for number in range(10)
    ]

    found, signals = windows_until_alarm(profile, windows)

    assert 1 <= found <= 3
    assert "check injection_model" in signals


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("How can I change the address of my order, please?", "english"),
        ("Wie kann ich die Adresse für meine Bestellung ändern, bitte?", "germanic"),
        ("¿Cómo puedo cambiar la dirección de mi pedido, por favor?", "romance"),
        ("Как мне изменить адрес доставки?", "cyrillic"),
        ("注文の配送先を変更できますか", "east_asian"),
        ("كيف يمكنني تغيير عنوان التسليم؟", "other_script"),
    ],
)
def test_a_text_measures_most_in_its_own_language(text: str, most: str):
    features = text_features(text)

    assert tuple(features) == FEATURES
    assert max(features, key=features.__getitem__) == most
    assert all(0.0 <= value <= 1.0 for value in features.values())


@pytest.mark.parametrize("text", ["", " \n", "12345", "\u200b\U000e0041", "a" * 1_000_000, "\ud83d\ude00"])
def test_any_text_has_features(text: str):
    features = text_features(text)

    assert all(0.0 <= value <= 1.0 for value in features.values())


def test_a_record_without_a_text_stays_as_it_is():
    assert with_features({"prompt": None}) == {"prompt": None}
    assert with_features([1]) == [1]


def test_the_last_that_the_user_said_is_what_counts():
    parts = [{"type": "text", "text": "and"}, {"type": "image_url"}, {"type": "text", "text": "this"}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": parts},
        {"role": "tool", "content": "a document"},
    ]

    assert last_said(messages) == "and\nthis"
    assert last_said(messages[:2]) == "first"
    assert last_said([{"role": "system", "content": "x"}]) == ""
    assert prompt_seen(messages[3:], scores={}, checks_flagged=[]) is None


def test_a_refused_prompt_is_seen_with_the_highest_score():
    seen = prompt_seen(
        [{"role": "user", "content": "x"}],
        scores={"injection_model": 0.2, "adapter": 0.9},
        checks_flagged=["adapter", "adapter"],
    )

    assert seen is not None
    assert (seen.failure, seen.batch_size, seen.findings) == ("", 1, ["adapter"])
    assert json.loads(seen.output) == {GUARD: 0.9}


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ({"prompt": "a"}, "a"),
        ({"text": "a", "label": 0}, "a"),
        ({"input": {"messages": [{"role": "user", "content": "a"}]}}, "a"),
        ("a", "a"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, None),
        ({"prompt": 5}, None),
        (None, None),
    ],
)
def test_a_line_of_the_reference_may_be_written_in_several_ways(line: Any, prompt: str | None):
    record = prompt_in(line)

    assert (record or {}).get("prompt") == prompt


def test_a_reference_of_lines_is_read_evenly_and_past_what_is_broken(tmp_path: Path):
    lines = [json.dumps({"prompt": f"p{number}", "nightproof_at": "2026-05-01"}) for number in range(1_000)]
    (tmp_path / "reference.jsonl").write_text("\n".join([*lines[:500], "{broken", *lines[500:]]) + "\n")

    read = read_prompts(tmp_path, prompt_in, most=100)
    whole = read_prompts(tmp_path, prompt_in, most=5_000)

    assert has_reference(tmp_path)
    assert 80 <= len(read.records) == len(read.times) <= 100
    assert len(whole.records) == 1_000
    assert [one["prompt"] for one in whole.records[:2]] == ["p0", "p1"]


def test_a_reference_of_columns_is_read_as_well(tmp_path: Path):
    parquet.write_table(arrow.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "reference.parquet")

    assert [one["prompt"] for one in read_prompts(tmp_path, prompt_in, most=100).records] == ["a", "b"]


def test_a_reference_without_prompts_says_so(tmp_path: Path):
    (tmp_path / "reference.jsonl").write_text('{"x": 1}\n')

    with pytest.raises(NoReference, match=r"no row of the reference has a prompt.*1 rows"):
        read_prompts(tmp_path, prompt_in, most=100)


def test_a_profile_is_built_of_a_folders_prompts_and_what_the_checks_said_of_them(tmp_path: Path):
    texts = english(300, seed=3)
    (tmp_path / "reference.jsonl").write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
    child = Child(None)  # type: ignore[arg-type]

    (drafted,) = child._do(wire.Build(RELEASE, str(tmp_path), 200, 100))
    assert isinstance(drafted, wire.Drafted)
    said = [json.dumps({GUARD: 0.1 + place % 7 / 100}).encode() for place in range(len(drafted.inputs))]
    (built,) = child._do(wire.Finish(said, [[] for _ in said], DAY_US))

    assert isinstance(built, wire.Built)
    made = msgspec.msgpack.decode(built.profile, type=Profile)
    assert (made.origin, made.rows, made.answered_rows) == ("reference", 300, 200)
    assert "output /guard_score" in {signal.feature for signal in made.signals}
