"""Conduct drills: steady state, fault under load, observation, undoing, steady state again; then the auditor's turn.

Drills that leave their stage as it was share one. Whether an alert ends is looked at while the next drills run, and at
the latest before the stage is closed: waiting for it would make up most of the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nightproof.base.alerting import CAUSES
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError
from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.books import read_books
from nightproof.drills.chat_inputs import ChatInputs
from nightproof.drills.drill import CannotRun, Drill, NotApplicable, NotRun
from nightproof.drills.inputs import Inputs
from nightproof.drills.kinds import why_not
from nightproof.drills.load import Crowd
from nightproof.drills.observed import Call, Claim, Marks, Observations, Records, Result, Sample, Told
from nightproof.drills.promise import Promise
from nightproof.drills.results import judged, not_run, place_of
from nightproof.drills.scene import Scene
from nightproof.drills.stage import Ran, Stage, StageFailed, pause
from nightproof.drills.upstreams import USUAL_TEXT

Say = Callable[[str, str], None]
"""Told of what happens: a kind (stage, drill, breaking, waiting, done), and words."""

_STEADY_BEFORE_S = 30.0
_STEADY_WINDOW_S = 1.5
_LOOK_AGAIN_S = 0.1
_SHOW_RECORDS_WITHIN_S = 4.0
_PATIENCE_S = 5.0
_QUIET_WITHIN_S = 75.0
_CALM_RATE_PER_S = 20.0
_CHAT_PACE = 0.5
"""A chat costs a server more than a record: so much less often is asked."""
_MOST_OPEN = 24
"""Drills whose alerts may still be on their way to an end: what they saw is kept until then."""


@dataclass
class Open:
    """A drill that is over but for its alert's end."""

    drill: Drill
    promise: Promise
    scene: Scene
    marks: Marks
    records: Records
    calls: list[Call]
    ended_s: float
    """On the monotonic clock, like all of the scene's."""
    results_at: int
    """Its place in the report."""
    name: str = ""


