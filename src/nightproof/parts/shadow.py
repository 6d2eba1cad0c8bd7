"""Send copies of answered requests to a shadow, off the callers' way, and add up what it answers otherwise.

The copies have places of their own and are the first to be left out: none is made while the live release has a queue,
or while all places are taken. A copy's answer goes nowhere but into the comparison; an example of a difference is
sealed, for its person where it names one, before it is written. After a restart in the middle of a trial it
goes on with what was written.
"""

from __future__ import annotations

import asyncio

import msgspec
import orjson

from nightproof.audit.vault import Vault
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import StateError
from nightproof.base.ids import RequestIds
from nightproof.pipeline.house import ServedRelease, ServedService
from nightproof.pipeline.story import Story
from nightproof.releases.replay import Comparison, hidden_of, whom_of
from nightproof.steer.replay import PURPOSE
from nightproof.storage.comparisons import Comparisons, Run
from nightproof.watch.log import log
from nightproof.workers.engine import Outcome, Waiter

_WITHIN_S = 30.0


def begun(store: Comparisons, ids: RequestIds, *, service: str, label: str, since_us: int) -> Run:
    """Return the run of a trial that began then: the one that a restart cut short, or a new one."""
    run = store.newest(kind="shadow", service=service, label=label)
    if run is not None and run.began_us >= since_us:
        return run
    return store.begin(ids.draw(), kind="shadow", service=service, label=label, wanted=0, counts=b"")


class Shadow:
    """One release that gets copies. Touched on the event loop's thread only."""

    def __init__(
        self,
        served: ServedService,
        release: ServedRelease,
        store: Comparisons,
        run: Run,
        *,
        places: int,
        examples: int,
        vault: Vault,
    ) -> None:
        self._served = served
        self._release = release
        self._store = store
        self._run = run
        self._free = places
        self._examples_left = max(0, examples - len(store.examples(run.id)))
        self._most = examples
        self._vault = vault
        self._new_examples: list[tuple[bytes, bytes]] = []
        described = release.engine.description
        self._hidden = hidden_of([*described.subject_pointers, *described.sensitive_pointers])
        self.comparison = self._opened()
        self.left_out = 0
        """Requests of which no copy was made, since it would have been in somebody's way."""

    def offer(self, story: Story) -> None:
        """Make a copy of an answered request's first record, if there is room."""
        item = story.items[0] if story.items else None
        if item is None or not item.output or story.release == self._release.label:
            return
        engine = self._release.engine
        if not self._free or not engine.is_ready() or self._served.live.engine.snapshot().queued:
            self.left_out += 1
            return
        self._free -= 1
        waiter = Waiter(asyncio.get_running_loop().create_future())
        jobs = self._release.make_jobs([item.input], monotonic_s() + _WITHIN_S, waiter)
        caller = story.caller.key_id if story.caller else ""
        record, answer, subject, degraded = item.input, item.output, item.subject, item.degraded is not None
        waiter.future.add_done_callback(
            lambda done: (
                None
                if done.cancelled()
                else self._told(record, b"" if degraded else answer, waiter.outcomes[0], caller, subject)
            )
        )
        engine.submit(jobs)

    def _told(self, record: bytes, answer: bytes, outcome: Outcome, caller: str, subject: bytes) -> None:
        self._free += 1
        failure, output = outcome.failure, outcome.output
        if failure == "shutting_down":
            return
        if not failure:
            failure = self._release.output_checks.judge(output).failure
        given = orjson.loads(record)
        old = orjson.loads(answer) if answer else None
        new = None if failure else orjson.loads(output)
        whom = whom_of(given, caller, hidden=self._hidden)
        is_changed = self.comparison.add(old=old, new=new, failure=failure, whom=whom)
        if is_changed and self._examples_left:
            self._examples_left -= 1
            example = orjson.dumps({"input": given, "old": old, "new": new, "failure": failure})
            self._new_examples.append((example, subject))

    def keep(self) -> None:
        """Write what was found so far; called off the loop's thread. What could not be written is written next time."""
        if self._run.done == self.comparison.compared:
            return
        new, self._new_examples = self._new_examples, []
        try:
            counts = self._seal(msgspec.json.encode(self.comparison), b"")
            run = msgspec.structs.replace(self._run, counts=counts, done=self.comparison.compared)
            self._store.keep(run, [self._seal(one, subject) for one, subject in new], most=self._most)
        except BaseException:
            self._new_examples = [*new, *self._new_examples]
            raise
        self._run = run

    def _opened(self) -> Comparison:
        """Return what was compared before; nothing where it cannot be opened, and then it begins anew."""
        if not self._run.counts:
            return Comparison()
        try:
            counts = self._vault.open_bytes(self._run.counts, purpose=PURPOSE)
        except StateError as error:
            log("shadow_begun_anew", level="warning", release=self._release.label, why=error.text)
            return Comparison()
        return msgspec.json.decode(counts, type=Comparison)

    def _seal(self, content: bytes, subject: bytes) -> bytes:
        return self._vault.seal_bytes(content, purpose=PURPOSE, subject=subject)

    def __repr__(self) -> str:
        return f"<Shadow {self._release.label} compared={self.comparison.compared} left_out={self.left_out}>"
