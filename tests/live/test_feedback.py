"""Labels through the front door: by request id, once, validated, judged, recorded, sealed, and about whom they are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.loans import CREDIT, light_credit
from tests.serving import Served, make_key, run_nightproof, serving

NOBODYS = "1a20b7f1725-7600db6a5c948393f349"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        CREDIT, tmp_path_factory.mktemp("feedback") / "state", "--set", "drift.watch=false", service="credit"
    ) as served:
        yield served


def label(served: Served, body: Any, key: str = "") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return served.client.post("/services/credit/feedback", json=body, headers=headers)


def ask(served: Served, count: int, chance: random.Random, key: str = "") -> list[tuple[str, int, bool]]:
    """Ask for predictions of different loans; return request, place and answer of those the release gave itself."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    records = [{**served.example, "credit-amount": chance.randrange(300, 9_000)} for _ in range(count)]
    told = served.client.post("/services/credit/predict", json=records, headers=headers).json()
    return [
        (told["id"], place, item["output"]["approve"])
        for place, item in enumerate(told["items"])
        if "output" in item and item["degraded"] is None
    ]


def quality(served: Served) -> dict[str, Any]:
    return dict(served.operate("GET", "/admin/feedback/credit").json())


def held(served: Served, key: str) -> dict[str, Any]:
    return next(one for one in quality(served)["sources"] if one["key"] == key)


def test_a_label_counts_once_and_may_not_be_taken_back(served: Served):
    told = served.predict(served.example).json()
    right = {"id": told["id"], "label": {"approve": told["output"]["approve"]}}
    wrong = {"id": told["id"], "label": {"approve": not told["output"]["approve"]}}

    first, again, other = label(served, right), label(served, right), label(served, wrong)

    assert first.json()["output"] == {"request": told["id"], "item": 0, "label": "counted"}
    assert again.json()["output"]["label"] == "duplicate"
    assert other.status_code == 422
    assert "differs from the label" in other.json()["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"id": NOBODYS, "label": {"approve": True}}, "/id"),
        ({"id": "no id", "label": {"approve": True}}, "/id"),
        ({"id": 7, "label": {"approve": True}}, "/id"),
        ({"id": NOBODYS, "item": -1, "label": {"approve": True}}, "/item"),
        ({"id": NOBODYS, "item": True, "label": {"approve": True}}, "/item"),
        ({"id": NOBODYS, "label": {"approve": "perhaps"}}, "/label/approve"),
        ({"id": NOBODYS, "label": {"confidence": 0.3}}, "/label/confidence"),
        ({"id": NOBODYS, "label": {"nothing": True}}, "/label"),
        ({"id": NOBODYS, "label": {}}, "/label"),
        ({"id": NOBODYS, "label": True}, "/label"),
        ({"id": NOBODYS, "label": {"approve": True}, "more": 1}, ""),
        ([], ""),
        ("label", ""),
    ],
)
def test_what_is_no_label_is_refused_with_its_place(served: Served, body: Any, pointer: str):
    answer = label(served, body)

    assert answer.status_code == 422
    assert answer.json()["failure"] == "invalid_input"
    assert answer.json()["errors"][0]["pointer"].startswith(pointer)


def test_a_label_of_another_keys_prediction_is_refused_and_an_operators_is_not(served: Served):
    stranger, operator = make_key(served.state), make_key(served.state, "operate")
    told = served.predict({**served.example, "age": 33}).json()
    body = {"id": told["id"], "label": {"approve": True}}

    assert label(served, body, stranger).status_code == 403
    assert label(served, body, operator).status_code == 200
    assert label(served, body, make_key(served.state, "audit")).status_code == 403
    assert (
        served.client.post("/services/credit/feedback", json=body, headers={"authorization": ""}).status_code
        == 401
    )


def test_a_list_has_a_result_for_each_label(served: Served):
    ((request, place, answer),) = ask(served, 1, random.Random(8))

    told = label(
        served,
        [
            {"id": request, "item": place, "label": {"approve": answer}},
            {"id": request, "item": 40, "label": {"approve": answer}},
        ],
    ).json()

    assert told["items"][0]["output"]["label"] == "counted"
    assert told["items"][1]["failure"] == "invalid_input"


def test_flipped_labels_are_set_aside_with_those_before_them_until_an_operator_decides(served: Served):
    """An honest source sets what is usual; then another gives the opposite of what is right."""
    chance = random.Random(3)
    honest, liar = make_key(served.state, name="honest"), make_key(served.state)
    liar_id = ""
    for _ in range(4):
        rows = ask(served, 40, chance, honest)
        label(
            served,
            [
                {"id": one, "item": place, "label": {"approve": said if chance.random() < 0.85 else not said}}
                for one, place, said in rows
            ],
            honest,
        )
    before = quality(served)["quality"]["accuracy"]
    for _ in range(3):
        rows = ask(served, 40, chance, liar)
        body = [{"id": one, "item": place, "label": {"approve": not said}} for one, place, said in rows]
        answer = label(served, body, liar)
        assert answer.status_code == 200
    told = quality(served)
    (source,) = [one for one in told["sources"] if one["state"] == "held"]
    liar_id = source["key"]
    metrics = served.metrics()
    shown = run_nightproof("feedback", "credit", "--state", str(served.state))
    rejected = run_nightproof("feedback", "credit", "--reject", liar_id, "--state", str(served.state))
    after = run_nightproof("feedback", "credit", "--state", str(served.state))

    assert source["held"] == 120
    assert source["counted"] == 0
    assert told["quality"]["accuracy"] == before
    assert told["quality"]["accuracy_low"] < before < told["quality"]["accuracy_high"]
    assert 'nightproof_events_total{event="feedback_poisoned",reason="",service="credit"} 1.0' in metrics
    assert shown.returncode == 1
    assert liar_id in shown.stdout
    assert rejected.stdout.startswith("120 labels")
    assert after.returncode == 0
    assert held(served, liar_id)["rejected"] == 120


