"""One drill on its stage: what the acts in `faults` work with, and the clock by which everything is told.

An act marks its fault by `with scene.fault():`. What it registers with `scene.undo` is undone when that block ends,
however it ends; an undoing that fails is told as such and is no exception.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.declare.describe import Description
from nightproof.drills.chat_inputs import ChatInputs
from nightproof.drills.drill import CannotRun
from nightproof.drills.inputs import Inputs, Marked
from nightproof.drills.load import Answer, Crowd, classify
from nightproof.drills.observed import Call, Claim
from nightproof.drills.promise import Promise
from nightproof.drills.stage import Stage, pause
from nightproof.drills.upstreams import StageUpstreams

_LOOK_AGAIN_S = 0.05


class Experiment:
    """The clock of one drill, what must be undone, and what it claims. Knows nothing of what is broken, or where."""

    def __init__(self, crowd: Crowd, *, promise: Promise, seed: int = 0) -> None:
        self.crowd = crowd
        self.promise = promise
        self.seed = seed
        self.began_s = monotonic_s()
        self.fault_s: float | None = None
        self.undone_s: float | None = None
        self.claims: list[Claim] = []
        self.own: list[Call] = []
        """The calls that the drill itself made."""
        self.others: list[Call] = []
        """The calls of further crowds, judged like the first one's."""
        self.notes: list[str] = []
        self.trouble: list[str] = []
        """What could not be undone."""
        self._undo: list[tuple[str, Callable[[], object]]] = []

    # -- the fault ----------------------------------------------------------------------------

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Mark the fault's beginning, and its end when everything registered is undone."""
        self.fault_s = monotonic_s()
        try:
            yield
        finally:
            self.undo_all()
            self.undone_s = monotonic_s()

    def undo(self, what: str, how: Callable[[], object]) -> None:
        """Register how to take a change back; the last one goes first."""
        self._undo.append((what, how))

    def undo_all(self) -> None:
        """Take everything back that is registered. Also called when a drill is interrupted."""
        while self._undo:
            what, how = self._undo.pop()
            try:
                how()
            except Exception as error:  # noqa: BLE001 - a border: the rest must be undone too, and this is told
                self.trouble.append(f"{what}: {type(error).__name__}: {error}")

    # -- waiting ------------------------------------------------------------------------------

    @property
    def since_fault_s(self) -> float:
        """The seconds since the fault began."""
        return monotonic_s() - (self.fault_s if self.fault_s is not None else self.began_s)

    def hold(self, seconds: float) -> None:
        """Let it be broken for a while; the crowd goes on asking."""
        pause(seconds)

    def until(self, holds: Callable[[], object], *, within_s: float) -> float | None:
        """Wait until something holds; return the seconds since the fault, or None if it did not in time."""
        until_s = monotonic_s() + within_s
        while not holds():
            if monotonic_s() > until_s:
                return None
            pause(_LOOK_AGAIN_S)
        return self.since_fault_s

    def claim(self, claim: Claim) -> None:
        """Add what this drill alone promises."""
        self.claims.append(claim)


