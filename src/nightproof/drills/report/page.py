"""The report as one page of HTML that stands alone: for a review board, on a screen and on paper.

What it comes to stands first, then the matrix by item of the checklist, what fell short, how soon things were seen,
told and well again, each drill with its timeline, what was not tested, and how to make it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

from nightproof.drills.observed import Result, Verdict, Word
from nightproof.drills.report import plots
from nightproof.drills.report.report import BAD, WORDS, Change, Report
from nightproof.drills.report.table import callers

_SIGNS: dict[Word, str] = {
    "held": "✓", "fell short": "✕", "not restored": "✕", "not applicable": "–", "could not run": "?",
}  # fmt: skip
_MEANINGS: dict[Word, str] = {
    "held": "what was promised was seen",
    "fell short": "something was seen that is less than what was promised",
    "not restored": "the service was not as before when we stopped waiting",
    "not applicable": "it says nothing about this service",
    "could not run": "it could not be tried here, so nothing is known",
}


def as_html(report: Report, changes: Sequence[Change] = ()) -> str:
    """Write the page."""
    style = resources.files("nightproof.drills.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(
        [
            _head(report),
            _changes(changes),
            _matrix(report),
            _short(report),
            _figures(report),
            *(_group(words, results) for _, words, results in report.groups()),
            _not_tested(report),
            _made(report),
        ]
    )
    title = escape(f"Readiness of {report.declared.service}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    counts, declared = report.counts(), report.declared
    tried = sum(bool(one.verdicts) for one in report.results)
    bad = counts["fell short"] + counts["not restored"]
    verdict = "Everything that was tried held." if not bad else f"{bad} of {tried} fell short."
    if not tried:
        verdict = "Nothing was tried."
    tiles = "".join(
        f'<li class="{_kind(word)}"><b>{counts[word]}</b> {word}</li>' for word in WORDS if counts[word]
    )
    promises = [
        f"answers within {declared.deadline_ms} ms",
        f"{100 * declared.availability:g} % available",
        f"p99 of {declared.latency_p99_ms:g} ms" if declared.latency_p99_ms else "",
        f"falls back to {', then '.join(one.replace('_', ' ') for one in declared.fallbacks)}"
        if declared.fallbacks
        else "has no fallback",
        f"{declared.golden_cases} golden cases",
        f"{declared.workers[0]} to {declared.workers[1]} workers and {declared.spares} spares",
    ]
    where, told = "in a stage of their own", f"The service promises: {'; '.join(filter(None, promises))}."
    if report.target is not None:
        where = "from outside, on a server that ran already"
        told = f"Callers wait {declared.deadline_ms} ms at most; all that was known of the server is its adapter."
    return (
        f'<header><p class="eyebrow">Readiness report · {report.began[:16].replace("T", " ")} UTC</p>'
        f"<h1>{escape(declared.service)}</h1>"
        f'<p class="verdict {"bad" if bad else "good"}">{verdict}</p><ul class="tiles">{tiles}</ul>'
        f'<p class="lede">{tried} things were broken on purpose, under load, {where}. Of each it was asked: '
        "was it <em>contained</em>, <em>recorded</em>, <em>alerted</em>, and did the service <em>recover</em>?</p>"
        f'<p class="promises">{escape(told)}</p></header>'
    )


def _changes(changes: Sequence[Change]) -> str:
    if not changes:
        return ""
    rows = "".join(
        f'<li class="{"bad" if one.is_worse else ""}"><code>{escape(one.name)}</code> {escape(one.what)}</li>'
        for one in changes
    )
    return f"<section><h2>Against the earlier report</h2><ul class='plain'>{rows}</ul></section>"


def _short(report: Report) -> str:
    found = [one for one in report.results if one.word in BAD]
    if not found:
        return ""
    return f"<section><h2>What fell short</h2>{''.join(_card(one) for one in found)}</section>"


def _card(result: Result) -> str:
    rows = "".join(
        f"<tr><th>{verdict.aspect}</th><td>{escape(verdict.seen)}"
        f'<p class="promised">promised: {escape(verdict.promised)}</p></td></tr>'
        for verdict in result.verdicts
        if verdict.word in BAD
    )
    return (
        f'<article class="card"><h3><a href="#{result.name}">{escape(result.name)}</a> '
        f"<span>{escape(result.breaks)}</span></h3>"
        f"<table>{rows}</table>{_runbook(result)}</article>"
    )


def _matrix(report: Report) -> str:
    rows = []
    for _, words, results in report.groups():
        cells = "".join(
            f'<a class="cell {_kind(one.word)}" href="#{one.name}" title="{escape(f"{one.name}: {one.word}")}">'
            f"{_SIGNS[one.word]}</a>"
            for one in results
        )
        held = sum(one.word == "held" for one in results)
        tried = sum(bool(one.verdicts) for one in results)
        told = f"{held} of {tried} held" if tried else "not tested"
        rows.append(
            f'<tr><th>{escape(words)}</th><td class="cells">{cells}</td><td class="sum">{told}</td></tr>'
        )
    legend = "".join(
        f'<li><span class="cell {_kind(word)}">{_SIGNS[word]}</span> {word}: {meaning}</li>'
        for word, meaning in _MEANINGS.items()
    )
    return (
        f'<section><h2>The checklist</h2><table class="matrix">{"".join(rows)}</table>'
        f'<ul class="legend">{legend}</ul></section>'
    )


def _figures(report: Report) -> str:
    strips = [
        plots.seconds(report.results, "contained", "seen from outside"),
        plots.seconds(report.results, "alerted", "somebody is told"),
        plots.seconds(report.results, "recovered", "as before"),
    ]
    drawn = "".join(filter(None, strips))
    if not drawn:
        return ""
    return (
        "<section><h2>How soon</h2><p>A dot a drill, in seconds: from the fault to its first sign, from the fault to "
        "the alert, "
        f"from its end to the steady state.</p>{drawn}</section>"
    )


def _group(words: str, results: Sequence[Result]) -> str:
    tried = [one for one in results if one.verdicts]
    if not tried:
        return ""
    return f'<section class="group"><h2>{escape(words)}</h2>{"".join(_drill(one) for one in tried)}</section>'


def _drill(result: Result) -> str:
    chips = "".join(_chip(verdict) for verdict in result.verdicts)
    plot = plots.timeline(result.timeline) if result.timeline is not None else ""
    rows = "".join(
        f"<tr><th>{one.aspect}</th><td>{escape(one.promised)}</td><td>{escape(one.seen)}</td></tr>"
        for one in result.verdicts
    )
    notes = "".join(f"<p>{escape(note)}</p>" for note in result.notes)
    marks = f'<p class="marks">{escape(" · ".join(result.frameworks))}</p>' if result.frameworks else ""
    return (
        f'<article class="drill" id="{result.name}"><div class="what"><h3><span class="cell {_kind(result.word)}">'
        f"{_SIGNS[result.word]}</span> {escape(result.name)}</h3><p>{escape(result.breaks)}</p>"
        f'<p class="callers">{escape(callers(result))}</p></div><div class="when">{plot}</div>'
        f'<div class="chips">{chips}</div>'
        "<details><summary>what was promised, what was seen</summary>"
        f"<table><tr><th></th><th>promised</th><th>seen</th></tr>{rows}"
        f"</table>{notes}{marks}{_runbook(result)}</details></article>"
    )


def _chip(verdict: Verdict) -> str:
    seconds = (
        ""
        if verdict.seconds is None or verdict.word == "not applicable"
        else f"<b>{verdict.seconds:.1f} s</b>"
    )
    return (
        f'<span class="chip {_kind(verdict.word)}" title="{escape(verdict.seen or verdict.promised)}">'
        f"{_SIGNS[verdict.word]} {verdict.aspect}{seconds}</span>"
    )


def _runbook(result: Result) -> str:
    if not result.runbook:
        return ""
    return f'<p class="runbook">Runbook: <code>nightproof runbook {escape(result.runbook)}</code></p>'


def _not_tested(report: Report) -> str:
    found = [one for one in report.results if not one.verdicts]
    if not found:
        return ""
    rows = "".join(
        f'<tr id="{one.name}"><th>{escape(one.name)}</th><td>{escape(one.breaks)}</td>'
        f"<td>{one.word}: {escape(one.why)}</td></tr>"
        for one in found
    )
    return f'<section><h2>What was not tested</h2><table class="listing">{rows}</table></section>'


def _made(report: Report) -> str:
    machine = report.machine
    if report.target is not None:
        return _made_of_target(report)
    settings = ", ".join(f"{name}={value}" for name, value in report.stage_settings.items())
    own = ", ".join(f"{name}={value}" for name, value in report.own_settings.items())
    left_out = ", ".join(report.own_left_out)
    quick = " --quick" if report.quick else ""
    return (
        '<section class="made"><h2>How to make it again</h2>'
        f"<p><code>nightproof drill {escape(report.folder)}{quick} --seed {report.seed}</code> with nightproof "
        f"{report.nightproof}, Python {machine.python}, on {escape(machine.system)}, {machine.cpus} cores, "
        f"{machine.memory_gb:.0f} GB; it took {report.took_s:.0f} s.</p><p>The service ran by its own command line, in "
        "a stage of its own on loopback, with the model wrapped so that it misbehaves on cue. Callers asked at a fixed "
        "rate whatever came back, and their time counts from the moment a call was due. Callers, faults and server "
        f"shared this machine, so seconds are upper bounds.</p><p>Set otherwise than a server does: {escape(settings)}"
        ". Where a stage changes more, its drill says so.</p>"
        + (f"<p>Taken over from the settings file: {escape(own)}.</p>" if own else "")
        + (f"<p>Not taken over from it: {escape(left_out)}.</p>" if left_out else "")
        + "</section>"
    )


def _made_of_target(report: Report) -> str:
    target, machine = report.target, report.machine
    if target is None:
        return ""
    paths = "; ".join(f"{name}: {path or 'none known'}" for name, path in target.health.items())
    return (
        '<section class="made"><h2>How to make it again</h2>'
        f"<p><code>{escape(target.command)}</code> with nightproof {report.nightproof}, Python {machine.python}, on "
        f"{escape(machine.system)}, {machine.cpus} cores; it took {report.took_s:.0f} s. The server calls itself "
        f"{escape(target.server or 'nothing')}. Health: {escape(paths)}.</p><p>Callers asked at a fixed rate whatever "
        "came back, and their time counts from the moment a call was due. Recorded is not judged: an audit log cannot "
        "be read from outside. Alerted asks whether the health paths tell the truth. Where callers and server share a "
        "machine, seconds are upper bounds.</p></section>"
    )


def _kind(word: Word) -> str:
    return word.replace(" ", "-")
