"""The page of the readiness table: every system's words stand in it, ours like the others'."""

from __future__ import annotations

from typing import Any

from benchmarks.readiness import page
from benchmarks.readiness.places import SYSTEMS

from nightproof.drills.observed import Harm, Result, Verdict

MACHINE = {"cores": 2, "cpu": "c", "memory_gib": 8, "linux": "6"}


def result(name: str, word: Any, seen: str = "") -> Result:
    """Return a drill's result with its verdicts."""
    verdicts = tuple(
        Verdict(aspect=aspect, word=word if aspect == "contained" else "held", seen=seen, seconds=2.5)
        for aspect in ("contained", "recorded", "alerted", "recovered")
    )
    return Result(
        name=name, group="load", breaks="b", word=word, verdicts=verdicts, harm=Harm(calls=9, hung=4)
    )


def column(title: str, *results: Result, not_run: str = "") -> page.Column:
    """Return what was found of a system."""
    return page.Column(
        name=title, title=title, version="1.2", configured="as it comes", not_run=not_run, measured="now", starts=1,
        load=1.0, results=list(results),
    )  # fmt: skip


def rows(text: str, title: str) -> list[str]:
    """Return the rows of one system."""
    return [line for line in text.splitlines() if line.startswith(f"| {title} |")]


def test_what_fell_short_is_told_with_what_was_seen_and_what_held_is_counted():
    ours = column("Ours", result("overload", "fell short", "a | b\nwas late"), result("hung_call", "held"))
    theirs = column("Theirs", result("overload", "held"), result("hung_call", "held"))

    text = page.as_markdown([ours, theirs], about=MACHINE)

    assert "| [overload](#overload) | **fell short**, 2.5 s | held, 2.5 s |" in text
    assert "| held, of those tried | 1 of 2 | 2 of 2 |" in text
    overload = rows(text, "Ours")[1]
    assert "a \\| b was late" in overload
    assert "4 hung of 9" in overload


def test_what_could_not_run_stands_in_its_place_with_the_reason():
    text = page.as_markdown(
        [column("Ours", result("overload", "held")), column("Gone", not_run="no wheel")], about=MACHINE
    )

    assert "| [overload](#overload) | held, 2.5 s | could not run |" in text
    assert all("no wheel" in row for row in rows(text, "Gone"))


def test_every_system_of_the_table_says_how_it_was_configured():
    assert {system.title for system in SYSTEMS} >= {
        "Nightproof", "FastAPI", "BentoML", "LitServe", "MLServer", "Ray Serve",
    }  # fmt: skip
    assert all(system.configured and system.package for system in SYSTEMS)
