"""The report as a value: results, and what is needed to make them again. Its JSON is stable; `form` counts changes."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec
import orjson

from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import NightproofError
from nightproof.declare.describe import Description
from nightproof.drills.drill import GROUPS
from nightproof.drills.observed import Result, Word

FORM = 1
WORDS: tuple[Word, ...] = ("held", "fell short", "not restored", "not applicable", "could not run")
BAD: frozenset[Word] = frozenset({"fell short", "not restored"})


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What the service promises by itself."""

    service: str
    deadline_ms: int
    predict_timeout_ms: int
    availability: float
    latency_p99_ms: float | None
    confidence_floor: float | None
    fallbacks: list[str]
    golden_cases: int
    workers: list[int]
    spares: int
    input_checks: int
    output_checks: int


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was run."""

    system: str
    cpus: int
    memory_gb: float
    python: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server that is not of a stage: what was asked, and how."""

    url: str
    adapter: str
    server: str = ""
    """What it says of itself in its answers' headers."""
    health: dict[str, str] = {}
    """Its health paths, as they were found."""
    command: str = ""
    """The command line that makes the report again."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of drills."""

    form: int = FORM
    nightproof: str
    folder: str
    seed: int
    began: str
    took_s: float
    quick: bool
    declared: Declared
    machine: Machine
    stage_settings: dict[str, str]
    """What a stage sets otherwise than a server does."""
    own_settings: dict[str, str] = {}
    """What it took over of the user's settings file."""
    own_left_out: list[str] = []
    """What it did not."""
    results: list[Result]
    target: Target | None = None
    """Set where a server was drilled from outside, without a stage."""

    @property
    def held(self) -> bool:
        """Say whether all that applied held."""
        return not any(one.word in BAD for one in self.results)

    def counts(self) -> dict[Word, int]:
        """Count the drills by their word."""
        found = Counter(one.word for one in self.results)
        return {word: found[word] for word in WORDS}

    def groups(self) -> list[tuple[str, str, list[Result]]]:
        """Return the results by item of the checklist: its key, its words, its drills."""
        return [
            (key, words, found)
            for key, words in GROUPS.items()
            if (found := [one for one in self.results if one.group == key])
        ]


def make_report(
    folder: Path,
    declared: Description,
    results: Sequence[Result],
    *,
    seed: int,
    began_us: int,
    quick: bool,
    stage_settings: dict[str, str],
    own_settings: dict[str, str],
    own_left_out: list[str],
) -> Report:
    """Gather the report."""
    return Report(
        nightproof=metadata.version("nightproof"),
        folder=folder.name,
        seed=seed,
        began=iso_us(began_us),
        took_s=round((utc_us() - began_us) / 1e6, 1),
        quick=quick,
        declared=Declared(
            service=declared.service,
            deadline_ms=declared.deadline_ms,
            predict_timeout_ms=declared.predict_timeout_ms,
            availability=declared.availability,
            latency_p99_ms=declared.latency_p99_ms,
            confidence_floor=declared.confidence_floor,
            fallbacks=[way.kind for way in declared.fallbacks],
            golden_cases=declared.golden_cases,
            workers=[declared.workers_min, declared.workers_max],
            spares=declared.spares,
            input_checks=len(declared.input_checks),
            output_checks=len(declared.output_checks),
        ),
        machine=this_machine(),
        stage_settings=stage_settings,
        own_settings=own_settings,
        own_left_out=own_left_out,
        results=list(results),
    )


def make_target_report(
    target: Target, results: Sequence[Result], *, deadline_ms: int, seed: int, began_us: int
) -> Report:
    """Gather the report of a server that was drilled from outside."""
    return Report(
        nightproof=metadata.version("nightproof"),
        folder="",
        seed=seed,
        began=iso_us(began_us),
        took_s=round((utc_us() - began_us) / 1e6, 1),
        quick=False,
        declared=Declared(
            service=f"{target.url} ({target.adapter})", deadline_ms=deadline_ms, predict_timeout_ms=0, availability=0.0,
            latency_p99_ms=None, confidence_floor=None, fallbacks=[], golden_cases=0, workers=[0, 0], spares=0,
            input_checks=0, output_checks=0,
        ),
        machine=this_machine(),
        stage_settings={},
        results=list(results),
        target=target,
    )  # fmt: skip


def this_machine() -> Machine:
    """Describe where this runs."""
    return Machine(
        system=platform.platform(),
        cpus=os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        python=platform.python_version(),
    )


def as_json(report: Report) -> bytes:
    """Write the report as JSON; what it comes to stands first."""
    told = {"held": report.held, "counts": report.counts(), **msgspec.to_builtins(report)}
    return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)


def read_report(path: Path) -> Report:
    """Read a report that was written before. Raises NightproofError."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise NightproofError(
            f"{path} is no report of `nightproof drill --json`: {error}.",
            hint="Write one: nightproof drill FOLDER --json > old.json",
        ) from error
    if report.form != FORM:
        raise NightproofError(
            f"{path} has another form ({report.form}).", hint="Make it again with this version."
        )
    return report


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one drill since an earlier report."""

    name: str
    what: str
    is_worse: bool


_SLOWER = 1.5
_SLOWER_BY_S = 2.0
_GOOD: dict[Word, int] = {
    "held": 0,
    "not applicable": 1,
    "could not run": 2,
    "fell short": 3,
    "not restored": 4,
}


def compare(old: Report, new: Report) -> list[Change]:
    """Say what differs from an earlier report: words, and seconds that grew by half and by two at least. Pure."""
    before = {one.name: one for one in old.results}
    changes = []
    for one in new.results:
        was = before.get(one.name)
        if was is None:
            continue
        if was.word != one.word:
            is_worse = _GOOD[one.word] > _GOOD[was.word]
            why = f": {one.why}" if is_worse and one.why else ""
            changes.append(Change(name=one.name, what=f"{was.word} → {one.word}{why}", is_worse=is_worse))
            continue
        seconds = {verdict.aspect: verdict.seconds for verdict in was.verdicts}
        for verdict in one.verdicts:
            then = seconds.get(verdict.aspect)
            now = verdict.seconds
            if then is not None and now is not None and now > max(then * _SLOWER, then + _SLOWER_BY_S):
                changes.append(
                    Change(
                        name=one.name,
                        what=f"{verdict.aspect} after {then:.1f} s → {now:.1f} s",
                        is_worse=True,
                    )
                )
    gone = sorted(before.keys() - {one.name for one in new.results})
    changes += [Change(name=name, what="was run then, and was not now", is_worse=False) for name in gone]
    return changes
