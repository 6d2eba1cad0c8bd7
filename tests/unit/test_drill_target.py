"""Drills of any server, without one: adapters, what answers mean, health held to the truth, promises and the report."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmarks.readiness import adapters as readiness

from nightproof.base.errors import SettingError
from nightproof.drills import judge
from nightproof.drills.load import Answer, read_answer
from nightproof.drills.observed import Call, Marks, Observations, Sample
from nightproof.drills.report.junit import as_junit
from nightproof.drills.report.page import as_html
from nightproof.drills.report.report import Report, Target, as_json, make_target_report, read_report
from nightproof.drills.results import judged
from nightproof.drills.target.adapter import (
    Adapter,
    AnswerForm,
    HealthForm,
    RequestForm,
    filled_in,
    lacks,
    read_adapter,
)
from nightproof.drills.target.builtin import body_for
from nightproof.drills.target.faults import DRILLS, bodies_that_do_not_fit
from nightproof.drills.target.health import HealthPaths
from nightproof.drills.target.place import TargetPlace, place_at
from nightproof.drills.target.run import choose, health_claims
from nightproof.drills.target.scene import promised_of
from tests.serving import run_nightproof

ADAPTER = """
name = "mine"
crash_command = "true"

[request]
path = "/predict"
headers = { authorization = "Bearer ${MY_KEY}" }
good = [ { x = 1.0 }, { x = 2.0 } ]

[answer]
has = ["/y"]

[health]
ready = ["/ready", "/health"]

[deadline]
ms = 500
header = "x-deadline-ms"

[records]
hang = [ { x = -1.0 } ]
"""


def written(folder: Path, text: str, name: str = "adapter.toml") -> Path:
    """Write an adapter."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def adapter(**changed: Any) -> Adapter:
    """Return an adapter of a server that answers `{"y": number}`."""
    told: dict[str, Any] = {"name": "mine", "request": RequestForm(path="/predict", good=[{"x": 1.0}])}
    return Adapter(**{**told, **changed})


# -- the form -------------------------------------------------------------------------------------


def test_an_adapter_says_the_same_in_toml_and_in_json(tmp_path: Path):
    from_toml = read_adapter(written(tmp_path, ADAPTER))
    told = {
        "name": "mine", "crash_command": "true", "answer": {"has": ["/y"]}, "health": {"ready": ["/ready", "/health"]},
        "request": {
            "path": "/predict", "headers": {"authorization": "Bearer ${MY_KEY}"}, "good": [{"x": 1.0}, {"x": 2.0}],
        },
        "deadline": {"ms": 500, "header": "x-deadline-ms"}, "records": {"hang": [{"x": -1.0}]},
    }  # fmt: skip

    from_json = read_adapter(written(tmp_path, json.dumps(told), "adapter.json"))

    assert from_toml == from_json
    assert from_toml.deadline_s == 0.5


@pytest.mark.parametrize(
    ("was", "becomes", "word"),
    [
        ('path = "/predict"', 'path = "predict"', "does not begin with /"),
        ('path = "/predict"', 'path = "/pre dict"', "has a space"),
        ("good = [ { x = 1.0 }, { x = 2.0 } ]", "", "no body"),
        ("ms = 500", "ms = 5", "500|50"),
        ("ms = 500", "msec = 500", "msec"),
        ('has = ["/y"]', 'has = ["y"]', "does not begin with /"),
        ("[records]", "[recordings]", "recordings"),
        ('"Bearer ${MY_KEY}"', '"a\\r\\nb: c"', "header"),
        ("[request]", "[request", "adapter.toml"),
    ],
)
def test_a_mistake_in_an_adapter_is_told(tmp_path: Path, was: str, becomes: str, word: str):
    assert was in ADAPTER

    with pytest.raises(SettingError, match=word):
        read_adapter(written(tmp_path, ADAPTER.replace(was, becomes)))