class Suite:
    """Runs drills on a service folder, and keeps their results in order."""

    def __init__(
        self,
        folder: Path,
        declared: Description,
        *,
        seed: int,
        say: Say,
        own_settings: Mapping[str, str] = {},
        keep: bool = False,
        closes_books: bool = False,
        on_result: Callable[[Result], None],
    ) -> None:
        """Make a suite; `closes_books` keeps to one stage as long as it can, and closes its books at its end.

        `own_settings` are the user's, for every stage.
        """
        self.results: list[Result] = []
        self._folder = folder
        self._declared = declared
        self._inputs = ChatInputs(folder, declared) if declared.chat is not None else Inputs(folder, declared)
        self._seed = seed
        self._say = say
        self._keep = keep
        self._own_settings = own_settings
        self._on_result = on_result
        self.books: list[Claim] = []
        """The books of each stage that was closed, where they are wanted."""
        self._closes_books = closes_books
        self._past_samples: list[Sample] = []
        self._stage: Stage | None = None
        self._open: list[Open] = []
        self._pace = _CHAT_PACE if declared.chat is not None else 1.0

    def run(self, drills: Sequence[Drill | NotRun]) -> list[Result]:
        """Run them all, those of one setting after the other; close the stage whatever happens."""
        try:
            for drill in drills:
                self.run_one(drill)
        finally:
            self.close()
        return self.results

    def close(self) -> None:
        """Wait for the alerts that are still to end, and close the stage."""
        try:
            self._settle()
            if self._stage is not None and self._closes_books:
                self._past_samples += self._stage.lookout.samples if self._stage.lookout else []
                self.books.append(_closed_books(self._stage))
        finally:
            if self._stage is not None:
                self._stage.close()
                self._stage = None

    # -- one drill ----------------------------------------------------------------------------

    def applies(self, drill: Drill) -> bool:
        """Say whether a drill says something about this service."""
        return not self._why_not(drill)

    def _why_not(self, drill: Drill) -> str:
        return why_not(drill, self._declared) or drill.applies(self._declared, self._inputs)

    def run_one(self, drill: Drill | NotRun, *, name: str = "") -> None:
        """Run one drill; `name` is what its result is called where it is run more than once."""
        if isinstance(drill, NotRun):
            self.add(not_run(drill, drill.word, drill.why))
            return
        if why := self._why_not(drill):
            self.add(not_run(drill, "not applicable", why))
            return
        began_s = monotonic_s()
        self._say("drill", drill.name)
        try:
            stage = self._stage_for(drill)
            if not self._is_quiet(drill, stage):
                if self._closes_books:
                    return  # it would need another stage: something else will do
                self.close()
                stage = self._stage_for(drill)
            opened = self._conduct(drill, stage)
        except NotApplicable as reason:
            self.add(not_run(drill, "not applicable", str(reason), took_s=monotonic_s() - began_s))
        except CannotRun as reason:
            self.add(not_run(drill, "could not run", str(reason), took_s=monotonic_s() - began_s))
        except StageFailed as error:
            self._drop_stage()
            self.add(not_run(drill, "could not run", f"{error.text} {error.hint}".strip()))
        except Exception as error:  # noqa: BLE001 - a border: one drill's mistake must not cost the others' results
            self.add(not_run(drill, "could not run", place_of(error), took_s=monotonic_s() - began_s))
            self.close()
        else:
            opened.ended_s, opened.name = monotonic_s(), name or drill.name
            if len(self._open) >= _MOST_OPEN:
                self._settle()
            self._open.append(opened)
            self.add(self._judged(opened, took_s=monotonic_s() - began_s))
            is_spoilt = not (opened.records.balances and opened.records.is_verified)
            if drill.spoils_stage or is_spoilt or self.results[-1].word == "not restored":
                self.close()

    def _conduct(self, drill: Drill, stage: Stage) -> Open:
        promise = drill.promise(self._declared)
        bodies = [json.dumps(record).encode() for record in self._inputs.good()]
        if not bodies:
            raise CannotRun("the service has no golden cases, so nobody knows what to ask it")
        first_seq = read_books(stage.state, 0).next_seq
        patience_s = self._declared.deadline_ms / 1_000 + _PATIENCE_S
        crowd = Crowd(
            stage.place,
            bodies,
            rate_per_s=drill.rate_per_s,
            patience_s=patience_s,
            seed=self._seed,
            pace=self._pace,
        )
        scene = Scene(
            stage, crowd, declared=self._declared, inputs=self._inputs, promise=promise, seed=self._seed
        )
        crowd.start()
        try:
            if self._wait_for_steady(scene, from_s=scene.began_s, within_s=_STEADY_BEFORE_S) is None:
                raise CannotRun("the service was not in a steady state before anything was broken")
            if promise.alerts & {failure for failure, _, _ in stage.receiver.firing()}:
                raise CannotRun(f"{promise.alertname} fires already, before anything was broken")
            self._say("breaking", drill.breaks)
            drill.act(scene)
            if scene.fault_s is None or scene.undone_s is None:
                raise CannotRun("the drill broke nothing")
            self._say("waiting", "until it is as before")
            within_s = 2 * promise.recover_within_s + 5.0
            steady_s = self._wait_for_steady(scene, from_s=scene.undone_s, within_s=within_s)
            pause(judge.LOOK_AT_LEAST_S - scene.since_fault_s)
            if promise.alert and not scene.has_alerted():
                self._say("waiting", f"for {promise.alertname}")
                left_s = promise.alert_within_s + 1.0 - scene.since_fault_s
                scene.until(scene.has_alerted, within_s=max(0.0, left_s))
        finally:
            scene.undo_all()
            crowd.stop()
        ended_s = monotonic_s()
        calls = sorted([*crowd.calls, *scene.others], key=lambda call: call.sent_s)
        self._say("waiting", "for the auditor")
        records = self._audit(stage, promise, [*calls, *scene.own], first_seq)
        begin_s = scene.began_s
        marks = Marks(
            fault_s=scene.fault_s - begin_s,
            undone_s=scene.undone_s - begin_s,
            steady_s=None if steady_s is None else steady_s - begin_s,
            ended_s=ended_s - begin_s,
        )
        return Open(drill, promise, scene, marks, records, calls, ended_s, len(self.results))

    def _wait_for_steady(self, scene: Scene, *, from_s: float, within_s: float) -> float | None:
        """Wait until the service is as it should be; return since when, on the monotonic clock."""
        stage = scene.stage
        if stage.lookout is None:
            return None
        until_s = monotonic_s() + within_s
        while monotonic_s() < until_s:
            now_s = monotonic_s()
            since_s = max(from_s, now_s - _STEADY_WINDOW_S)
            if judge.is_steady(
                list(scene.crowd.calls),
                list(stage.lookout.samples),
                since_s=since_s,
                workers=self._workers_of(stage),
                within_s=self._declared.deadline_ms / 1_000,
            ):
                return since_s
            pause(_LOOK_AGAIN_S)
        return None

    def _workers_of(self, stage: Stage) -> int:
        """Return how many workers there are on a good day, the warm spares among them."""
        workers = stage.setting.declares.get("workers", [self._declared.workers_min])
        return int(workers[0]) + int(stage.setting.declares.get("spares", self._declared.spares))

    def _audit(self, stage: Stage, promise: Promise, calls: Sequence[Call], first_seq: int) -> Records:
        """Ask the log as an auditor does: is every acknowledged call in it, does it verify, do its books balance?"""
        ids = sorted({call.id for call in calls if call.id and call.ending in ("answered", "degraded")})
        file = stage.root / "acknowledged.txt"
        file.write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
        until_s = monotonic_s() + _SHOW_RECORDS_WITHIN_S
        while True:
            books = read_books(stage.state, first_seq)
            failures = books.failures
            names = promise.recorded_names
            if not names or any(failures[name] for name in names) or monotonic_s() > until_s:
                break
            pause(_LOOK_AGAIN_S)
        return audit(stage, file, {name: count for name, count in failures.items() if name})

    # -- alerts that are to end ---------------------------------------------------------------

    def _is_quiet(self, drill: Drill, stage: Stage) -> bool:
        """Wait until nothing fires that would hide this drill's alert: its own from before, or a cause of it.

        What stands for longer than we wait, as some do on purpose, asks for a stage where it does not.
        """
        alerts = drill.promise(self._declared).alerts
        hiding = {*alerts, *(cause for alert in alerts for cause in CAUSES.get(alert, ()))}

        def is_quiet() -> bool:
            return not hiding & {failure for failure, _, _ in stage.receiver.firing()}

        if is_quiet():
            return True
        standing = {
            one for opened in self._open if not opened.promise.ends_within_s for one in opened.promise.alerts
        }
        if hiding & standing:
            return False
        self._say("waiting", "until what fires from before is over")
        with self._callers(stage):
            return stage.wait_until(is_quiet, within_s=_QUIET_WITHIN_S)

    def _settle(self) -> None:
        """See how the alerts of the drills on this stage ended, and judge again with that."""
        stage, waiting = self._stage, self._open
        self._open = []
        if stage is None or not waiting:
            return
        with self._callers(stage):
            for opened in waiting:
                if opened.promise.ends_within_s and opened.scene.has_alerted():
                    self._await_end(opened, stage)
        for opened in waiting:
            took_s = self.results[opened.results_at].took_s
            self.results[opened.results_at] = self._judged(opened, took_s=took_s, is_last=True)

    def _await_end(self, opened: Open, stage: Stage) -> None:
        alerts = opened.promise.alerts

        def is_over() -> bool:
            return not alerts & {one for one, _, _ in stage.receiver.firing()}

        if not is_over():
            self._say("waiting", f"for the end of {opened.promise.alertname}")
            # The clock runs from the end of the drill; without callers a share of requests could not get better.
            until_s = max(opened.ended_s, monotonic_s()) + opened.promise.ends_within_s
            stage.wait_until(is_over, within_s=max(0.0, until_s - monotonic_s()))

    @contextmanager
    def _callers(self, stage: Stage) -> Iterator[None]:
        """Let ordinary callers ask meanwhile: no data is not taken for good news."""
        bodies = [json.dumps(record).encode() for record in self._inputs.good()]
        crowd = Crowd(
            stage.place,
            bodies,
            rate_per_s=_CALM_RATE_PER_S,
            patience_s=_PATIENCE_S,
            seed=self._seed,
            pace=self._pace,
        )
        crowd.start()
        try:
            yield
        finally:
            crowd.stop()

    def _judged(self, opened: Open, *, took_s: float, is_last: bool = False) -> Result:
        seen = self._observations(opened, is_last=is_last)
        return judged(opened.drill, opened.promise, seen, name=opened.name, took_s=took_s)

    def _observations(self, opened: Open, *, is_last: bool) -> Observations:
        scene, begin_s = opened.scene, opened.scene.began_s
        receiver, lookout = scene.stage.receiver, scene.stage.lookout
        end_s = opened.ended_s
        told = [
            msgspec.structs.replace(one, at_s=one.at_s - begin_s)
            for one in list(receiver.told)
            if begin_s <= one.at_s
            and (one.at_s <= end_s or (one.failure in opened.promise.alerts and is_last))
        ]
        return Observations(
            marks=opened.marks,
            calls=[msgspec.structs.replace(one, sent_s=one.sent_s - begin_s) for one in opened.calls],
            told=told,
            samples=[
                msgspec.structs.replace(one, at_s=one.at_s - begin_s)
                for one in list(lookout.samples if lookout else ())
                if begin_s <= one.at_s <= end_s
            ],
            claims=tuple(scene.claims),
            records=opened.records,
            not_restored="; ".join(scene.trouble),
            still_firing=_still_firing(opened.promise, told) if is_last else (),
            notes=tuple(scene.notes),
        )

    # -- stages and results -------------------------------------------------------------------

    def _stage_for(self, drill: Drill) -> Stage:
        if self._stage is not None and self._stage.setting != drill.setting:
            self.close()
        if self._stage is None:
            self._say("stage", drill.setting.name)
            says = self._inputs.good_answer() if isinstance(self._inputs, ChatInputs) else ""
            self._stage = Stage(
                self._folder,
                drill.setting,
                chat=self._declared.chat,
                says=says or USUAL_TEXT,
                own_settings=self._own_settings,
                seed=self._seed,
                keep=self._keep,
            )
            self._stage.open(self._declared.service)
        return self._stage

    def _drop_stage(self) -> None:
        self._open.clear()
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def samples(self) -> list[Sample]:
        """Return what was seen of the servers from outside, in all stages whose books were closed."""
        return list(self._past_samples)

    def add(self, result: Result) -> None:
        self.results.append(result)
        self._on_result(result)


