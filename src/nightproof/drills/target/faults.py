"""What can be broken from outside of any server, and what may be expected of it meanwhile.

Expectations are the same for every server, ours too: callers are told something in time; an error is told by its
status; one caller's mistake, slowness or bad record is not the others' harm; health paths tell the truth.
"""

from __future__ import annotations

import contextlib
import copy
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

from nightproof.base.clock import monotonic_s
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun
from nightproof.drills.faults import wire
from nightproof.drills.faults.callers import bodies_that_are_no_json, requests_that_are_no_http
from nightproof.drills.load import ask_all
from nightproof.drills.observed import Call
from nightproof.drills.stage import pause
from nightproof.drills.target.adapter import Adapter
from nightproof.drills.target.place import TOLD_TO_WAIT
from nightproof.drills.target.scene import GRACE_S, TargetDrill, TargetScene, as_bytes, promised_of, told

_FUZZ = ("OWASP API8", "ATLAS AML.T0043")
_FLOOD = ("OWASP API4", "ATLAS AML.T0029")
_BAD_PATIENCE_S = 5.0
_SLOW = 100
_SLOW_ENDED_WITHIN_S = 30.0
_GONE = 20
_TIMES = 10
_MOST_PER_S = 500.0
"""A driver that shares the machine must not be the load itself."""
_FLOOD_S = 6.0
_LEAST_TIMES = 3.0
_GOODPUT_SHARE = 0.5
_CAPACITY_CALLS = 80
_CRASHES = 3
_HANGS_PER_S = 10.0
_HANGS_FOR_S = 10.0
_HUNG_PATIENCE_S = 20.0
_HUNG_PATIENCE = 10.0
_COMMAND_WITHIN_S = 60.0
_BUSY_PER_S = 10.0
_BUSY_AFTER_S = 3.0
_HARMED_AT_MOST = 0.05


# -- callers --------------------------------------------------------------------------------------


def _malformed(scene: TargetScene) -> None:
    good = scene.adapter.request.good[0]
    bodies = bodies_that_are_no_json(good)
    misfits = list(bodies_that_do_not_fit(good))
    framing = requests_that_are_no_http(scene.place.path)
    with scene.fault():
        no_json = scene.ask([body for _, body in bodies], patience_s=_BAD_PATIENCE_S)
        unfit = scene.ask([body for _, body in misfits], patience_s=_BAD_PATIENCE_S)
        no_http = ask_all(scene.place, [raw for _, raw in framing], at_once=4, patience_s=_BAD_PATIENCE_S)
    scene.claim(
        judge.claim_all(
            "contained", "bodies that are no JSON", _named(bodies, no_json), promised="a 4xx", good=_is_no
        )
    )
    scene.claim(
        judge.claim_all(
            "contained",
            "inputs that do not fit",
            _named(misfits, unfit),
            promised="a 4xx, or an answer",
            good=lambda call: _is_told(call) and _status(call) < 500,
        )
    )
    # Some servers have a page at `/` and are lenient about its head: what matters is that no prediction is made of it.
    pages = {name for name, raw in framing if raw.startswith(b"GET ")}
    told_of = _named(framing, no_http)
    _claim_no_http(scene, "requests that are no HTTP", [one for one in told_of if one[0] not in pages])
    _claim_no_http(
        scene,
        "heads of a page that are no HTTP",
        [one for one in told_of if one[0] in pages],
        page=(200, 307),
    )


def _claim_no_http(
    scene: TargetScene, what: str, cases: list[tuple[str, object]], *, page: tuple[int, ...] = ()
) -> None:
    def is_well(words: object) -> bool:
        return _is_lost(words) or _is_no(words) or _status(words) in (501, 505, *page)

    promised = "a 4xx, 501, 505, or the end of the connection" + (", or the page" if page else "")
    scene.claim(judge.claim_all("contained", what, cases, promised=promised, good=is_well))


class Told(str):
    """What was told, for people, with the call that was told it."""

    call: Call