def test_a_key_comes_from_the_environment_and_one_that_is_missing_is_named():
    assert filled_in({"a": "Bearer ${KEY}!"}, {"KEY": "s3"}) == {"a": "Bearer s3!"}
    with pytest.raises(SettingError, match="KEY"):
        filled_in({"a": "${KEY}"}, {})


def test_the_adapters_of_the_readiness_table_are_those_that_are_generated():
    for form in readiness.FORMS:
        file = readiness.ADAPTERS / f"{form.name}.toml"
        assert file.read_text(encoding="utf-8") == readiness.text_of(form)
        read = read_adapter(file)
        assert read.records.hang
        assert read.records.crash
        assert read.deadline.ms == readiness.DEADLINE_MS


def test_a_request_of_the_open_inference_protocol_is_made_from_the_metadata():
    body = body_for(
        {"inputs": [
            {"name": "x", "datatype": "FP64", "shape": [-1, 3]}, {"name": "kind", "datatype": "BYTES", "shape": [1]},
        ]}
    )  # fmt: skip

    assert body["inputs"][0] == {"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1.0] * 3}
    assert body["inputs"][1]["data"] == ["drill"]
    with pytest.raises(SettingError, match="no inputs"):
        body_for({"name": "m"})


# -- where and how --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80", "ftp://a", "http://", "http://u:p@a", "http://a:x", "http://a?b"]
)
def test_what_is_no_target_is_refused(url: str):
    with pytest.raises(SettingError):
        place_at(url, adapter())


def test_another_machine_is_left_alone_until_it_is_allowed():
    done = run_nightproof("drill", "--target", "http://192.0.2.1:80", "--adapter", "openai")

    assert done.returncode == 2
    assert "--allow-remote" in done.stderr


def test_a_request_holds_the_path_below_the_url_and_its_own_length():
    request = place_at("http://localhost:81/models", adapter()).request(b'{"x":1}', [("x-a", "b")])

    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /models/predict HTTP/1.1\r\nhost: localhost:81\r\n")
    assert b"x-a: b" in head
    assert head.endswith(b"content-length: 7")
    assert body == b'{"x":1}'


@pytest.fixture
def place() -> TargetPlace:
    """A server whose good answers hold a finite `/y`."""
    return place_at("http://127.0.0.1:1", adapter(answer=AnswerForm(has=["/y"])))


@pytest.mark.parametrize(
    ("status", "body", "ending", "failure"),
    [
        (200, b'{"y": 1.5}', "answered", ""),
        (200, b'{"y": NaN}', "failed", "a bad answer: no JSON"),
        (200, b'{"y": null}', "failed", "a bad answer: no /y"),
        (200, b'{"z": 1}', "failed", "a bad answer: no /y"),
        (200, b"<html>", "failed", "a bad answer: no JSON"),
        (422, b"{}", "refused", "status 422"),
        (429, b"", "refused", "status 429"),
        (503, b"", "refused", "status 503"),
        (500, b"", "failed", "status 500"),
        (302, b"", "refused", "status 302"),
    ],
)
def test_an_answer_is_good_by_its_status_and_by_what_is_in_it(
    place: TargetPlace, status: int, body: bytes, ending: str, failure: str
):
    call = place.read(Answer(status, {}, body), sent_s=0.0, took_s=0.1)

    assert (call.ending, call.failure) == (ending, failure)


def test_what_an_answer_says_is_compared_without_its_ids(place: TargetPlace):
    first, second, other = (
        place.read(Answer(200, {}, body), sent_s=0, took_s=0).output
        for body in (b'{"y": 1, "id": "a"}', b'{"y": 1, "id": "b"}', b'{"y": 2}')
    )

    assert first == second != other


def test_a_list_with_a_hole_is_no_answer():
    assert lacks({"data": [1.0, None]}, ["/data"]) == "/data is not finite"
    assert lacks({"data": [{"a/b": 0}]}, ["/data/0/a~1b"]) == ""
    assert lacks([], ["/0"]) == "no /0"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\nt: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcd",
    ],
)
def test_a_body_is_read_however_its_end_is_told(raw: bytes):
    async def read() -> Answer:
        reader = asyncio.StreamReader()
        reader.feed_data(raw)
        reader.feed_eof()
        return await read_answer(reader)

    assert asyncio.run(read()).body == b"abcd"


