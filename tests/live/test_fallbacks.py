"""The declared ways down: tried in order, held to the service's own checks, marked in every answer."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.books import books_balance, leaves_of, samples
from tests.serving import SERVICES, Served, make_live, serving, wait_until


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve three folders at once."""
    more = [str(SERVICES / name) for name in ("last_resort", "hollow")]
    with serving("ladder", tmp_path_factory.mktemp("fallbacks") / "state", *more) as served:
        yield served


def ask(served: Served, service: str, body: Any, **headers: str) -> httpx.Response:
    """Ask one of the services."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return served.client.post(f"/services/{service}/predict", json=body, headers=named)


def degraded(answer: httpx.Response, failure: str, by: str) -> dict[str, Any]:
    """Assert that an answer says it is degraded, in body and head; return its output."""
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["degraded"] == {"failure": failure, "by": by}
    assert answer.headers["nightproof-degraded"] == f"{failure}; by={by}"
    output: dict[str, Any] = told["output"]
    return output


def test_an_answer_of_the_model_is_not_marked(house: Served):
    answer = ask(house, "ladder", {"x": 1})

    assert answer.json()["output"]["by"] == "model"
    assert answer.json()["degraded"] is None
    assert "nightproof-degraded" not in answer.headers


@pytest.mark.parametrize(
    ("act", "failure"),
    [
        ("raise", "model_error"),
        ("unsure", "low_confidence"),
        ("unsafe", "unsafe_output"),
        ("infinite", "invalid_output"),
    ],
)
def test_whatever_went_wrong_with_the_model_the_rule_answers(house: Served, act: str, failure: str):
    answer = ask(house, "ladder", {"x": 10, "act": act})

    output = degraded(answer, failure, "rule")
    assert output == {"y": 5.0, "by": "rule", "confidence": 0.6}
    (leaf,) = leaves_of(house.state, answer.json()["id"])
    assert (leaf["ending"], leaf["failure"], leaf["degraded"]) == ("degraded", failure, [failure, "rule"])


def test_the_last_good_answer_comes_before_the_rule(house: Served):
    good = ask(house, "ladder", {"x": 20, "act": "raise_again"})
    bad = ask(house, "ladder", {"x": 20, "act": "raise_again"})

    assert good.json()["degraded"] is None
    assert degraded(bad, "model_error", "last_good") == good.json()["output"]


def test_the_last_good_answer_is_to_the_very_same_input(house: Served):
    ask(house, "ladder", {"x": 30})

    assert degraded(ask(house, "ladder", {"x": 30, "act": "raise"}), "model_error", "rule")["y"] == 15.0


@pytest.mark.parametrize("x", [99, 98, 97], ids=["raises", "is unsure", "is unsafe"])
def test_where_the_rule_fails_the_constant_answers(house: Served, x: float):
    """What the service's own checks withhold from the model, they withhold from a rule."""
    answer = ask(house, "ladder", {"x": x, "act": "raise"})

    assert degraded(answer, "model_error", "constant") == {"y": 0.0, "by": "constant", "confidence": 1.0}
    (leaf,) = leaves_of(house.state, answer.json()["id"])
    assert [decision.split()[0] for decision in leaf["decisions"]] == ["fallback:rule", "degraded:0"]


def test_a_constant_under_the_services_own_floor_does_not_get_out(house: Served):
    answer = ask(house, "hollow", {"x": 1})

    assert (answer.status_code, answer.json()["failure"]) == (502, "low_confidence")
    assert ask(house, "hollow", {"x": 4}).json()["output"]["y"] == 4.0


@pytest.mark.parametrize("act", ["hang", "exit"])
def test_a_constant_answers_in_time_when_no_worker_can(house: Served, act: str):
    began_s = time.monotonic()
    answer = ask(house, "last_resort", {"x": 1, "act": act})
    took_s = time.monotonic() - began_s

    failure = answer.json()["degraded"]["failure"]
    assert degraded(answer, failure, "constant") == {"y": -7.0, "confidence": 0.0}
    assert failure in {"hang": ["model_timeout"], "exit": ["model_crash", "model_unavailable"]}[act]
    assert took_s < 1.5
    wait_until(lambda: ask(house, "last_resort", {"x": 1}).json()["degraded"] is None)


def test_a_callers_deadline_is_kept_by_a_constant_too(house: Served):
    wait_until(lambda: ask(house, "last_resort", {"x": 1}).json()["degraded"] is None)

    answer = ask(house, "last_resort", {"x": 1, "act": "hang"}, x_request_timeout_ms="60")

    degraded(answer, "deadline_exceeded", "constant")


@pytest.mark.parametrize(
    ("body", "status", "failure"),
    [
        ({"x": "1"}, 422, "invalid_input"),
        ({"x": -1}, 422, "invalid_input"),
        ([{"x": -1}, {"x": "1"}], 422, "invalid_input"),
        ({}, 422, "invalid_input"),
        ("[", 422, "invalid_input"),
    ],
    ids=str,
)
def test_what_the_caller_did_wrong_is_never_papered_over(house: Served, body: Any, status: int, failure: str):
    answer = ask(house, "ladder", body)

    assert (answer.status_code, answer.json()["failure"]) == (status, failure)
    assert "nightproof-degraded" not in answer.headers


