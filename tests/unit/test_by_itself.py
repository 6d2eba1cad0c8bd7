"""What is done by itself, and what could not be: told once, and tried again after a while."""

from __future__ import annotations

import pytest

from nightproof.steer import by_itself
from nightproof.steer.by_itself import ByItself


def test_what_could_not_be_done_is_told_once_and_tried_again_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
):
    now = 100.0
    monkeypatch.setattr(by_itself, "monotonic_s", lambda: now)
    deeds = ByItself()
    assert deeds.may_try("loans")
    assert deeds.could_not("loans", "1.1: 1.0 does not load", by_golden=False)

    pauses = []
    for _ in range(6):
        began = now
        while not deeds.may_try("loans"):
            now += 1.0
        pauses.append(now - began)
        assert not deeds.could_not("loans", "1.1: 1.0 does not load", by_golden=False), "no news"
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert [one.failure for one in deeds.conditions()] == ["no_way_back"]

    deeds.switched("loans")
    assert deeds.may_try("loans")
    assert not list(deeds.conditions())