def _named(cases: list[tuple[str, Any]], calls: list[Call]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for (name, _), call in zip(cases, calls, strict=True):
        words = Told(told(call))
        words.call = call
        found.append((name, words))
    return found


def _status(words: object) -> int:
    return words.call.status if isinstance(words, Told) else 0


def _is_told(words: object) -> bool:
    return _status(words) > 0


def _is_lost(words: object) -> bool:
    return isinstance(words, Told) and words.call.ending == "lost"


def _is_no(words: object) -> bool:
    return 400 <= _status(words) < 500


def bodies_that_do_not_fit(good: Any) -> Iterator[tuple[str, Any]]:
    """Return JSON that is not what the server asks for: the good body with one place spoilt, or something else."""
    yield "an empty object", {}
    yield "a list of nothing", []
    yield "a number", 7
    yield "null", None
    place = next(_leaves(good, ()), None)
    if place is None:
        return
    for name, value in (
        ("text", "no number"),
        ("null", None),
        ("an object", {"an": "object"}),
        ("a list", [[1], 2]),
    ):
        yield f"{name} at {_pointer(place)}", _with(good, place, value)
    yield f"nothing at {_pointer(place)}", _with(good, place, _GONE_VALUE)


_GONE_VALUE = object()


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Name the places of all numbers, the first one first; else of all text."""
    numbers, texts = [], []
    stack = [(value, path)]
    while stack:
        one, at = stack.pop()
        if isinstance(one, dict):
            stack += [(inner, (*at, name)) for name, inner in reversed(one.items())]
        elif isinstance(one, list):
            stack += [(inner, (*at, place)) for place, inner in reversed(list(enumerate(one)))]
        elif isinstance(one, int | float) and not isinstance(one, bool):
            numbers.append(at)
        elif isinstance(one, str):
            texts.append(at)
    # A tensor's values, not its shape: what stands last in a request is most often its data.
    yield from [at for at in numbers if "data" in at] or numbers or texts


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    holder = changed
    for step in place[:-1]:
        holder = holder[step]
    if not place:
        return None if new is _GONE_VALUE else new
    if new is _GONE_VALUE:
        del holder[place[-1]]
    else:
        holder[place[-1]] = new
    return changed


def _pointer(place: tuple[Any, ...]) -> str:
    return "".join(f"/{step}" for step in place) or "the top"


# -- network --------------------------------------------------------------------------------------


def _slow_loris(scene: TargetScene) -> None:
    opened = scene.place.head(10).split(b"\r\n\r\n")[0] + b"\r\nx-slow: "
    with scene.fault():
        drips = [wire.connect_to(scene.place) for _ in range(_SLOW)]
        for one in drips:
            scene.undo("a slow connection", one.close)
        for one in drips:
            one.sendall(opened)

        def drip() -> bool:
            for one in drips:
                with contextlib.suppress(OSError, ssl.SSLError):
                    one.setblocking(True)
                    one.send(b"x")
            pause(0.5)
            return all(wire.is_closed(one) for one in drips)

        closed_s = scene.until(drip, within_s=_SLOW_ENDED_WITHIN_S)
    scene.claim(
        judge.claim_at_most(
            "contained",
            "slow connections ended by the server",
            promised=_SLOW_ENDED_WITHIN_S,
            seen=closed_s,
            unit=" s",
        )
    )


def _client_gone(scene: TargetScene) -> None:
    bodies = scene.adapter.records.slow or scene.adapter.request.good
    with scene.fault():
        for number in range(_GONE):
            connection = wire.connect_to(scene.place)
            connection.sendall(scene.place.request(as_bytes(bodies[number % len(bodies)])))
            pause(0.02)
            if number % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


# -- load -----------------------------------------------------------------------------------------


def _overload(scene: TargetScene) -> None:
    bodies = scene.adapter.records.slow or scene.adapter.request.good
    began_s = monotonic_s()
    calls = scene.ask([bodies[n % len(bodies)] for n in range(_CAPACITY_CALLS)], at_once=8, patience_s=30.0)
    capacity = sum(call.ending == "answered" for call in calls) / (monotonic_s() - began_s)
    if not capacity:
        raise CannotRun(f"nothing was answered in a closed loop; the first caller was told {told(calls[0])}")
    offered = min(_TIMES * capacity, _MOST_PER_S)
    if offered < _LEAST_TIMES * capacity:
        raise CannotRun(
            f"it answers {capacity:.0f} a second, and more than {_MOST_PER_S:.0f} are not sent from here; give the"
            " adapter a record that takes longer (records.slow)"
        )
    flood = scene.crowd_of(bodies, rate_per_s=offered)
    with scene.fault():
        scene.undo("the flood", flood.stop)
        flood.start()
        scene.hold(_FLOOD_S)
        lasted_s = scene.since_fault_s
        sent = flood.sent
        # Callers who do not wait for answers go away together: what they left behind is the server's to clear.
        flood.rate_per_s = 0.0
    scene.judge_too(flood)
    fault_s = scene.fault_s or 0.0
    good = sum(
        call.ending == "answered" and call.took_s <= scene.deadline_s and call.ended_s <= fault_s + lasted_s
        for call in flood.calls
    )
    scene.notes.append(
        f"capacity {capacity:.0f}/s, offered {sent / lasted_s:.0f}/s ({sent / lasted_s / capacity:.1f}×),"
        f" answered in time {good / lasted_s:.0f}/s"
    )
    scene.claim(
        judge.claim_at_least(
            "contained",
            "answered in time a second",
            promised=_GOODPUT_SHARE * capacity,
            seen=good / lasted_s,
            unit="/s",
        )
    )


# -- the model ------------------------------------------------------------------------------------


def _crash_by_command(scene: TargetScene) -> None:
    command = scene.adapter.crash_command
    # So that a call is at work in the process that is killed, where the adapter has a record that takes time.
    busy = scene.crowd_of(scene.adapter.records.slow or scene.adapter.request.good, rate_per_s=_BUSY_PER_S)
    scene.undo("the callers of slow records", busy.stop)
    busy.start()
    scene.hold(1.0)
    with scene.fault():
        try:
            # The command is the user's own, typed by him or written in his adapter.
            done = subprocess.run(  # noqa: S602
                command, shell=True, capture_output=True, text=True, timeout=_COMMAND_WITHIN_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CannotRun(f"`{command}` did not end in {_COMMAND_WITHIN_S:.0f} s") from None
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip()[-200:]
            raise CannotRun(f"`{command}` ended with code {done.returncode}: {last}")
        scene.hold(_BUSY_AFTER_S)
    scene.judge_too(busy)


def _crash_by_record(scene: TargetScene) -> None:
    bodies = scene.adapter.records.crash
    answers: list[tuple[str, object]] = []
    with scene.fault():
        for number in range(_CRASHES):
            (call,) = scene.ask([bodies[number % len(bodies)]])
            answers += _named([(f"try {number + 1}", None)], [call])
            scene.hold(1.0)
    scene.claim(
        judge.claim_all(
            "contained",
            "the caller with that record",
            answers,
            promised="told no",
            good=lambda call: _status(call) >= 400,
        )
    )


def _hung_patience_s(scene: TargetScene) -> float:
    """Wait for ten deadlines, but not for minutes."""
    return min(_HUNG_PATIENCE * scene.deadline_s, max(_HUNG_PATIENCE_S, 2 * scene.deadline_s))


def _hung_call(scene: TargetScene) -> None:
    body = scene.adapter.records.hang[0]
    with scene.fault():
        (call,) = scene.ask([body], patience_s=_hung_patience_s(scene))
    ended_s = call.took_s if call.ending not in ("hung", "lost") else None
    scene.notes.append(f"the caller whose call hung was told {told(call)} after {call.took_s:.1f} s")
    scene.claim(
        judge.claim_at_most(
            "contained",
            "the hung call is ended after",
            promised=scene.deadline_s + GRACE_S,
            seen=ended_s,
            unit=" s",
        )
    )


def _deadline_asked(scene: TargetScene) -> None:
    """Ask with half the time, by the header of the adapter, for a record that hangs."""
    asked_s = scene.deadline_s / 2
    header = (scene.adapter.deadline.header, str(int(asked_s * 1_000)))
    with scene.fault():
        (call,) = scene.ask(
            [scene.adapter.records.hang[0]], patience_s=_hung_patience_s(scene), headers=[header]
        )
    ended_s = call.took_s if call.ending not in ("hung", "lost") else None
    scene.claim(
        judge.claim_at_most(
            "contained", "the call is ended after", promised=asked_s + GRACE_S, seen=ended_s, unit=" s"
        )
    )


def _model_hung(scene: TargetScene) -> None:
    flood = scene.crowd_of(scene.adapter.records.hang, rate_per_s=_HANGS_PER_S)
    with scene.fault():
        flood.start()
        scene.hold(_HANGS_FOR_S)
        flood.rate_per_s = 0.0
    flood.stop()
    scene.own += flood.calls
    left = sum(call.ending in ("hung", "lost") for call in flood.calls)
    scene.notes.append(f"{len(flood.calls)} calls hung the model; {left} of their callers were told nothing")


def _nonsense(scene: TargetScene) -> None:
    bodies = scene.adapter.records.nonsense
    with scene.fault():
        calls = scene.ask([bodies[n % len(bodies)] for n in range(10)])
    cases = [(f"call {number + 1}", None) for number in range(len(calls))]
    scene.claim(
        judge.claim_all(
            "contained",
            "callers whose answer is nonsense",
            _named(cases, calls),
            promised="told no",
            good=lambda call: _status(call) >= 400,
        )
    )


def _with_records(kind: str) -> Any:
    def why(adapter: Adapter) -> str:
        return "" if getattr(adapter.records, kind) else f"the adapter has no records.{kind}"

    return why


def _with_deadline(adapter: Adapter) -> str:
    if not adapter.deadline.header:
        return "the adapter knows no header by which a caller asks for a shorter deadline"
    return "" if adapter.records.hang else "the adapter has no records.hang"


DRILLS = (
    TargetDrill(
        name="malformed_input",
        group="input",
        breaks="41 requests that do not fit, are no JSON, or no HTTP at all",
        proves=("malformed_request", "invalid_input"),
        promise=promised_of,
        act=_malformed,
        frameworks=_FUZZ,
    ),
    TargetDrill(
        name="client_gone",
        group="degradation",
        breaks=f"{_GONE} callers hang up while their request is at work",
        proves=("caller_gone",),
        promise=promised_of,
        act=_client_gone,
    ),
    TargetDrill(
        name="slow_clients",
        group="security",
        breaks=f"{_SLOW} connections that send a header byte by byte",
        proves=("slow_request",),
        promise=promised_of,
        act=_slow_loris,
        frameworks=_FLOOD,
    ),
    TargetDrill(
        name="overload",
        group="scaling",
        breaks="ten times the load that it can answer, from callers who do not wait",
        proves=("overloaded",),
        promise=lambda adapter: promised_of(adapter, shelter="named", may_fail=TOLD_TO_WAIT),
        act=_overload,
        frameworks=_FLOOD,
    ),
    TargetDrill(
        name="nonsense_answer",
        group="output",
        breaks="the model answers some inputs with what is no answer",
        proves=("invalid_output",),
        promise=promised_of,
        act=_nonsense,
        needs=_with_records("nonsense"),
    ),
    TargetDrill(
        name="crash_command",
        group="health",
        breaks="a command kills the model's process",
        proves=("model_crash",),
        promise=lambda adapter: promised_of(adapter, harmed_at_most=_HARMED_AT_MOST),
        act=_crash_by_command,
        needs=lambda adapter: "" if adapter.crash_command else "no crash command is given",
    ),
    TargetDrill(
        name="crash_record",
        group="health",
        breaks=f"one record kills the process that predicts it, and comes {_CRASHES} times",
        proves=("model_crash", "poison_input"),
        promise=lambda adapter: promised_of(adapter, harmed_at_most=_HARMED_AT_MOST),
        act=_crash_by_record,
        needs=_with_records("crash"),
    ),
    TargetDrill(
        name="deadline_asked",
        group="degradation",
        breaks="a call hangs, and its caller asked for half the time",
        proves=("deadline_exceeded",),
        promise=lambda adapter: promised_of(adapter, harmed_at_most=_HARMED_AT_MOST),
        act=_deadline_asked,
        needs=_with_deadline,
    ),
    TargetDrill(
        name="hung_call",
        group="degradation",
        breaks="one call makes the model hang",
        proves=("model_timeout",),
        promise=lambda adapter: promised_of(adapter, harmed_at_most=_HARMED_AT_MOST),
        act=_hung_call,
        needs=_with_records("hang"),
    ),
    TargetDrill(
        name="model_hung",
        group="health",
        breaks=f"{_HANGS_PER_S:.0f} calls a second make the model hang, for {_HANGS_FOR_S:.0f} s",
        proves=("model_timeout", "model_unavailable"),
        promise=lambda adapter: promised_of(adapter, shelter="named"),
        act=_model_hung,
        needs=_with_records("hang"),
    ),
)
"""In the order of running: what a server may not come back from stands last."""