def test_each_record_of_a_list_goes_its_own_way(house: Served):
    answer = ask(house, "ladder", [
        {"x": 1}, {"x": 10, "act": "raise"}, {"x": 99, "act": "unsure"}, {"x": -1}, {"x": "1"},
    ])  # fmt: skip

    items = answer.json()["items"]
    assert [item.get("degraded") for item in items] == [
        None, {"failure": "model_error", "by": "rule"}, {"failure": "low_confidence", "by": "constant"}, None, None,
    ]  # fmt: skip
    assert [item.get("failure") for item in items] == [None, None, None, "invalid_input", "invalid_input"]
    assert answer.headers["nightproof-degraded"] == "model_error; by=rule"
    (leaf,) = leaves_of(house.state, answer.json()["id"])
    assert leaf["ending"] == "answered"


def test_a_degraded_answer_is_repeated_as_what_it_is(house: Served):
    body = {"x": 10, "act": "raise"}

    first = ask(house, "ladder", body, idempotency_key="degraded-once")
    again = ask(house, "ladder", body, idempotency_key="degraded-once")

    degraded(again, "model_error", "rule")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


def test_the_open_inference_protocol_says_it_too(house: Served):
    tensors = [
        {"name": "x", "shape": [1], "datatype": "FP64", "data": [10.0]},
        {"name": "act", "shape": [1], "datatype": "BYTES", "data": ["raise"]},
    ]

    answer = house.client.post("/v2/models/ladder/infer", json={"inputs": tensors})

    assert answer.status_code == 200, answer.text
    assert answer.headers["nightproof-degraded"] == "model_error; by=rule"
    assert answer.json()["parameters"]["degraded"] is True


def test_degraded_endings_are_counted_with_what_went_wrong_and_confidence_is_the_models_own(house: Served):
    ask(house, "ladder", {"x": 10, "act": "raise"})
    before = samples(house.metrics(), "nightproof_confidence_count")
    ask(house, "ladder", {"x": 10, "act": "raise"})

    counted = [dict(labels) for labels in samples(house.metrics(), "nightproof_requests_total")]
    assert any((one["ending"], one["failure"]) == ("degraded", "model_error") for one in counted)
    assert samples(house.metrics(), "nightproof_confidence_count") == before


def test_the_books_balance_over_all_of_it(house: Served):
    """The last test of this server: it stops."""
    ask(house, "ladder", {"x": 10, "act": "raise"})

    books = books_balance(house.state, house)

    assert {leaf["service"] for leaf in books.requests} >= {"ladder", "last_resort", "hollow"}


# -- the previous release -------------------------------------------------------------------------------

TWIN = """
    from pydantic import BaseModel
    from nightproof import Confidence, Model, Service, fallback

    class Asked(BaseModel):
        x: float

    class Answer(BaseModel):
        y: float
        version: int
        confidence: Confidence

    class Twin(Model[Asked, Answer]):
        def predict(self, batch: list[Asked]) -> list[Answer]:
            if {version} == 2 and any(asked.x > 0 for asked in batch):
                raise ValueError("the new one fails")
            return [Answer(y=asked.x, version={version}, confidence=0.6 if asked.x == 5 else 0.9) for asked in batch]

    service = Service(
        "twin", model=Twin, workers=(1, 1), spares=0, confidence_floor={floor},
        fallbacks=[fallback.previous_release()],
    )
"""


def write_twin(folder: Path, version: int, floor: float) -> None:
    """Write a release of the service."""
    folder.mkdir(exist_ok=True)
    (folder / "service.py").write_text(textwrap.dedent(TWIN.format(version=version, floor=floor)))
    (folder / "golden.jsonl").write_text(
        json.dumps({"input": {"x": -4}, "expect": {"version": version}}) + "\n"
    )


def test_the_previous_release_answers_where_the_new_one_fails(tmp_path: Path, state: Path):
    folder = tmp_path / "twin"
    write_twin(folder, version=1, floor=0.5)
    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        alone = served.predict({"x": 1})
        (old,) = served.status()["services"]
        assert old["standby"] == ""

    write_twin(folder, version=2, floor=0.8)
    make_live(folder, state)
    with serving(folder, state, "--set", "drain_wait_s=0") as served:
        wait_until(lambda: served.status()["services"][0]["standby"] != "")
        (new,) = served.status()["services"]
        good, saved = served.predict({"x": -1}), served.predict({"x": 1})
        not_good_enough_now = served.predict({"x": 5})

    assert alone.json()["output"]["version"] == 1
    assert new["release"] != old["release"] == new["standby"]
    assert good.json()["output"]["version"] == 2
    assert degraded(saved, "model_error", "previous_release") == {"y": 1.0, "version": 1, "confidence": 0.9}
    assert (not_good_enough_now.status_code, not_good_enough_now.json()["failure"]) == (502, "model_error")
