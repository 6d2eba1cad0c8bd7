"""Labels wait in a lane of their own, which has an end: a flood is refused, and a leaver's place is free again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from nightproof.audit.vault import Vault
from nightproof.base.errors import Refusal
from nightproof.base.labels import LabelOutcome
from nightproof.base.roles import Role
from nightproof.base.values import Caller
from nightproof.declare.describe import Description
from nightproof.settings.settings import FeedbackSettings
from nightproof.steer.feedback import FeedbackDesk
from nightproof.storage.feedback_store import FeedbackStore
from nightproof.testing import MemoryVaultStore


class GatedDesk(FeedbackDesk):
    """Takes nothing while the gate is shut."""

    gate: threading.Event

    def take(self, *given: Any, **named: Any) -> list[LabelOutcome]:
        """Wait for the gate."""
        assert self.gate.wait(30)
        return []


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[GatedDesk]:
    store = FeedbackStore(tmp_path / "feedback.db", most=10)
    vault = Vault(MemoryVaultStore(), bytes(32), now_us=1)
    made = GatedDesk(
        store,
        vault,
        FeedbackSettings(),
        open_reader=lambda: None,
        on_event=lambda *said: None,  # type: ignore[arg-type, return-value]
    )
    made.gate = threading.Event()
    yield made
    made.gate.set()
    made.close()


def offer(desk: FeedbackDesk) -> Any:
    """Offer no labels of nobody in particular."""
    return desk.offer(
        [], description=cast(Description, None), caller=Caller("key", Role.PREDICT), expected_error=None
    )


def fill(desk: FeedbackDesk) -> list[Any]:
    """Offer until the lane is full."""
    waiting: list[Any] = []
    with pytest.raises(Refusal) as refused:
        for _ in range(1_000):
            waiting.append(offer(desk))
    assert refused.value.failure == "overloaded"
    assert refused.value.retry_after_s >= 1
    return waiting


def test_a_flood_of_labels_is_refused_and_the_next_are_taken_when_it_is_through(desk: GatedDesk):
    waiting = fill(desk)

    desk.gate.set()

    assert [one.result(30) for one in waiting] == [[]] * len(waiting)
    assert offer(desk).result(30) == []


def test_who_leaves_before_his_turn_gives_his_place_back(desk: GatedDesk):
    waiting = fill(desk)

    assert waiting[-1].cancel()

    again = offer(desk)
    with pytest.raises(Refusal):
        offer(desk)
    desk.gate.set()
    assert again.result(30) == []