def test_an_operator_can_count_what_was_held(served: Served):
    chance = random.Random(5)
    key = make_key(served.state)
    for _ in range(2):
        rows = ask(served, 40, chance, key)
        label(
            served,
            [{"id": one, "item": place, "label": {"approve": not said}} for one, place, said in rows],
            key,
        )
    (source,) = [one for one in quality(served)["sources"] if one["state"] == "held"]

    accepted = run_nightproof(
        "feedback", "credit", "--accept", source["key"], "--json", "--state", str(served.state)
    )

    assert json.loads(accepted.stdout)["labels"] == source["held"]
    assert held(served, source["key"])["counted"] == source["held"]
    assert held(served, source["key"])["state"] == "accepted"


def test_the_same_record_labelled_again_and_again_does_not_count_each_time(served: Served):
    key = make_key(served.state)
    became = []
    for _ in range(30):
        told = served.client.post(
            "/services/credit/predict", json=served.example, headers={"authorization": f"Bearer {key}"}
        ).json()
        body = {"id": told["id"], "label": {"approve": told["output"]["approve"]}}
        became.append(label(served, body, key).json()["output"]["label"])

    assert became == ["counted"] * 20 + ["held"] * 10


def test_each_call_of_the_route_has_one_record_and_is_no_prediction(served: Served):
    told = served.predict(served.example).json()
    answer = label(served, {"id": told["id"], "label": {"approve": True}})
    number = answer.headers["x-request-id"]
    shown = run_nightproof("audit", "show", number, "--json", "--state", str(served.state))
    books = run_nightproof("audit", "reconcile", "--state", str(served.state))
    labelled = label(served, {"id": number, "label": {"approve": True}})

    assert '"feedback"' in shown.stdout
    assert books.returncode == 0, books.stdout
    assert 'service="credit/feedback"' in served.metrics()
    assert labelled.status_code == 422, "a call of this route cannot be labelled itself"


def test_labels_are_sealed_and_go_with_the_person_they_are_about(tmp_path: Path):
    with serving("clinic", tmp_path / "state", "--set", "drift.watch=false") as served:
        told = served.predict(served.example).json()
        field = next(name for name, value in told["output"].items() if not isinstance(value, float))
        answer = served.client.post(
            f"/services/{served.service}/feedback",
            json={"id": told["id"], "label": {field: told["output"][field]}},
        )
        before = served.operate("GET", f"/admin/feedback/{served.service}").json()
        subject = str(served.example["patient"])
        erased = run_nightproof("audit", "erase", "--subject", subject, "--yes", "--state", str(served.state))
        after = served.operate("GET", f"/admin/feedback/{served.service}").json()
        again = served.client.post(
            f"/services/{served.service}/feedback",
            json={"id": told["id"], "label": {field: told["output"][field]}},
        )
        kept = b"".join(
            path.read_bytes() for path in served.state.iterdir() if path.name.startswith("feedback.db")
        )

    assert answer.status_code == 200, answer.text
    assert before["quality"]["labels"] == 1
    assert erased.returncode == 0, erased.stderr
    assert after["quality"]["labels"] == 0
    assert again.status_code == 422, "what was erased cannot be labelled"
    assert subject.encode() not in kept


def test_what_a_label_says_is_recorded_only_under_the_key_of_whom_it_is_about(tmp_path: Path):
    """Of one that is refused, or whose caller left, nobody knows that yet; no erasure would reach its content."""
    with serving("clinic", tmp_path / "state", "--set", "drift.watch=false") as served:
        told = served.predict(served.example).json()
        field = next(name for name, value in told["output"].items() if not isinstance(value, float))
        shown = []
        for number in (told["id"], NOBODYS):
            body = {"id": number, "label": {field: told["output"][field]}}
            answer = served.client.post(f"/services/{served.service}/feedback", json=body)
            done = run_nightproof(
                "audit", "show", answer.headers["x-request-id"], "--json", "--state", str(served.state)
            )
            shown.append(done.stdout)

    assert [f'"{NOBODYS}"' in one for one in shown] == [False, True]
    assert ['"label":' in one.replace('"label":"counted"', "") for one in shown] == [True, False]


def test_a_restart_keeps_labels_and_what_is_known_of_sources(tmp_path: Path):
    folder, flags = light_credit(tmp_path), ("--set", "drift.watch=false")
    with serving(folder, tmp_path / "state", *flags, service="credit") as served:
        told = served.predict(served.example).json()
        body = {"id": told["id"], "label": {"approve": told["output"]["approve"]}}
        label(served, body)
        key = served.key

    with serving(folder, tmp_path / "state", *flags, service="credit") as served:
        again = label(served, body, key).json()
        found = quality(served)

    assert again["output"]["label"] == "duplicate"
    assert found["quality"]["labels"] == 1
    assert found["sources"][0]["duplicates"] == 1
