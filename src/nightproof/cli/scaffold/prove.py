"""The child program that runs a written service folder once, and takes down its golden cases.

Run as `python -P -m nightproof.cli.scaffold.prove ANSWER_FILE`, the claim on stdin. Answers as a worker does.
The service must say what the model said by itself; a field that differs from one call to the next is left out
of the cases.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from nightproof.base.clock import monotonic_s, utc_now
from nightproof.base.errors import DeclarationError, NightproofError
from nightproof.base.strictjson import parse
from nightproof.cli.scaffold.plan import Claim, Failed, Label, Proof, Unfit
from nightproof.declare.describe import describe
from nightproof.declare.folder import load_service, read_golden
from nightproof.declare.service import Service
from nightproof.workers.child import LoadedService

_TOLERANCE = 1e-6
_LOOSE = 1e-4
_BATCH = 64
_TIMED_CALLS = 5
_OUTPUT_MOST_BYTES = 1 << 20
_MEND = "Please report this, with the CSV's header: service.py was written wrongly."


def prove(claim: Claim) -> Proof:
    """Load the folder, answer the inputs in one batch and one by one, and write what holds as golden cases."""
    folder = Path(claim.folder)
    service = load_service(folder)
    if not isinstance(service, Service):
        raise DeclarationError(f"{folder} declares a chat service.", hint="It has no model to prove.")
    describe(service, folder)
    loaded = LoadedService(service, folder, output_most_bytes=_OUTPUT_MOST_BYTES)
    together = _answers(loaded, claim.inputs)
    alone = [_answers(loaded, [one])[0] for one in claim.inputs]
    _refuse_other_answers(alone, claim)
    lines, notes = _golden_lines(claim.inputs, alone, together)
    golden = folder / "golden.jsonl"
    golden.write_bytes(b"".join(line + b"\n" for line in lines))
    if trouble := _trouble_with_golden(folder):
        golden.unlink()
        lines, notes = [], [*notes, f"golden.jsonl is left out: {trouble}"]
    return Proof(
        len(lines),
        notes,
        one_row_ms=_usual_ms(loaded, claim.inputs[:1]),
        many_rows_ms=_usual_ms(loaded, (claim.inputs * _BATCH)[: min(_BATCH, service.max_batch)]),
    )


def _golden_lines(
    inputs: Sequence[bytes], alone: Sequence[dict[str, Any]], together: Sequence[dict[str, Any]]
) -> tuple[list[bytes], list[str]]:
    lines, unsteady = [], set()
    for given, first, second in zip(inputs, alone, together, strict=True):
        steady = {name: value for name, value in first.items() if _same(value, second[name], _TOLERANCE)}
        unsteady |= first.keys() - steady.keys()
        if steady:
            lines.append(msgspec.json.encode({"input": msgspec.Raw(given), "expect": steady}))
    return lines, [
        f"{name} differs from one call to the next, so no golden case expects it: is the model random?"
        for name in sorted(unsteady)
    ]


def _trouble_with_golden(folder: Path) -> str:
    """Read the cases as a worker will; what they expect was answered just now."""
    try:
        read_golden(folder, utc_now())
    except DeclarationError as error:
        return error.text.replace(f"{folder}/", "")
    return ""


def _usual_ms(loaded: LoadedService, inputs: Sequence[bytes]) -> float:
    taken = []
    for _ in range(_TIMED_CALLS):
        began = monotonic_s()
        loaded.answer(inputs)
        taken.append((monotonic_s() - began) * 1_000)
    return round(median(taken), 2)


def _answers(loaded: LoadedService, inputs: Sequence[bytes]) -> list[dict[str, Any]]:
    answers, alone = loaded.answer(inputs)
    if alone:
        return [_answers(loaded, [one])[0] for one in inputs]
    found = []
    for answer in answers:
        if answer.failure:
            places = "; ".join(f"{error.pointer} {error.detail}" for error in answer.errors)
            raise Unfit(
                f"The written service ends with {answer.failure}: {answer.detail} {places}".strip(),
                hint=_MEND,
            )
        found.append(parse(answer.output))
    return found


def _refuse_other_answers(answers: Sequence[dict[str, Any]], claim: Claim) -> None:
    for number, (answer, expected) in enumerate(zip(answers, claim.expected, strict=True), start=1):
        if not _same(answer[claim.field], expected, _LOOSE):
            told = f"says {expected!r} by itself and {answer[claim.field]!r} as a service"
            raise Unfit(f"For golden case {number} the model {told}.", hint=_MEND)


def _same(one: Label, other: Label, tolerance: float) -> bool:
    if isinstance(one, str | bool) or isinstance(other, str | bool):
        return one == other
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


def main() -> None:
    """Prove one claim."""
    claim = msgspec.json.decode(sys.stdin.buffer.read(), type=Claim)
    code, found = 0, b""
    try:
        found = msgspec.json.encode(prove(claim))
    except NightproofError as error:
        code, found = 1, msgspec.json.encode(Failed(error.text, error.hint))
    except Exception as error:  # noqa: BLE001
        # load() is the model's code and may raise anything; the engineer reads the end of it.
        text = "".join(traceback.format_exception(error)[-3:]).strip()
        code, found = 1, msgspec.json.encode(Failed(f"The written service does not load.\n{text}", _MEND))
    Path(sys.argv[1]).write_bytes(found)
    sys.stderr.flush()
    os._exit(code)  # the model may have left threads or exit hooks that never end


if __name__ == "__main__":
    main()
