"""The experiment `injection`: what the detectors of chat services find on sources they never saw, and how fast.

Every model is trained anew with the sources left out that it is asked about, by the procedure that made the shipped
weights; the rules are as shipped. Needs the public prompts beside the repository, or skips with a reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.injection import learn, rows, taught
from benchmarks.injection.found import HardFound, InjectionFindings, ModelFound, RulesFound, Timed
from benchmarks.injection.learn import Row
from nightproof.checks.inspecting import Inspector, Untrusted
from nightproof.checks.text import model
from nightproof.checks.text.calibration import calibrate
from nightproof.checks.text.normalise import views
from nightproof.checks.text.rules import built_in

RATES = (0.01, 0.05)


def run(*, is_quick: bool, say: Callable[[str], None], path: Path = rows.DEFAULT) -> InjectionFindings:
    """Run all of it; `is_quick` leaves every fold out but one."""
    findings = InjectionFindings()
    if not path.is_file():
        findings.not_run = "the public prompts (../shared/data/prompts/prompts.jsonl) are not there"
        return findings
    known = rows.read(path)
    say("injection: rules on every row")
    hits = _rule_hits(known)
    findings.rules = list(_by_rules(known, hits))
    for name in list(taught.FOLDS)[: 1 if is_quick else None]:
        say(f"injection: a model that never saw {name}")
        _ask(findings, name, taught.fold(known, name), hits)
    say("injection: a model that never saw a document")
    _ask_documents(findings, taught.documents(known), hits)
    say("injection: time")
    findings.times = list(_times(known, 200 if is_quick else 1_000))
    return findings


def _rule_hits(known: Sequence[Row]) -> dict[str, bool]:
    return {row.text: bool(built_in().hits(views(row.text).forms)) for row in known}


def _by_rules(known: Sequence[Row], hits: dict[str, bool]) -> Iterator[RulesFound]:
    for source, kind in sorted({(row.source, row.kind) for row in known}):
        some = [row for row in known if (row.source, row.kind) == (source, kind)]
        yield RulesFound(source=source, kind=kind, rows=len(some), hits=sum(hits[row.text] for row in some))


def _scores(asked: model.Model, some: Sequence[Row]) -> np.ndarray:
    return np.array([asked.score(views(row.text)).score for row in some])


def _area(harmless: np.ndarray, attacks: np.ndarray) -> float:
    ranks = np.searchsorted(np.sort(harmless), attacks, side="left") + np.searchsorted(
        np.sort(harmless), attacks, side="right"
    )
    return float(ranks.mean() / 2 / len(harmless))


def _ask(findings: InjectionFindings, name: str, split: taught.Split, hits: dict[str, bool]) -> None:
    scores = _scores(learn.fit("prompt", split.taught), split.asked)
    is_plain = np.array([row.kind == "benign" for row in split.asked])
    thresholds = {rate: calibrate(scores[is_plain].tolist(), rate) for rate in RATES}
    own = scores[is_plain]
    shuffled = np.random.default_rng(6).permutation(own)
    first, second = shuffled[: len(own) // 2], shuffled[len(own) // 2 :]
    findings.drifted[name] = float((second > calibrate(first.tolist(), 0.01)).mean())
    findings.models += _recalls(split, scores, own, thresholds, hits)
    for source in taught.HARD:
        of_source = np.array([row.source == source for row in split.asked])
        findings.hard.append(
            HardFound(
                fold=name,
                source=source,
                rows=int(of_source.sum()),
                flagged={rate: float((scores[of_source] > at).mean()) for rate, at in thresholds.items()},
            )
        )


def _ask_documents(findings: InjectionFindings, split: taught.Split, hits: dict[str, bool]) -> None:
    scores = _scores(learn.fit("document", split.taught), split.asked)
    own = scores[np.array([row.label == 0 for row in split.asked])]
    thresholds = {rate: calibrate(own.tolist(), rate) for rate in RATES}
    more = _rule_hits([row for row in split.asked if row.text not in hits])
    findings.models += _recalls(split, scores, own, thresholds, hits | more)


def _recalls(
    split: taught.Split,
    scores: np.ndarray,
    harmless: np.ndarray,
    thresholds: dict[float, float],
    hits: dict[str, bool],
) -> Iterator[ModelFound]:
    attacks = sorted({(row.source, row.kind) for row in split.asked if row.label == 1})
    for source, kind in attacks:
        which = [at for at, row in enumerate(split.asked) if (row.source, row.kind) == (source, kind)]
        some = scores[which]
        by_rules = np.array([hits[split.asked[at].text] for at in which])
        yield ModelFound(
            source=source,
            kind=kind,
            rows=len(which),
            area=_area(harmless, some),
            recall={rate: float((some > at).mean()) for rate, at in thresholds.items()},
            with_rules=float(((some > thresholds[0.01]) | by_rules).mean()),
        )


def _times(known: Sequence[Row], count: int) -> Iterator[Timed]:
    """Time the whole inspection of real texts, cut to a length: time on the processor, whoever else works here."""
    inspector = Inspector({})
    prompts = " ".join(row.text for row in known if row.source == "gpteacher-roleplay")
    documents = "\n".join(row.text for row in known if row.kind == "benign_document")
    for what, text, channel, chars in (
        ("prompt of 100 characters", prompts, "user", 100),
        ("prompt of 2 kB", prompts, "user", 2_000),
        ("document of 2 kB", documents, "document", 2_000),
    ):
        took = []
        for number in range(count):
            start = number * 997 % (len(text) - chars)
            one = [Untrusted(text[start : start + chars], channel, "/messages/0/content")]
            began = time.thread_time()
            inspector.inspect(one)
            took.append((time.thread_time() - began) * 1e6)
        yield Timed(what=what, p50_us=float(np.median(took)), p95_us=float(np.quantile(took, 0.95)))