def test_inputs_that_do_not_fit_differ_from_the_good_one_and_leave_it_as_it_is():
    good = {"inputs": [{"name": "x", "shape": [1, 2], "data": [1.0, 2.0]}]}

    cases = dict(bodies_that_do_not_fit(good))

    assert good == {"inputs": [{"name": "x", "shape": [1, 2], "data": [1.0, 2.0]}]}
    assert all(case != good for case in cases.values())
    assert cases["null at /inputs/0/data/0"]["inputs"][0]["data"] == [None, 2.0]
    assert cases["nothing at /inputs/0/data/0"]["inputs"][0]["data"] == [2.0]


# -- the judge ------------------------------------------------------------------------------------


def calls(ending: Any, *, from_s: float, to_s: float, took_s: float = 0.1) -> list[Call]:
    """Return 20 calls a second that ended so."""
    count = int((to_s - from_s) * 20)
    failure = "" if ending == "answered" else "status 503"
    return [Call(sent_s=from_s + n / 20, took_s=took_s, ending=ending, failure=failure) for n in range(count)]


def looks(*, is_ready: bool, from_s: float, to_s: float, is_live: bool = True) -> list[Sample]:
    """Return four looks a second that saw this."""
    count = int((to_s - from_s) * 4)
    return [Sample(at_s=from_s + n / 4, is_up=True, is_ready=is_ready, is_live=is_live) for n in range(count)]


HEALTH = adapter(health=HealthForm(ready_honest_within_s=3.0, live_honest_within_s=6.0))
PATHS = HealthPaths(live="/live", ready="/ready")


def broken_claims(told: list[Call], seen: list[Sample]) -> list[str]:
    """Return what the health paths lied about."""
    return [one.what for one in health_claims(HEALTH, PATHS, told, seen, from_s=0.0) if not one.holds]


def test_health_that_says_yes_while_nobody_is_answered_lies():
    dead = calls("refused", from_s=0, to_s=10)

    assert broken_claims(dead, looks(is_ready=True, from_s=0, to_s=10)) == [
        "readiness (/ready) says yes while nobody is answered",
        "liveness (/live) says yes while nobody is answered",
    ]
    assert broken_claims(dead, looks(is_ready=True, from_s=0, to_s=5)) == [
        "readiness (/ready) says yes while nobody is answered"
    ]


def test_answers_that_come_too_late_are_none():
    late = calls("answered", from_s=0, to_s=5, took_s=4.0)

    assert broken_claims(late, looks(is_ready=True, from_s=0, to_s=5)) == [
        "readiness (/ready) says yes while nobody is answered"
    ]


def test_health_that_says_no_after_a_while_is_honest():
    dead = calls("hung", from_s=0, to_s=10, took_s=7.0)
    seen = looks(is_ready=True, from_s=0, to_s=2) + looks(is_ready=False, is_live=False, from_s=2, to_s=10)

    assert broken_claims(dead, seen) == []


def test_health_that_says_no_while_everybody_is_answered_is_a_false_alarm():
    well = calls("answered", from_s=0, to_s=15)

    assert broken_claims(well, looks(is_ready=False, from_s=0, to_s=15)) == [
        "readiness (/ready) says no while everybody is answered"
    ]


def test_one_answer_among_many_is_not_dead_and_few_calls_tell_nothing():
    mixed = sorted(
        [*calls("refused", from_s=0, to_s=10), *(Call(sent_s=n / 2, took_s=0.1) for n in range(20))],
        key=lambda call: call.sent_s,
    )

    assert broken_claims(mixed, looks(is_ready=True, from_s=0, to_s=10)) == []
    assert broken_claims([], looks(is_ready=True, from_s=0, to_s=10)) == []


