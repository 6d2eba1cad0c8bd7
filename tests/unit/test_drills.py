"""Drills without a server: their catalogue, promises, inputs, the report and its comparison."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.declare.describe import Description, FallbackDescription
from nightproof.drills.drill import GROUPS, Drill
from nightproof.drills.inputs import Inputs
from nightproof.drills.load import Answer, classify
from nightproof.drills.lookout import read_metrics
from nightproof.drills.observed import Claim, Harm, Result, Sample, Timeline, Verdict
from nightproof.drills.promise import promised
from nightproof.drills.report.junit import as_junit
from nightproof.drills.report.page import as_html
from nightproof.drills.report.report import Report, as_json, compare, make_report, read_report
from nightproof.drills.soak import growth, result_of, soak, span_s
from nightproof.drills.suite import all_drills, choose, in_order, undrilled

SCHEMA = {
    "properties": {
        "age": {"type": "integer", "minimum": 18, "maximum": 120},
        "kind": {"type": "string", "enum": ["a", "b"]},
    },
    "required": ["age", "kind"],
}


def declared(**changed: Any) -> Description:
    """Return what a service declares."""
    told: dict[str, Any] = {
        "service": "loans", "input_schema": SCHEMA, "output_schema": {"properties": {"y": {"type": "number"}}},
        "deadline_ms": 300, "predict_timeout_ms": 150, "confidence_floor": None, "confidence_field": "",
        "fallbacks": [], "availability": 0.999, "latency_p99_ms": 250.0, "max_batch": 64, "max_wait_ms": 0.0,
        "max_items": 1_000, "workers_min": 1, "workers_max": 2, "spares": 2, "memory_mb": 2_048,
        "load_timeout_s": 120.0, "golden_cases": 1, "input_checks": [], "output_checks": [],
    }  # fmt: skip
    return Description(**{**told, **changed})


# -- the catalogue of drills --------------------------------------------------------------------


def test_every_failure_has_the_drill_that_the_catalogue_names():
    drills = {drill.name: drill for drill in all_drills()}

    named = {code: failure.drill for code, failure in CATALOGUE.items()}

    assert {code: name for code, name in named.items() if name not in drills} == {}
    assert undrilled() == []


@pytest.mark.parametrize("drill", all_drills(), ids=lambda drill: drill.name)
def test_a_drill_says_what_it_breaks_and_what_it_proves(drill: Any):
    assert drill.group in GROUPS
    assert drill.breaks
    assert set(drill.proves) <= set(CATALOGUE)
    if isinstance(drill, Drill):
        promise = drill.promise(declared())
        assert promise.answer_within_s >= 0.3
        assert promise.alert or promise.no_alert_why or drill.name == "worker_out_of_memory"
    else:
        assert drill.why


def test_names_of_drills_are_their_own():
    names = [drill.name for drill in all_drills()]

    assert len(set(names)) == len(names)


def test_a_drill_is_asked_for_by_its_name_its_group_or_its_failure():
    assert [drill.name for drill in choose(["worker_killed"])] == ["worker_killed"]
    assert {drill.group for drill in choose(["audit"])} == {"audit"}
    assert "poison_record" in {drill.name for drill in choose(["poison_input"])}


def test_drills_of_one_stage_are_run_together_and_those_that_spoil_it_last():
    ordered = [drill for drill in in_order(all_drills()) if isinstance(drill, Drill)]

    names = [drill.setting.name for drill in ordered]
    changes = sum(earlier != later for earlier, later in pairwise(names))
    assert changes == len(set(names)) - 1
    for name in set(names):
        spoils = [drill.spoils_stage for drill in ordered if drill.setting.name == name]
        assert spoils == sorted(spoils)


# -- promises -----------------------------------------------------------------------------------


def test_a_promise_follows_from_the_declaration_and_the_catalogue():
    bare = promised(declared(), "model_timeout")
    covered = promised(declared(fallbacks=[FallbackDescription("constant", b"{}")]), "model_timeout")
    before = promised(declared(fallbacks=[FallbackDescription("previous_release")]), "model_timeout")

    assert (bare.shelter, covered.shelter, before.shelter) == ("named", "covered", "named")
    assert bare.may_fail == ("model_timeout",)
    assert (bare.alertname, bare.severity, bare.recorded_as) == (
        "NightproofModelTimeout",
        "page",
        "model_timeout",
    )
    assert bare.answer_within_s == 0.8
    assert promised(declared(deadline_ms=2_000), "model_timeout").answer_within_s == 2.5
    assert promised(declared(), "caller_gone").alert == ""


# -- inputs -------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Know a service by one golden case."""
    (tmp_path / "golden.jsonl").write_text('{"input": {"age": 40, "kind": "a"}, "expect": {"y": 1}}\n')
    return Inputs(tmp_path, declared())


