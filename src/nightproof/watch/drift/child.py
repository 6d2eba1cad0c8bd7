"""The drift child: learn profiles, count rows, judge windows. One thread, one socket, no user code.

Started by `watcher` as `python -m nightproof.watch.drift.child FD PARENT_PID`, at low priority, so that it never
competes with requests. Two roles, one program: the one that watches, and a short-lived one that builds a profile (it
loads pyarrow, whose memory goes when it ends). It dies with the server, and holds nothing that the server cannot
give it again.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from nightproof.base.clock import utc_now, utc_us
from nightproof.base.frames import FrameReader
from nightproof.base.profile import Profile, Signal
from nightproof.storage.reference_file import NoReference, Reference, read_prompts, read_reference
from nightproof.watch.drift import detector, learn, measures, statistics, wire
from nightproof.watch.drift.fields import fields_of
from nightproof.watch.drift.prompts import prompt_in, with_features
from nightproof.watch.drift.wire import Row

_PR_SET_PDEATHSIG = 1
_NICE = 5
_READ_BYTES = 1 << 20
_KEPT_ROWS = 512
_KEPT_BYTES = 4 << 20
_EXAMPLES_PER_SIGNAL = 2
_MOST_EXAMPLES = 6
_TELL_EVERY_S = 1.0
_STATE_EVERY_S = 30.0

_profiles = msgspec.msgpack.Decoder(Profile)
_states = msgspec.msgpack.Decoder(detector.State)
_encoder = msgspec.msgpack.Encoder()


class Watching:
    """One release that is watched: counts its rows and judges its windows."""

    def __init__(self, order: wire.Watch) -> None:
        self.release = order.release
        self._rules = order.rules
        self._learn_rows = order.learn_rows
        self._caller_rows = order.caller_rows
        self._profile: Profile | None = None
        self._held: list[Row] = []
        self._recent: deque[Row] = deque(maxlen=_KEPT_ROWS)
        self._recent_bytes = 0
        self._callers: Counter[str] = Counter()
        self._untold_s = self._unkept_s = 0.0
        self._skipped = 0
        self._segment = (-1.0, 0)
        if order.profile:
            self._begin(_profiles.decode(order.profile), order.state)

    def _begin(self, profile: Profile, state: bytes = b"") -> None:
        self._profile = profile
        self._reader = measures.Reader(profile)
        self._state = detector.fresh_state(profile, self._rules)
        if state:
            try:
                kept = _states.decode(state)
            except msgspec.DecodeError:
                kept = None  # of another version: the watching begins anew
            if kept is not None and detector.fits(kept, profile, self._rules):
                self._state = kept
        self._window = _Window(profile)

    def take(self, message: wire.Rows) -> Iterator[wire.FromChild]:
        """Take in rows; say what is new."""
        rows = self._within_cap(message.rows)
        if self._profile is None:
            yield from self._learn_from(rows, message)
            return
        self._window.elapsed_s += message.elapsed_s
        self._untold_s += message.elapsed_s
        self._unkept_s += message.elapsed_s
        raised: detector.Alarm | None = None
        closed = False
        if rows:
            parsed = _parsed(rows, self.release)
            codes, answered = self._reader.codes(parsed)
            self._window.add(codes, answered, self._segment_at(message.now_us), message.now_us)
            self._keep(rows)
        if self._window.rows >= self._rules.window_rows and self._window.elapsed_s >= self._rules.window_s:
            window = self._window.counts()
            self._window = _Window(self._profile)
            self._callers.clear()
            raised = detector.advance(self._state, window, self._profile, self._rules)
            closed = True
        if closed or self._untold_s >= _TELL_EVERY_S:
            self._untold_s = 0.0
            yield self._told(raised, with_report=closed)

    def _learn_from(self, rows: list[Row], message: wire.Rows) -> Iterator[wire.FromChild]:
        self._held += rows
        self._untold_s += message.elapsed_s
        if len(self._held) < self._learn_rows:
            if self._untold_s >= _TELL_EVERY_S:
                self._untold_s = 0.0
                yield wire.Told(
                    service=self.release.service,
                    digest=self.release.digest,
                    about=wire.About(origin="learning", rows=self._learn_rows),
                    filling=len(self._held),
                )
            return
        profile = learn.learn(
            _parsed(self._held, self.release),
            service=self.release.service,
            digest=self.release.digest,
            input_schema=self.release.input_schema,
            output_schema=self.release.output_schema,
            checks=self.release.checks,
            origin="live",
            made_us=message.now_us,
            block_rows=self._rules.window_rows,
        )
        self._held = []
        self._begin(profile)
        yield wire.Built(self.release.service, self.release.digest, _encoder.encode(profile))
        yield self._told(None, with_report=True)

    def _within_cap(self, rows: list[Row]) -> list[Row]:
        """Leave out what one caller sends beyond its share of a window."""
        if not self._caller_rows:
            return rows
        kept = []
        for row in rows:
            self._callers[row.caller] += 1
            if self._callers[row.caller] <= self._caller_rows:
                kept.append(row)
        self._skipped += len(rows) - len(kept)
        return kept

    def _segment_at(self, now_us: int) -> int:
        if self._profile is None or self._profile.seasons == "none":
            return 0
        minute = now_us // 60_000_000
        if self._segment[0] != minute:
            place = int(learn.segment_places(self._profile.seasons, [now_us / 1e6], 1)[0])
            self._segment = (minute, place)
        return self._segment[1]

    def _keep(self, rows: list[Row]) -> None:
        for row in rows:
            if len(self._recent) == _KEPT_ROWS:
                self._recent_bytes -= len(self._recent[0].input)
            self._recent.append(row)
            self._recent_bytes += len(row.input)
        while self._recent_bytes > _KEPT_BYTES:
            self._recent_bytes -= len(self._recent.popleft().input)

    def told(self) -> wire.Told:
        """Say how it stands now."""
        return self._told(None, with_report=True)

    def _told(self, raised: detector.Alarm | None, *, with_report: bool) -> wire.Told:
        profile, state = self._profile, self._state
        if profile is None:
            raise RuntimeError("there is nothing to tell before there is a profile")
        report = detector.report(state, profile) if with_report else []
        with_state = with_report or self._unkept_s >= _STATE_EVERY_S
        if with_state:
            self._unkept_s = 0.0
        shown = next((scale.last for scale in reversed(state.scales) if scale.last is not None), None)
        return wire.Told(
            service=self.release.service,
            digest=self.release.digest,
            about=about(profile),
            rows=state.rows + self._window.rows,
            filling=self._window.rows,
            windows=state.windows,
            windows_judged=[
                (scale.last.rows if scale.last else 0, scale.windows, min(1e9, scale.evidence))
                for scale in state.scales
            ],
            alarms=state.alarms,
            alarm=state.alarm,
            raised=raised is not None,
            report=report,
            window_began_us=shown.began_us if shown else 0,
            window_ended_us=shown.ended_us if shown else 0,
            examples=self._examples(raised) if raised is not None else [],
            state=_encoder.encode(state) if with_state else b"",
            skipped=self._skipped,
        )

    def _examples(self, raised: detector.Alarm) -> list[wire.Example]:
        """Choose records of late that lie in the cell which gained most, for the first signals that moved."""
        if self._profile is None or not self._recent:
            return []
        rows = list(self._recent)
        codes, answered = self._reader.codes(_parsed(rows, self.release))
        scale = next((one for one in self._state.scales if one.multiple == raised.multiple), None)
        window = scale.last if scale else None
        if window is None:
            return []
        places = {signal.name: place for place, signal in enumerate(self._profile.signals)}
        found: list[wire.Example] = []
        for name in raised.signals:
            place = places[name]
            signal = self._profile.signals[place]
            cell = _gained_most(signal, window.cells[place], window.segments)
            hit = (codes[place] == cell) & (answered | (signal.side != "output"))
            label = signal.labels()[cell]
            found += [
                wire.Example(name, label, rows[row].input, rows[row].subject)
                for row in np.flatnonzero(hit)[-_EXAMPLES_PER_SIGNAL:]
            ]
            if len(found) >= _MOST_EXAMPLES:
                break
        return found[:_MOST_EXAMPLES]


def _parsed(rows: list[Row], release: wire.Release) -> measures.Parsed:
    parsed = measures.parse(rows)
    if release.is_chat:
        parsed.inputs = [with_features(record) for record in parsed.inputs]
    return parsed


def _gained_most(signal: Signal, cells: list[int], segments: list[int]) -> int:
    reference, size = statistics.weighed_reference(signal.counts, segments)
    rows = sum(cells) or 1
    gains = [live / rows - usual / (size or 1) for live, usual in zip(cells, reference, strict=True)]
    return max(range(len(gains)), key=gains.__getitem__)


def about(profile: Profile) -> wire.About:
    """Say of a profile what operators want to know."""
    return wire.About(
        origin=profile.origin,
        rows=profile.rows,
        answered_rows=profile.answered_rows,
        seasons=profile.seasons,
        made_us=profile.made_us,
        signals=len(profile.signals),
        not_watched=profile.not_watched,
    )


class _Window:
    """A window that fills: the counts as arrays, so that a batch costs a few additions."""

    def __init__(self, profile: Profile) -> None:
        self._signals = profile.signals
        cells = [signal.cells for signal in profile.signals]
        self._starts = np.concatenate([[0], np.cumsum(cells)[:-1]]).astype(np.int64) if cells else np.zeros(0)
        self._cells = cells
        self._counts = np.zeros(sum(cells), dtype=np.int64)
        self._outputs = np.array([signal.side == "output" for signal in profile.signals], dtype=bool)
        self._segments = [0] * len(profile.segment_rows)
        self.rows = self.answered = 0
        self.elapsed_s = 0.0
        self._began_us = self._ended_us = 0

    def add(self, codes: measures.Codes, answered: Any, segment: int, now_us: int) -> None:
        """Count the rows of a batch."""
        rows = codes.shape[1]
        places = codes.astype(np.int64) + self._starts[:, None]
        if not answered.all():
            inputs = places[~self._outputs].ravel()
            places = np.concatenate([inputs, places[self._outputs][:, answered].ravel()])
        self._counts += np.bincount(places.ravel(), minlength=len(self._counts))
        self._segments[segment] += rows
        self.rows += rows
        self.answered += int(answered.sum())
        self._began_us = self._began_us or now_us
        self._ended_us = now_us

    def counts(self) -> detector.Counts:
        """Return the window's counts as plain integers."""
        flat = self._counts.tolist()
        cells = []
        at = 0
        for size in self._cells:
            cells.append(flat[at : at + size])
            at += size
        return detector.Counts(
            rows=self.rows,
            answered=self.answered,
            elapsed_s=self.elapsed_s,
            began_us=self._began_us,
            ended_us=self._ended_us,
            segments=self._segments,
            cells=cells,
        )