def _closed_books(stage: Stage) -> Claim:
    """Stop a stage's server in order and close its books: every run that said goodbye must balance."""
    if stage.server is None:
        return Claim(
            aspect="recorded", what="the books", promised="balance", seen="there are none", holds=False
        )
    code = stage.server.pause()
    ran = stage.run("audit", "reconcile", "--json")
    books = ran.json or {}
    runs = books.get("runs", [])
    recorded = sum(one["requests"] + one["shared"] for one in runs)
    why = "; ".join(books.get("why", ())) or ("balanced" if books.get("ok") else ran.err.strip()[-200:])
    told = f"exit {code}; {recorded} requests in {len(runs)} runs: {why}"
    holds = code == 0 and bool(books.get("ok"))
    return Claim(
        aspect="recorded", what="the books", promised="balance after the stop", seen=told, holds=holds
    )


def audit(stage: Stage, acknowledged: Path, failures: dict[str, int]) -> Records:
    """Have `audit verify` and `audit reconcile` say what they find, of a server that runs or of one that does not."""
    verified = stage.run("audit", "verify", "--json")
    balanced = stage.run("audit", "reconcile", "--acknowledged", str(acknowledged), "--json")
    verdict, books = verified.json or {}, balanced.json or {}
    return Records(
        acknowledged=int(books.get("acknowledged", 0)),
        missing=int(books.get("missing", 0)),
        is_verified=bool(verdict.get("ok")),
        verified=_why_not_verified(verified),
        balances=bool(books.get("ok")),
        balance="; ".join(books.get("why", ())) or balanced.err.strip()[-300:],
        failures=failures,
    )