def seen(*during: Call, claims: Any = (), steady_s: float | None = 4.0) -> Observations:
    """Return what a drill saw whose fault was from 2 s to 3 s."""
    return Observations(
        marks=Marks(fault_s=2.0, undone_s=3.0, steady_s=steady_s, ended_s=6.0),
        calls=[*calls("answered", from_s=0, to_s=2), *during],
        claims=claims,
    )


def words(promise: Any, observed: Observations) -> dict[str, str]:
    """Return the verdicts."""
    return {one.aspect: one.word for one in judge.judge(promise, observed)}


def test_each_verdict_on_a_target_can_be_lost():
    promise = promised_of(adapter(health=HealthForm(ready=["/ready"])), harmed_at_most=0.05)
    well = calls("answered", from_s=2, to_s=4)
    lies = health_claims(
        HEALTH, PATHS, calls("refused", from_s=0, to_s=5), looks(is_ready=True, from_s=0, to_s=5), from_s=0.0
    )

    assert words(promise, seen(*well)) == {
        "contained": "held", "recorded": "not applicable", "alerted": "not applicable", "recovered": "held",
    }  # fmt: skip
    assert (
        words(promise, seen(*well, Call(sent_s=2.5, took_s=7.0, ending="hung")))["contained"] == "fell short"
    )
    assert (
        words(promise, seen(*well, Call(sent_s=2.5, took_s=0.1, ending="lost")))["contained"] == "fell short"
    )
    assert words(promise, seen(*well, Call(sent_s=2.5, took_s=2.9)))["contained"] == "fell short"
    assert words(promise, seen(*calls("refused", from_s=2, to_s=4)))["contained"] == "fell short"
    assert words(promise, seen(*well, claims=lies))["alerted"] == "fell short"
    assert words(promise, seen(*well, steady_s=None))["recovered"] == "not restored"


def test_a_bad_answer_with_a_good_status_is_never_what_was_promised():
    promise = promised_of(adapter(), shelter="named")
    bad = Call(sent_s=2.5, took_s=0.1, status=200, ending="failed", failure="a bad answer: no /y")

    assert words(promise, seen(bad))["contained"] == "fell short"


# -- drills and report ----------------------------------------------------------------------------


def test_a_drill_that_lacks_a_record_says_so():
    bare = adapter()

    lacking = {drill.name: why for drill in DRILLS if (why := drill.needs(bare))}

    assert lacking.keys() == {
        "nonsense_answer", "crash_command", "crash_record", "deadline_asked", "hung_call", "model_hung",
    }  # fmt: skip
    assert lacking["hung_call"] == "the adapter has no records.hang"


def test_drills_of_a_target_are_asked_for_by_name_group_or_failure():
    assert [drill.name for drill in choose(["overload"])] == ["overload"]
    assert {drill.name for drill in choose(["model_timeout"])} == {"hung_call", "model_hung"}
    with pytest.raises(SettingError):
        choose(["worker_killed"])


def report() -> Report:
    """Return a report of a target."""
    promise = promised_of(adapter())
    results = [
        judged(DRILLS[0], promise, seen(*calls("answered", from_s=2, to_s=4)), took_s=6.0),
        judged(DRILLS[1], promise, seen(Call(sent_s=2.5, took_s=7.0, ending="hung")), took_s=6.0),
    ]
    target = Target(
        url="http://127.0.0.1:1", adapter="mine", server="uvicorn <1>", health={"live": "", "ready": "/ready"},
        command="nightproof drill --target http://127.0.0.1:1",
    )  # fmt: skip
    return make_target_report(target, results, deadline_ms=2_000, seed=1, began_us=1_700_000_000_000_000)


def test_the_report_of_a_target_is_read_again_and_names_what_was_drilled(tmp_path: Path):
    made = report()
    (tmp_path / "report.json").write_bytes(as_json(made))

    assert read_report(tmp_path / "report.json") == made
    assert not made.held
    page = as_html(made)
    assert "nightproof drill --target http://127.0.0.1:1" in page
    assert "uvicorn &lt;1&gt;" in page
    assert "nightproof runbook" not in page
    assert ElementTree.fromstring(as_junit(made)).attrib["failures"] == "1"