class Scene(Experiment):
    """Where one drill of a stage happens."""

    def __init__(
        self,
        stage: Stage,
        crowd: Crowd,
        *,
        declared: Description,
        inputs: Inputs,
        promise: Promise,
        seed: int = 0,
    ) -> None:
        super().__init__(crowd, promise=promise, seed=seed)
        self.stage = stage
        self.declared = declared
        self.inputs = inputs
        self._marked: Marked | None = None

    @property
    def chats(self) -> ChatInputs:
        """What to ask a chat service. Raises CannotRun for another one."""
        if not isinstance(self.inputs, ChatInputs):
            raise CannotRun("it needs a chat service")
        return self.inputs

    @property
    def upstreams(self) -> StageUpstreams:
        """The stage's lying upstreams. Raises CannotRun where it has none."""
        if self.stage.upstreams is None:
            raise CannotRun("the stage has no lying upstream")
        return self.stage.upstreams

    def lie(self, lie: str, *, place: int = 0) -> None:
        """Have an upstream lie until the fault ends."""
        self.undo("the upstream's lie", lambda: self.upstreams.lie("", place=place))
        self.upstreams.lie(lie, place=place)

    def lie_about(self, text: str, lie: str) -> None:
        """Have the upstreams lie about what holds a text until the fault ends."""
        self.undo("the upstreams' lie", lambda: self.upstreams.lie_about(text, ""))
        self.upstreams.lie_about(text, lie)

    def cue(self, **cue: Any) -> None:
        """Have the model misbehave until the fault ends."""
        self.undo("the model's cue", lambda: self.stage.cue(None))
        self.stage.cue(cue)

    def hold_until_alert(self, *, at_least_s: float = 2.0) -> None:
        """Let it be broken until its alert has arrived, at most for as long as that may take."""
        self.hold(at_least_s)
        if self.promise.alert:
            self.until(self.has_alerted, within_s=self.promise.alert_within_s + 1.0 - at_least_s)

    def has_alerted(self) -> bool:
        """Say whether the promised alert has arrived since the fault."""
        since_s = self.fault_s if self.fault_s is not None else self.began_s
        return any(
            one.failure in self.promise.alerts and one.state == "firing" and one.at_s >= since_s
            for one in list(self.stage.receiver.told)
        )

    # -- asking -------------------------------------------------------------------------------

    def ask(
        self, record: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None, path: str = ""
    ) -> Answer:
        """Ask once, on a connection of its own; bytes go as they are. Status 0 where no answer came."""
        body = record if isinstance(record, bytes) else json.dumps(record).encode()
        began_s = monotonic_s()
        connection: http.client.HTTPConnection
        if self.stage.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.stage.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.stage.port, timeout=20, context=self.stage.tls
            )
        sent = {
            "authorization": f"Bearer {self.stage.key if key is None else key}",
            "content-type": "application/json",
            **(headers or {}),
        }
        try:
            connection.request("POST", path or self.stage.place.path, body, sent)
            got = connection.getresponse()
            answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        except (OSError, http.client.HTTPException):
            return Answer(0, {}, b"")
        finally:
            connection.close()
        self.own.append(classify(answer, sent_s=began_s, took_s=monotonic_s() - began_s))
        return answer

    def marked(self) -> Marked:
        """Return an input that no golden case has and that the model answers. Raises CannotRun where there is none.

        One that a drill before made slow, or fatal, may still be held back from workers: then the next one is taken.
        """
        for marked in self.inputs.marked():
            answer = self.ask(marked.record)
            if answer.status == 200 and not answer.failure:
                return marked
        raise CannotRun("no input was found that differs from all golden cases in one field and is answered")

    def send_too(self, records: Sequence[Any], *, rate_per_s: float) -> Crowd:
        """Have more callers ask for these records until the fault ends; what they are told is judged too."""
        bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
        patience_s = self.declared.deadline_ms / 1_000 + 5.0
        more = Crowd(
            self.stage.place, bodies, rate_per_s=rate_per_s, patience_s=patience_s, seed=self.seed + 1
        )

        def end() -> None:
            more.stop()
            # Their inputs are others than the first crowd's: no answer of theirs can be held against those.
            self.others += [msgspec.structs.replace(call, output="") for call in more.calls]

        self.undo("the other callers", end)
        more.start()
        return more

    def misbehave_on_marked(self, act: str, *, rate_per_s: float = 8.0, **more: Any) -> Crowd:
        """Have the model misbehave on one record that no golden case has, and callers ask for it beside the crowd."""
        marked = self._marked or self.marked()
        self.cue(act=act, field=marked.field, value=marked.value, **more)
        return self.send_too([marked.record], rate_per_s=rate_per_s)

    def prepare_marked(self) -> Marked:
        """Find that record before the fault begins."""
        self._marked = self.marked()
        return self._marked