def _why_not_verified(ran: Ran) -> str:
    verdict = ran.json or {}
    first = verdict.get("first_bad") or {}
    return str(first.get("text") or ran.err.strip()[-300:])


def _still_firing(promise: Promise, told: Sequence[Told]) -> tuple[str, ...]:
    if not promise.ends_within_s:
        return ()
    last: dict[tuple[str, str, str], str] = {}
    for one in told:
        if one.failure in promise.alerts:
            last[one.alertname, one.service, one.severity] = one.state
    return tuple(sorted({name for (name, _, _), state in last.items() if state == "firing"}))


def describe_folder(folder: Path, root: Path) -> Description:
    """Have `nightproof check` describe a service folder; raise NightproofError where it cannot be served."""
    import os
    import subprocess
    import sys

    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTPROOF_")}
    done = subprocess.run(
        [sys.executable, "-m", "nightproof", "check", str(folder), "--json"],
        capture_output=True, text=True, timeout=300, env=env, cwd=root, check=False,
    )  # fmt: skip
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise NightproofError(f"{folder} cannot be checked: {done.stderr.strip()[-500:]}") from None
    if not told["ok"]:
        first = told["errors"][0]
        raise NightproofError(first["what"], hint=first["do"])
    return msgspec.convert(told["description"], Description)