class Child:
    """The loop: read a frame, do it, say what is new."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._watched: dict[str, Watching] = {}
        self._draft: tuple[wire.Build, Reference, list[int]] | None = None

    def run(self) -> None:
        """Serve frames until the server closes the socket."""
        while arrived := self._connection.recv(_READ_BYTES):
            for body in self._reader.feed(arrived):
                for answer in self._do(wire.to_child.decode(body)):
                    self._connection.sendall(wire.frame(answer))

    def _do(self, message: wire.ToChild) -> Iterator[wire.FromChild]:
        if isinstance(message, wire.Rows):
            watched = self._watched.get(message.service)
            if watched is not None and watched.release.digest == message.digest:
                yield from watched.take(message)
        elif isinstance(message, wire.Watch):
            watched = self._watched[message.release.service] = Watching(message)
            if message.profile:
                yield watched.told()
        elif isinstance(message, wire.Forget):
            self._watched.pop(message.service, None)
        elif isinstance(message, wire.Build):
            yield self._build(message)
        else:
            yield self._finish(message)

    def _build(self, order: wire.Build) -> wire.FromChild:
        declared = fields_of(order.release.input_schema)
        times = [
            pointer[1:] for pointer, kind in declared.items() if kind == "time" and "/" not in pointer[1:]
        ]
        try:
            most = min(learn.MOST_ROWS, max(1_000, learn.MOST_VALUES // max(1, len(declared))))
            if order.release.is_chat:
                reference = read_prompts(Path(order.folder), prompt_in, most=most)
            else:
                reference = read_reference(
                    Path(order.folder),
                    fields=list(
                        {pointer.split("/")[1].replace("~1", "/").replace("~0", "~") for pointer in declared}
                    ),
                    time_field=times[0] if len(times) == 1 else None,
                    most=most,
                )
        except NoReference as error:
            return wire.NoProfile(str(error))
        rows = len(reference.records)
        if rows < learn.LEAST_ROWS:
            return wire.NoProfile(f"the reference has {rows} rows, fewer than {learn.LEAST_ROWS}")
        if reference.times:
            order_of = sorted(range(rows), key=lambda place: reference.times[place].timestamp())  # type: ignore[union-attr]
            reference = Reference(
                [reference.records[place] for place in order_of],
                [reference.times[place] for place in order_of],
            )
        count = min(rows, order.most_answers)
        places = [round(place * (rows - 1) / max(1, count - 1)) for place in range(count)]
        self._draft = (order, reference, places)
        return wire.Drafted([orjson.dumps(_now_in(reference.records[place], times)) for place in places])

    def _finish(self, message: wire.Finish) -> wire.FromChild:
        if self._draft is None:
            return wire.NoProfile("no reference was read")
        order, reference, places = self._draft
        outputs: list[Any] = [None] * len(reference.records)
        findings: list[list[str]] = [[] for _ in reference.records]
        for place, output, found in zip(places, message.outputs, message.findings, strict=False):
            outputs[place] = orjson.loads(output) if output else None
            findings[place] = found
        inputs, has_checked = reference.records, any(message.outputs)
        if order.release.is_chat:
            inputs = [with_features(record) for record in inputs]
            has_checked = bool(message.findings)  # its answers are what the checks say; not all of them score
        try:
            profile = learn.learn(
                measures.Parsed(inputs, outputs, findings),
                service=order.release.service,
                digest=order.release.digest,
                input_schema=order.release.input_schema,
                output_schema=order.release.output_schema,
                checks=order.release.checks if has_checked else [],
                origin="reference",
                made_us=message.made_us or utc_us(),
                times_s=[moment.timestamp() for moment in reference.times if moment is not None] or None,
                block_rows=order.block_rows,
                answered_places=places,
            )
        except learn.NotEnough as error:
            return wire.NoProfile(str(error))
        return wire.Built(order.release.service, order.release.digest, _encoder.encode(profile))


def _now_in(record: dict[str, Any], times: list[str]) -> dict[str, Any]:
    """Give a reference row a time of now: what was fresh then is not now, and the model is to answer it."""
    return {**record, **{name: utc_now().isoformat() for name in times if record.get(name) is not None}}


def main() -> None:
    """Take over the socket named on the command line and serve it."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the server died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write("600")
    except OSError:
        pass  # a container may forbid it
    try:
        Child(socket.socket(fileno=descriptor)).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server is gone
    os._exit(0)


if __name__ == "__main__":
    main()
