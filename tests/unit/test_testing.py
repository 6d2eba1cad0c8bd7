"""The helper for users' own tests answers a service folder as the server would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nightproof.base.errors import DeclarationError
from nightproof.testing import answer
from tests.serving import SERVICES


@pytest.fixture(autouse=True)
def _imports_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "service", raising=False)


def test_records_are_answered_refused_and_withheld_as_by_the_server():
    told = answer(
        SERVICES / "faulty",
        [
            {"x": 1.5},
            {"x": "one"},
            {"x": -1},
            {"x": 1, "act": "nan"},
            {"x": 1, "act": "raise"},
            {"x": 1, "act": "unsafe"},
            {"x": 1, "act": "unsure"},
        ],
    )

    assert [(one.ending, one.failure) for one in told] == [
        ("answered", ""),
        ("refused", "invalid_input"),
        ("refused", "invalid_input"),
        ("failed", "invalid_output"),
        ("failed", "model_error"),
        ("failed", "unsafe_output"),
        ("failed", "low_confidence"),
    ]
    assert told[0].output["y"] == 3.0
    assert told[1].errors[0].pointer == "/x"


def test_fallbacks_answer_and_say_so(tmp_path: Path):
    (tmp_path / "service.py").write_text(
        "from pydantic import BaseModel\n"
        "from nightproof import Model, Service, fallback\n"
        "class Given(BaseModel):\n    x: float\n"
        "class Answer(BaseModel):\n    y: float\n"
        "class Broken(Model[Given, Answer]):\n"
        "    def predict(self, batch: list[Given]) -> list[Answer]:\n"
        "        raise OSError\n"
        "service = Service('soft', model=Broken, fallbacks=[fallback.rule(lambda given: Answer(y=-given.x))])\n"
    )

    (told,) = answer(tmp_path, [{"x": 2.0}])

    assert (told.ending, told.output) == ("degraded", {"y": -2.0})
    assert (told.failure, told.by) == ("model_error", "rule")


def test_what_cannot_be_served_raises_what_check_would_report(tmp_path: Path):
    with pytest.raises(DeclarationError, match=r"no service\.py"):
        answer(tmp_path, [])