def test_a_marked_input_fits_the_schema_and_no_golden_case_has_it(inputs: Inputs):
    found = list(inputs.marked())

    assert found[0].field == "age"
    assert all(one.record["kind"] == "a" and 18 <= one.value <= 120 and one.value != 40 for one in found)


def test_broken_inputs_are_broken_in_the_way_that_they_say(inputs: Inputs):
    broken = inputs.broken()

    assert broken["out of range"]["age"] == 121
    assert broken["missing field"] == {"kind": "a"}
    assert broken["unknown category"]["kind"] == "no such category"
    assert broken["number as text"]["age"] == "40"


def test_drifted_inputs_stay_inside_the_schema(inputs: Inputs):
    ages = [record["age"] for record in inputs.drifted(20)]

    assert ages
    assert all(40 < age <= 120 for age in ages)


# -- what callers and watchers see --------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "ending", "failure"),
    [
        (200, b'{"output": {"y": 1}, "degraded": null}', "answered", ""),
        (
            200,
            b'{"output": {"y": 1}, "degraded": {"failure": "model_error", "by": "constant"}}',
            "degraded",
            "model_error",
        ),
        (422, b'{"failure": "invalid_input"}', "refused", "invalid_input"),
        (503, b'{"failure": "overloaded"}', "refused", "overloaded"),
        (502, b'{"failure": "model_error"}', "failed", "model_error"),
        (500, b"<html>", "failed", ""),
    ],
)
def test_an_answer_is_told_by_its_status_and_its_words(status: int, body: bytes, ending: str, failure: str):
    call = classify(Answer(status, {"x-request-id": "7"}, body), sent_s=0.0, took_s=0.1)

    assert (call.ending, call.failure, call.id) == (ending, failure, "7")


def test_an_answer_is_the_same_whatever_its_last_digits():
    first, second, other = (
        classify(Answer(200, {}, b'{"output": {"y": %b}}' % text), sent_s=0, took_s=0)
        for text in (b"0.1234567891", b"0.1234567899", b"0.2")
    )

    assert first.output == second.output != other.output


def test_metrics_are_read_with_their_labels():
    page = read_metrics(
        '# HELP x y\nnightproof_ready 1.0\nnightproof_workers{service="a",state="ready"} 2.0\n'
    )

    assert page["nightproof_ready"] == [({}, 1.0)]
    assert page["nightproof_workers"] == [({"service": "a", "state": "ready"}, 2.0)]


# -- the report ---------------------------------------------------------------------------------


def result(name: str = "worker_killed", word: Any = "held", seconds: float = 1.0) -> Result:
    """Return a drill's result."""
    verdicts = (
        Verdict(aspect="recovered", word=word, promised="soon", seen="<late> & later", seconds=seconds),
    )
    plot = Timeline(
        bucket_s=0.25, from_s=0.0, answered=[5, 5, 2, 5], degraded=[0, 0, 3, 0], harmed=[0, 0, 1, 0],
        slowest_ms=[1.0] * 4, fault_s=0.5, undone_s=0.7, alert_s=0.8, steady_s=0.9,
    )  # fmt: skip
    return Result(
        name=name, group="health", breaks="kill -9 <of> a worker", word=word,
        why="too late" if word != "held" else "",
        verdicts=verdicts, harm=Harm(calls=10, answered=9), runbook="model_crash", timeline=plot,
    )  # fmt: skip


def report(*results: Result) -> Report:
    """Return a report of these."""
    return make_report(
        Path("loans"),
        declared(),
        results,
        seed=7,
        began_us=1_700_000_000_000_000,
        quick=True,
        stage_settings={"a.b": "1"},
        own_settings={"limits.wait_share": "0.2"},
        own_left_out=["server.port"],
    )


NOT_RUN = Result(name="internal_error", group="monitoring", breaks="x", word="could not run", why="no way in")


def test_the_report_holds_where_nothing_fell_short_and_nothing_stayed_broken():
    assert report(result(), NOT_RUN).held
    assert not report(result(word="fell short")).held
    assert not report(result(word="not restored")).held


def test_the_json_of_a_report_can_be_read_again(tmp_path: Path):
    made = report(result(), NOT_RUN)
    (tmp_path / "report.json").write_bytes(as_json(made))

    assert read_report(tmp_path / "report.json") == made


