"""What the user's code returned or raised, as an answer: named, without the caller's data.

Used in worker processes only, by what runs models and by what runs the checks of chats.
"""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nightproof.base.errors import FieldError
from nightproof.declare.endpoint import DeclaredCheck
from nightproof.workers.wire import Answer

_TOLERANCE = 1e-6


class WrongAnswer(Exception):
    """The model answered, but not in a form that can be an answer."""


def ask(check: DeclaredCheck, *values: Any) -> str | Answer | None:
    """Run a check of the user's. One that raises has not passed: the answer is withheld."""
    try:
        found = check.function(*values)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return Answer(failure="model_error", detail=f"check {check.name} raised {type(error).__name__}")
    if found is None or isinstance(found, str):
        return found
    told = f"check {check.name} returned {type(found).__name__}, not a text or None"
    return Answer(failure="model_error", detail=told)


def failed(error: BaseException) -> Answer:
    """Name what the user's code raised: its kind and place, never its text."""
    if isinstance(error, MemoryError):
        return Answer(failure="model_out_of_memory", detail="MemoryError")
    if isinstance(error, WrongAnswer):
        return Answer(failure="invalid_output", detail=str(error))
    # The text of an exception may carry the caller's data, so only its kind and place leave.
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Answer(failure="model_error", detail=f"{type(error).__name__}{place}")


def field_errors(error: ValidationError) -> list[FieldError]:
    """Say what does not fit, by JSON pointers, without the values."""
    return [
        FieldError("".join(f"/{_escaped(str(part))}" for part in one["loc"]), _message(one), str(one["type"]))
        for one in error.errors(include_url=False, include_context=False, include_input=False)[:20]
    ]


def _escaped(part: str) -> str:
    """Write one part of a JSON pointer (RFC 6901)."""
    return part.replace("~", "~0").replace("/", "~1")


def _message(one: Any) -> str:
    # A user's validator may quote the value in its text; pydantic's own messages do not.
    if one["type"] in ("value_error", "assertion_error"):
        return "refused by the service's own rule"
    return str(one["msg"])


def plain(output: Any) -> Any:
    """Unwrap numpy scalars, which Pydantic does not take for bool or int."""
    if isinstance(output, dict):
        return {key: plain(value) for key, value in output.items()}
    if type(output).__module__ == "numpy" and hasattr(output, "item") and getattr(output, "ndim", 1) == 0:
        return output.item()
    return output


def is_finite(value: Any) -> bool:
    """Say whether a value holds no NaN and no infinity."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(is_finite, value))
    return True


def same(got: Any, expected: Any) -> bool:
    """Compare as golden cases do: named fields only, numbers within 1e-6."""
    if isinstance(expected, bool) or isinstance(got, bool):
        return got is expected
    if isinstance(expected, int | float) and isinstance(got, int | float):
        return math.isclose(got, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if isinstance(expected, dict) and isinstance(got, dict):
        return all(same(got.get(name), value) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(got, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return bool(got == expected)
