"""Write `docs/readiness.md` from what was found. Pure, but for reading the kept results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightproof.drills.observed import Result, Verdict
from nightproof.drills.report.table import callers
from nightproof.drills.target.faults import DRILLS

_WORDS = {
    "held": "held",
    "fell short": "**fell short**",
    "not restored": "**not restored**",
    "not applicable": "–",
    "could not run": "could not run",
}
_ASPECTS = ("contained", "alerted", "recovered")
_NAMES = {"contained": "contained", "alerted": "health is honest", "recovered": "recovered"}

_HEAD = """# Readiness beside neighbours

The same faults on each system, from outside, one system after the other on the same machine, by
`nightproof drill --target` ([drills.md](drills.md#any-other-server)). Everybody serves the same model, the benchmark's
logistic regression on 30 numbers, which misbehaves on records that say so: it works 20 ms, hangs for ten minutes
(asleep, as one who waits for somebody: other threads go on), ends its process by SIGSEGV, or answers NaN.

`make readiness` (or `python -m benchmarks.readiness`) installs each neighbour into an environment of its own, runs all
of it and writes this page from what it saw, ours as well. Nothing here is edited by hand.

**What it does not say.** These servers differ in what they are for. Ray Serve schedules many models over many machines,
MLServer speaks one protocol for many frameworks, LitServe and BentoML make serving short to write, FastAPI is a web
framework that promises nothing about models. Much of what falls short here is in practice held by something in front
of them: a proxy that ends slow clients, an orchestrator that restarts by a probe. What is measured is the server
itself. Callers, faults and server share the machine, so seconds are upper bounds. The faults are those that we thought
of, and ours was built with them in mind.
"""

_RULES = """## What is expected, of everybody alike

- A caller is told something within the deadline of 2 s and half a second; nobody is left without an ending, and no
  connection is cut without an answer.
- An error is told by its status: 4xx for a caller's own mistake; 408, 429 or 5xx for the server's.
- *Ordinary callers*, 20 a second, get the model's own answer whatever others send. Where the model's process dies or
  one call hangs, at most a twentieth of them may be told no; where the model hangs everywhere, and under overload, all
  may, but in time.
- *Overload*: at least half of what it can do is still answered in time.
- *Health is honest*: readiness does not say yes for more than 10 s, liveness not for more than 30 s, while no caller is
  answered; neither says no for more than 10 s while every caller is.
- *Recovered*: the model's own answers in time, and ready, within 15 s of the fault's end.

Nightproof declares no fallback here, so it has no other way to answer than the others have. An audit log cannot be read
from outside, so *recorded* is not judged."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one system."""

    name: str
    title: str
    version: str
    configured: str
    not_run: str = ""
    measured: str
    starts: int
    load: float
    results: list[Result]

    def result(self, name: str) -> Result | None:
        """Return the result of a drill."""
        return next((one for one in self.results if one.name == name), None)


def read(path: Path) -> Column:
    """Read what was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Column)


def as_markdown(columns: Sequence[Column], *, about: dict[str, Any]) -> str:
    """Write the page."""
    parts = [
        _HEAD.rstrip(),
        "## What held",
        _summary(columns),
        "Seconds are those to recover, where it took any. – means that the system has no way to be asked this.",
        _RULES,
        "## What was run, and how",
        _configured(columns),
        f"Machine: {about['cores']} × {about['cpu']}, {about['memory_gib']} GiB, Linux {about['linux']}. *Load* is the"
        " mean of the machine's load average during the run, our own part included; other work ran on it as well.",
        "## Drill by drill",
        *(_drill(columns, name, breaks) for name, breaks in _drills(columns)),
    ]
    return "\n\n".join(parts) + "\n"


def _drills(columns: Sequence[Column]) -> list[tuple[str, str]]:
    known = {one.name for column in columns for one in column.results}
    return [(drill.name, drill.breaks) for drill in DRILLS if drill.name in known]


def _summary(columns: Sequence[Column]) -> str:
    rows = [["drill", *(column.title for column in columns)]]
    for name, _ in _drills(columns):
        rows.append([f"[{name}](#{name})", *(_word(column, name) for column in columns)])
    held = [sum(one.word == "held" for one in column.results) for column in columns]
    tried = [sum(bool(one.verdicts) for one in column.results) for column in columns]
    rows.append(["held, of those tried", *(f"{a} of {b}" for a, b in zip(held, tried, strict=True))])
    return _table(rows)


def _word(column: Column, name: str) -> str:
    found = column.result(name)
    if found is None:
        return "could not run"
    seconds = next((one.seconds for one in found.verdicts if one.aspect == "recovered"), None)
    return _WORDS[found.word] + (f", {seconds:.1f} s" if seconds and seconds >= 0.5 else "")


def _configured(columns: Sequence[Column]) -> str:
    rows = [["system", "version", "configured", "measured (UTC)", "load"]]
    for column in columns:
        told = column.configured
        if column.not_run:
            told += f". **Could not run** after what is shown: {_cell(column.not_run)}"
        rows.append([column.title, column.version, told, column.measured, f"{column.load:.1f}"])
    return _table(rows)


def _drill(columns: Sequence[Column], name: str, breaks: str) -> str:
    rows = [["system", *_NAMES.values(), "callers", "what was seen"]]
    for column in columns:
        found = column.result(name)
        if found is None or not found.verdicts:
            why = found.why if found is not None else column.not_run
            word = _WORDS[found.word] if found is not None else "could not run"
            rows.append([column.title, word, "", "", "", _cell(why)])
            continue
        verdicts = {one.aspect: one for one in found.verdicts}
        rows.append(
            [
                column.title,
                *(_verdict(verdicts[aspect]) for aspect in _ASPECTS),
                _cell(callers(found)),
                _cell("; ".join([*_short(found), *found.notes])),
            ]
        )
    return f"### {name}\n\n{breaks[0].upper()}{breaks[1:]}.\n\n{_table(rows)}"


def _verdict(verdict: Verdict) -> str:
    seconds = ""
    if verdict.aspect == "recovered" and verdict.seconds is not None:
        seconds = f", {verdict.seconds:.1f} s"
    return _WORDS[verdict.word] + seconds


def _short(result: Result) -> list[str]:
    return [one.seen for one in result.verdicts if one.word in ("fell short", "not restored")]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