def test_what_got_worse_is_told_and_what_got_better_is_not_called_worse():
    old = report(
        result("a"),
        result("b", "fell short"),
        result("c", seconds=1.0),
        result("d", seconds=1.0),
        result("gone"),
    )
    new = report(
        result("a", "fell short"),
        result("b"),
        result("c", seconds=9.0),
        result("d", seconds=1.2),
        result("new"),
    )

    changes = {one.name: (one.is_worse, one.what) for one in compare(old, new)}

    assert changes == {
        "a": (True, "held → fell short: too late"),
        "b": (False, "fell short → held"),
        "c": (True, "recovered after 1.0 s → 9.0 s"),
        "gone": (False, "was run then, and was not now"),
    }


def test_junit_has_a_failure_for_what_fell_short_and_a_skip_for_what_was_not_run():
    root = ElementTree.fromstring(
        as_junit(report(result("a"), result("b", "fell short"), result("c", "not restored"), NOT_RUN))
    )

    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "4",
        "1",
        "1",
        "1",
    )
    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {"a": ["system-out"], "b": ["failure"], "c": ["error"], "internal_error": ["skipped"]}


def test_the_page_stands_alone_and_shows_texts_as_they_are():
    page = as_html(report(result("a"), result("b", "fell short"), NOT_RUN))

    assert "1 of 2 fell short." in page
    assert "kill -9 &lt;of&gt; a worker" in page
    assert "<late>" not in page
    assert "<svg" in page
    assert "What was not tested" in page
    assert "http" not in page.replace("http-equiv", "")


# -- soak ---------------------------------------------------------------------------------------


def samples(mb_per_h: float, pid: int = 1) -> list[Sample]:
    """Return an hour of looks at a server whose memory grows so fast."""
    return [
        Sample(at_s=at, is_up=True, memory_bytes=int(90e6 + mb_per_h * 1e6 * at / 3_600), pid=pid)
        for at in range(0, 3_600, 10)
    ]


class Counting:
    """What a soak runs its drills on: it notes when each was."""

    def __init__(self) -> None:
        self.ran: list[tuple[float, bool]] = []
        self.results: list[Result] = []
        self.books: list[Claim] = []

    def applies(self, drill: Drill) -> bool:
        return True

    def run_one(self, drill: Drill, name: str) -> None:
        self.ran.append((monotonic_s(), drill.ends_server))

    def close(self) -> None:
        pass

    def samples(self) -> list[Sample]:
        return []

    def add(self, result: Result) -> None:
        self.results.append(result)


def test_a_soak_ends_no_server_in_its_later_half_so_that_memory_can_be_told():
    seen, began_s = Counting(), monotonic_s()
    ending = next(one for one in all_drills() if isinstance(one, Drill) and one.ends_server)
    staying = next(
        one for one in all_drills() if isinstance(one, Drill) and one.in_soak and not one.ends_server
    )

    soak(seen, [*[ending] * 20, staying], seconds=2.4, seed=1)  # type: ignore[arg-type]

    later = [ends for at_s, ends in seen.ran if at_s > began_s + 1.3]
    assert any(ends for _, ends in seen.ran)
    assert later
    assert not any(later)


def test_memory_s_slope_is_that_of_the_longest_life():
    grown = [*samples(50.0), Sample(at_s=4_000, is_up=True, memory_bytes=10, pid=2)]

    found = growth(grown)

    assert found is not None
    assert round(found.slope_mb_per_h, 1) == 50.0
    assert growth(grown[:20]) is None


def test_a_high_water_mark_early_in_a_life_is_no_slope_and_growth_that_goes_on_is():
    flat = samples(0.0)
    stepped = [
        msgspec.structs.replace(
            one, memory_bytes=one.memory_bytes + (30_000_000 if place > len(flat) // 3 else 0)
        )
        for place, one in enumerate(flat)
    ]

    found = growth(stepped)

    assert found is not None
    assert abs(found.slope_mb_per_h) < 1.0
    assert round(found.last_mb - found.first_mb) == 30


@pytest.mark.parametrize(
    ("slope", "holds", "word"), [(1.0, True, "held"), (200.0, True, "fell short"), (1.0, False, "fell short")]
)
def test_a_soak_is_lost_by_growing_memory_or_by_books_that_do_not_balance(
    slope: float, holds: bool, word: str
):
    books = Claim(aspect="recorded", what="the books", promised="balance", seen="", holds=holds)

    assert result_of([books], samples(slope), faults=9).word == word


def test_a_span_of_time_is_read():
    assert [span_s(text) for text in ("90s", "30min", "8h", "5m", "long", "xh")] == [
        90.0,
        1_800.0,
        28_800.0,
        300.0,
        None,
        None,
    ]


def test_results_carry_what_their_plot_needs():
    assert msgspec.json.decode(msgspec.json.encode(result()), type=Result) == result()
