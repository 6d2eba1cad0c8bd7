"""Labels wait in a lane of their own, which has an end: a flood is refused, and a leaver's place is free again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nightproof.audit.vault import Vault
from nightproof.base.errors import Fault, Refusal
from nightproof.base.labels import GivenLabel, LabelOutcome
from nightproof.base.roles import Role
from nightproof.base.values import Caller
from nightproof.declare.describe import Description
from nightproof.settings.settings import FeedbackSettings
from nightproof.steer.feedback import FeedbackDesk
from nightproof.storage.feedback_store import FeedbackStore
from nightproof.storage.sqlite import StorageUnavailable
from nightproof.testing import MemoryVaultStore
from nightproof.watch.feedback import Source


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


class FullStore(FeedbackStore):
    """A store on a disk that may be full."""

    is_full = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Keep what is done in the block, or refuse it at its end."""
        with super().at_once():
            yield
            if self.is_full:
                raise StorageUnavailable("the disk is full")


class CountingDesk(FeedbackDesk):
    """Finds each label known already."""

    def _take_one(
        self, given: Any, description: Any, caller: Any, source: Source, *rest: Any
    ) -> LabelOutcome:
        source.duplicates += 1
        return LabelOutcome("duplicate")


def test_labels_that_cannot_be_kept_are_refused_by_name_and_count_nowhere(tmp_path: Path):
    store = FullStore(tmp_path / "feedback.db", most=10)
    vault = Vault(MemoryVaultStore(), bytes(32), now_us=1)
    desk = CountingDesk(
        store, vault, FeedbackSettings(), open_reader=cast(Any, None), on_event=lambda *said: None
    )
    description = cast(Description, SimpleNamespace(service="loans"))

    def take() -> list[LabelOutcome]:
        caller = Caller("key", Role.PREDICT)
        labels = [GivenLabel("id", 0, {"approve": True})]
        return desk.take(labels, description=description, caller=caller, expected_error=None)

    take()
    store.is_full = True
    with pytest.raises(Fault) as refused:
        take()
    store.is_full = False
    take()
    shown = desk.status("loans", "1.0", mean_confidence=None, is_drifting=False)
    desk.close()

    assert refused.value.failure == "audit_unavailable"
    assert [one.duplicates for one in shown.sources] == [2]
