"""Labels judged by pure functions: who is believed, and how good the release is."""

from __future__ import annotations

import random

import pytest

from nightproof.steer.feedback import compare
from nightproof.watch import feedback
from nightproof.watch.feedback import Counted, Source

MINUTE_US = 60_000_000


def labels_until_held(error: float, usual: float, *, most: int = 5_000, seed: int = 1) -> int | None:
    """Feed labels that contradict the model this often; return how many it took to be set aside."""
    chance = random.Random(seed)
    source = Source(source="key")
    for place in range(most):
        if feedback.weigh(source, chance.random() < error, usual, now_us=place):
            return place + 1
    return None


def counted(source: str, *, correct: bool | None = True, confidence: float | None = None) -> Counted:
    return Counted(source, correct, None, confidence, 60.0)


@pytest.mark.parametrize("seed", range(5))
def test_flipped_labels_are_noticed_within_a_few_dozen(seed: int):
    found = labels_until_held(0.8, 0.2, seed=seed)

    assert found is not None
    assert found <= 60


@pytest.mark.parametrize("usual", [0.02, 0.2, 0.4])
def test_labels_that_contradict_as_often_as_usual_are_never_set_aside(usual: float):
    assert all(labels_until_held(usual + 0.05, usual, seed=seed) is None for seed in range(4))


def test_what_a_source_gave_just_before_belongs_to_the_evidence():
    source = Source(source="key")
    for place in range(200):
        feedback.weigh(source, False, 0.2, now_us=place)
    held_at = next(place for place in range(200, 400) if feedback.weigh(source, True, 0.2, now_us=place))

    assert 200 <= source.run_from_us <= 205
    assert held_at < 230


def test_what_is_usual_is_what_the_other_sources_say():
    source = Source(source="new")
    others = [
        Source(source="a", labels=100, disagreed=10),
        Source(source="b", labels=900, disagreed=900, state="held"),
    ]

    assert feedback.usual_disagreement(source, others, None) == pytest.approx(11 / 102)


def test_without_others_a_source_is_held_against_what_confidence_promises_and_later_against_itself():
    young, old = Source(source="a", labels=10), Source(source="a", labels=500, disagreed=100)

    assert feedback.usual_disagreement(young, [], 0.1) == 0.1
    assert feedback.usual_disagreement(young, [], None) is None
    assert feedback.usual_disagreement(old, [], 0.1) == pytest.approx(101 / 502)


def test_a_source_that_takes_back_what_it_said_is_not_believed():
    assert not feedback.conflicts_too_often(Source(source="a", labels=1_000, conflicts=20))
    assert not feedback.conflicts_too_often(Source(source="a", labels=10, conflicts=5))
    assert feedback.conflicts_too_often(Source(source="a", labels=100, conflicts=20))


def test_a_flood_is_counted_by_the_minute():
    source = Source(source="a")

    first = [feedback.floods(source, 0, 3) for _ in range(5)]
    then = feedback.floods(source, MINUTE_US, 3)

    assert first == [False, False, False, True, True]
    assert not then


def test_no_source_has_more_than_its_share_of_the_quality():
    labels = [counted("loud", correct=False)] * 900 + [counted("quiet")] * 100

    found = feedback.quality(labels, source_share=0.5)
    alone = feedback.quality(labels[:900], source_share=0.5)

    assert found.labels == 200
    assert found.accuracy == 0.5
    assert alone.accuracy == 0.0
    assert alone.labels == 900


def test_quality_comes_with_a_range_and_calibration():
    chance = random.Random(2)
    labels = [
        counted("a", correct=chance.random() < sure, confidence=sure)
        for sure in (0.6, 0.75, 0.9)
        for _ in range(400)
    ]

    found = feedback.quality(labels, source_share=1.0)

    assert found.accuracy == pytest.approx(0.75, abs=0.03)
    assert found.accuracy_low is not None
    assert found.accuracy_high is not None
    assert found.accuracy_low < 0.75 < found.accuracy_high
    assert found.calibration_error is not None
    assert found.calibration_error < 0.05
    assert found.delay_s == 60.0


def test_confidence_that_means_nothing_shows_in_the_calibration():
    labels = [counted("a", correct=place % 2 == 0, confidence=0.95) for place in range(400)]

    found = feedback.quality(labels, source_share=1.0)

    assert found.calibration_error == pytest.approx(0.45)


def test_nothing_is_said_of_no_labels():
    found = feedback.quality([], source_share=0.5)

    assert (found.labels, found.accuracy, found.mean_error, found.delay_s) == (0, None, None, None)
    assert feedback.sequence_range(0, 0) == (0.0, 1.0)


def test_an_estimate_without_labels_is_corrected_by_those_there_are():
    labels = [counted("a", correct=place % 2 == 0, confidence=0.9) for place in range(100)]

    assert feedback.corrected_estimate(0.8, labels) == pytest.approx(0.4)
    assert feedback.corrected_estimate(None, labels) is None
    assert feedback.corrected_estimate(0.8, []) is None


@pytest.mark.parametrize(
    ("label", "output", "expected"),
    [
        ({"approve": True}, {"approve": True, "confidence": 0.7}, (True, None)),
        ({"approve": True}, {"approve": 1}, (False, None)),
        ({"kind": "a", "place": 3}, {"kind": "a", "place": 3}, (True, None)),
        ({"kind": "a", "place": 3}, {"kind": "a", "place": 4}, (False, None)),
        ({"price": 12.5}, {"price": 10.0}, (None, 2.5)),
        ({"price": 12}, {"price": 10.5}, (None, 1.5)),
        ({"price": 12.5}, {"price": None}, (False, None)),
        ({"kind": "a", "price": 2.0}, {"kind": "b", "price": 1.0}, (False, 1.0)),
    ],
)
def test_a_label_is_held_against_the_answer(label: dict, output: dict, expected: tuple):
    assert compare(label, output) == expected
