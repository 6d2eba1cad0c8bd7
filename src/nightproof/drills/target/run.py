"""Conduct drills of a target: steady state, fault under load, undoing, steady state again. Nothing is started here.

A target that is not as before after a drill is started again by the user's command where he gave one; otherwise the
drills that follow could not run, and say so.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Callable, Sequence

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import SettingError
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun
from nightproof.drills.load import Crowd
from nightproof.drills.observed import Call, Claim, Marks, Observations, Result, Sample
from nightproof.drills.results import judged, not_run, place_of
from nightproof.drills.run import Say
from nightproof.drills.stage import pause
from nightproof.drills.target.adapter import Adapter
from nightproof.drills.target.faults import DRILLS
from nightproof.drills.target.health import (
    HealthLookout,
    HealthPaths,
    find_paths,
    longest_false_alarm_s,
    longest_lie_s,
)
from nightproof.drills.target.place import TargetPlace
from nightproof.drills.target.scene import TargetDrill, TargetScene, as_bytes

_STEADY_BEFORE_S = 20.0
_STEADY_WINDOW_S = 1.5
_LOOK_AGAIN_S = 0.1
_PATIENCE_S = 3.0
_RESTART_WITHIN_S = 120.0
_FALSE_ALARM_AT_MOST_S = 10.0


class TargetSuite:
    """Runs drills on a server that runs already, and keeps their results in order."""

    def __init__(
        self,
        place: TargetPlace,
        *,
        seed: int,
        say: Say,
        on_result: Callable[[Result], None],
        restart: Callable[[], None] | None = None,
    ) -> None:
        self.results: list[Result] = []
        self.paths = HealthPaths()
        self._place = place
        self._seed = seed
        self._say = say
        self._on_result = on_result
        self._restart = restart

    def run(self, drills: Sequence[TargetDrill]) -> list[Result]:
        """Run them all."""
        allow_many_connections()
        self.paths = find_paths(self._place)
        for drill in drills:
            self.run_one(drill)
        return self.results

    def run_one(self, drill: TargetDrill) -> None:
        """Run one drill; start the target again where it is not as before."""
        began_s = monotonic_s()
        if why := drill.needs(self._place.adapter):
            self._add(not_run(drill, "not applicable", why))
            return
        self._say("drill", drill.name)
        try:
            result = self._conduct(drill)
        except CannotRun as reason:
            result = not_run(drill, "could not run", str(reason), took_s=monotonic_s() - began_s)
        except Exception as error:  # noqa: BLE001 - a border: one drill's mistake must not cost the others' results
            result = not_run(drill, "could not run", place_of(error), took_s=monotonic_s() - began_s)
        self._add(result)
        if self._restart is not None and result.word in ("not restored", "could not run"):
            self._say("waiting", "until it is started again")
            self._restart()

    def _conduct(self, drill: TargetDrill) -> Result:
        place, adapter = self._place, self._place.adapter
        began_s = monotonic_s()
        promise = drill.promise(adapter)
        crowd = Crowd(
            place,
            [as_bytes(body) for body in adapter.request.good],
            rate_per_s=drill.rate_per_s,
            patience_s=adapter.deadline_s + _PATIENCE_S,
            seed=self._seed,
        )
        scene = TargetScene(place, crowd, promise=promise, seed=self._seed)
        lookout = HealthLookout(place, self.paths)
        lookout.start()
        crowd.start()
        try:
            if self._wait_for_steady(scene, lookout, from_s=scene.began_s, within_s=_STEADY_BEFORE_S) is None:
                raise CannotRun(
                    f"the target was not in a steady state before anything was broken: {_last_told(crowd.calls)}"
                )
            self._say("breaking", drill.breaks)
            drill.act(scene)
            if scene.fault_s is None or scene.undone_s is None:
                raise CannotRun("the drill broke nothing")
            self._say("waiting", "until it is as before")
            within_s = 2 * promise.recover_within_s + 5.0
            steady_s = self._wait_for_steady(scene, lookout, from_s=scene.undone_s, within_s=within_s)
            pause(judge.LOOK_AT_LEAST_S - scene.since_fault_s)
        finally:
            scene.undo_all()
            ended_s = monotonic_s()
            crowd.stop()
            lookout.stop()
        return judged(
            drill, promise, self._seen(scene, lookout, steady_s, ended_s), took_s=monotonic_s() - began_s
        )

    def _seen(
        self, scene: TargetScene, lookout: HealthLookout, steady_s: float | None, ended_s: float
    ) -> Observations:
        begin_s = scene.began_s
        fault_s = scene.fault_s if scene.fault_s is not None else begin_s
        undone_s = scene.undone_s if scene.undone_s is not None else begin_s
        calls = sorted([*scene.crowd.calls, *scene.others], key=lambda call: call.sent_s)
        samples = list(lookout.samples)
        claims = health_claims(self._place.adapter, self.paths, calls, samples, from_s=fault_s)
        return Observations(
            marks=Marks(
                fault_s=fault_s - begin_s,
                undone_s=undone_s - begin_s,
                steady_s=None if steady_s is None else steady_s - begin_s,
                ended_s=ended_s - begin_s,
            ),
            calls=[msgspec.structs.replace(one, sent_s=one.sent_s - begin_s) for one in calls],
            samples=[msgspec.structs.replace(one, at_s=one.at_s - begin_s) for one in samples],
            claims=(*scene.claims, *claims),
            not_restored="; ".join(scene.trouble),
            notes=tuple(scene.notes),
        )

    def _wait_for_steady(
        self, scene: TargetScene, lookout: HealthLookout, *, from_s: float, within_s: float
    ) -> float | None:
        """Wait until the target is as it should be; return since when."""
        until_s = monotonic_s() + within_s
        while (now_s := monotonic_s()) < until_s:
            since_s = max(from_s, now_s - _STEADY_WINDOW_S)
            if judge.is_steady(
                list(scene.crowd.calls), list(lookout.samples), since_s=since_s, workers=0,
                within_s=self._place.adapter.deadline_s,
            ):  # fmt: skip
                return since_s
            pause(_LOOK_AGAIN_S)
        return None

    def _add(self, result: Result) -> None:
        self.results.append(result)
        self._on_result(result)


def health_claims(
    adapter: Adapter, paths: HealthPaths, calls: Sequence[Call], samples: Sequence[Sample], *, from_s: float
) -> list[Claim]:
    """Claim that the health paths told the truth. Pure."""
    claims, within_s = [], adapter.deadline_s
    for kind, path, says_yes, lies_at_most_s in (
        ("readiness", paths.ready, lambda sample: sample.is_ready, adapter.health.ready_honest_within_s),
        ("liveness", paths.live, lambda sample: sample.is_live, adapter.health.live_honest_within_s),
    ):
        if not path:
            continue
        lie_s = longest_lie_s(calls, samples, says_yes=says_yes, from_s=from_s, within_s=within_s)
        alarm_s = longest_false_alarm_s(calls, samples, says_yes=says_yes, from_s=from_s, within_s=within_s)
        claims += [
            judge.claim_at_most(
                "alerted",
                f"{kind} ({path}) says yes while nobody is answered",
                promised=lies_at_most_s,
                seen=lie_s,
                unit=" s",
            ),
            judge.claim_at_most(
                "alerted",
                f"{kind} ({path}) says no while everybody is answered",
                promised=_FALSE_ALARM_AT_MOST_S,
                seen=alarm_s,
                unit=" s",
            ),
        ]
    return claims


def choose(only: Sequence[str]) -> list[TargetDrill]:
    """Return the drills that are asked for, in the order of running. Raises SettingError for an unknown name."""
    for name in only:
        if not any(_is_asked_for(drill, [name]) for drill in DRILLS):
            raise SettingError(
                f"There is no drill {name!r} of a target.",
                hint="`nightproof drill --list --target URL` names them.",
            )
    return [drill for drill in DRILLS if not only or _is_asked_for(drill, only)]


def _is_asked_for(drill: TargetDrill, names: Sequence[str]) -> bool:
    return any(name in (drill.name, drill.group, *drill.proves) for name in names)


def restart_by(command: str) -> Callable[[], None]:
    """Start the target again by the user's own command."""

    def restart() -> None:
        # The command is the user's own, typed by him.
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, shell=True, capture_output=True, timeout=_RESTART_WITHIN_S, check=False)  # noqa: S602

    return restart


def allow_many_connections() -> None:
    """Raise the limit of open files as far as it may be: too few of ours would look like the target's harm."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _last_told(calls: Sequence[Call]) -> str:
    if not calls:
        return "nobody was told anything"
    last = calls[-1]
    return f"the last caller was told {last.failure or last.ending} after {last.took_s:.2f} s"
