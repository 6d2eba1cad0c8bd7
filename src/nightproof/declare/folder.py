"""Import a service folder's `service.py` and read its golden cases. Runs user code: in workers only."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from nightproof.base import strictjson
from nightproof.base.errors import DeclarationError
from nightproof.declare.chat import ChatService
from nightproof.declare.service import Service

_NOW = re.compile(r"([+-]?)(\d+)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


class GoldenCase(msgspec.Struct, frozen=True):
    """One input with the answer that every worker must give before it may serve."""

    line: int
    input: bytes
    expect: dict[str, Any]
    """Named fields of the output only; numbers within 1e-6."""


def load_service(folder: Path) -> Service | ChatService:
    """Import `folder/service.py` and return its one `Service` or `ChatService`.

    The folder comes first on the import path, so that modules beside service.py can be imported.
    Raises DeclarationError with the place and what to do.
    """
    path = folder / "service.py"
    if not folder.is_dir():
        raise DeclarationError(f"{folder} is not a folder.", hint="Make one with `nightproof new NAME`.")
    if not path.is_file():
        raise DeclarationError(
            f"{folder} has no service.py.",
            hint="Make a folder with `nightproof new NAME`, or name another one.",
        )
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("service", path)
    if spec is None or spec.loader is None:
        raise DeclarationError(f"{path} cannot be imported.", hint="It must be a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["service"] = module
    try:
        spec.loader.exec_module(module)
    except DeclarationError:
        raise
    except Exception as error:
        # Whatever the user's file raises is told with its line; nothing else is known of it.
        raise DeclarationError(
            f"{path} raised {type(error).__name__}: {error}\n{_user_frames(error, folder)}".rstrip(),
            hint="Mend service.py; it must import on its own with `python service.py`.",
        ) from error
    found = {name: value for name, value in vars(module).items() if isinstance(value, Service | ChatService)}
    if len(found) == 1:
        return next(iter(found.values()))
    if "service" in found:
        return found["service"]
    raise DeclarationError(
        f"{path} declares {len(found)} services ({', '.join(found) or 'none'}).",
        hint="Assign exactly one: service = Service(…), or ChatService(…).",
    )


def _user_frames(error: BaseException, folder: Path) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(folder))]
    return "".join(traceback.format_list(frames[-3:]))


def read_golden(folder: Path, now: datetime) -> list[GoldenCase]:
    """Read `golden.jsonl`, with `{"$now": "-1d"}` written out as a time of today. Absent: no cases."""
    path = folder / "golden.jsonl"
    if not path.exists():
        return []
    cases = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            case = strictjson.parse(line)
        except strictjson.JsonRefused as error:
            raise DeclarationError(f"{where}: {error}.", hint="Each line is one JSON object.") from error
        if not (
            isinstance(case, dict) and set(case) == {"input", "expect"} and isinstance(case["expect"], dict)
        ):
            raise DeclarationError(
                f"{where} is not a golden case.",
                hint='A line is {"input": {…}, "expect": {"field": value, …}}.',
            )
        written = msgspec.json.encode(_write_times(case["input"], now, where))
        cases.append(GoldenCase(number, written, case["expect"]))
    return cases


def _write_times(value: Any, now: datetime, where: str) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$now"}:
            return (now + _offset(str(value["$now"]), where)).isoformat()
        return {key: _write_times(inner, now, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_write_times(inner, now, where) for inner in value]
    return value


def _offset(text: str, where: str) -> timedelta:
    if text in ("", "0"):
        return timedelta(0)
    match = _NOW.fullmatch(text)
    if match is None:
        raise DeclarationError(
            f'{where}: "$now" is {text!r}.', hint="Write an offset like -1d, -2h, +30m, -5s or 0."
        )
    seconds = int(match[2]) * _UNIT_S[match[3]]
    return timedelta(seconds=-seconds if match[1] == "-" else seconds)
