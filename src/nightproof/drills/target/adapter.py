"""What must be known of a server to drill it from outside: an adapter, written in TOML or JSON, or built in.

It says how a good request is made, what a good answer is, where the health paths are, and, where the model can be told
to, which records make it slow, hang, crash or talk nonsense. `docs/drills.md` has the form; nothing here asks a server.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nightproof.base.errors import SettingError

Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600)]
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the adapter: a word that is not known is a mistake, and is told."""


class RequestForm(_Part, frozen=True, kw_only=True):
    """How the server is asked."""

    path: str
    """Where; `/`-led, below the target's own path."""
    method: str = "POST"
    headers: dict[str, str] = {}
    """`${NAME}` stands for a variable of the environment: keys do not belong into files."""
    good: list[Any] = []
    """Bodies that are answered on a good day, as JSON."""


class AnswerForm(_Part, frozen=True, kw_only=True):
    """What a good answer is."""

    status: tuple[Status, ...] = (200,)
    has: list[str] = []
    """JSON pointers to what must be in it; numbers there must be finite, and null is none."""
    same: bool = True
    """The same body is answered the same: an answer that differs is counted as wrong."""


class HealthForm(_Part, frozen=True, kw_only=True):
    """Where the server says how it is; of several paths the first that answers 2xx on a good day counts."""

    live: list[str] = []
    ready: list[str] = []
    ready_honest_within_s: Seconds = 10.0
    """How long readiness may say yes while nobody is answered: being taken out of rotation costs nothing."""
    live_honest_within_s: Seconds = 30.0
    """The same of liveness, which ends the server, so that it may take longer."""


class DeadlineForm(_Part, frozen=True, kw_only=True):
    """How long a caller waits at most."""

    ms: Annotated[int, msgspec.Meta(ge=50, le=600_000)] = 2_000
    header: str = ""
    """The header by which a caller asks for a shorter one, in milliseconds."""


class Records(_Part, frozen=True, kw_only=True):
    """Bodies that make the model misbehave, each a list; empty where it cannot be told to."""

    slow: list[Any] = []
    """Takes real work: what overload is made of."""
    hang: list[Any] = []
    crash: list[Any] = []
    nonsense: list[Any] = []
    """The model's answer to it is none, such as NaN."""


class Adapter(_Part, frozen=True, kw_only=True):
    """All that is known of a server."""

    name: str
    request: RequestForm
    answer: AnswerForm = AnswerForm()
    health: HealthForm = HealthForm()
    deadline: DeadlineForm = DeadlineForm()
    records: Records = Records()
    crash_command: str = ""
    """A shell command that kills the server's model or the server; what starts it again is its supervisor's work."""

    recover_within_s: Seconds = 15.0
    """How soon after a fault it must be as before."""

    @property
    def deadline_s(self) -> float:
        """How long a caller waits at most."""
        return self.deadline.ms / 1_000


def read_adapter(path: Path) -> Adapter:
    """Read an adapter from a TOML or JSON file. Raises SettingError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"There is no adapter {path}: {error}.", hint="Name a file, or one that is built in: oip, openai."
        ) from error
    try:
        told = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return checked(msgspec.convert(told, Adapter))
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingError(
            f"{path} is no adapter: {error}.", hint="docs/drills.md describes its form."
        ) from error


def checked(adapter: Adapter) -> Adapter:
    """Return the adapter if it can be used. Raises SettingError."""
    request = adapter.request
    trouble = ""
    if not request.good:
        trouble = "request.good holds no body, so nobody knows what to ask"
    for path in (request.path, *adapter.health.live, *adapter.health.ready, *adapter.answer.has):
        if not path.startswith("/") or any(sign.isspace() for sign in path):
            trouble = f"{path!r} does not begin with / or has a space"
    if request.method not in ("POST", "PUT"):
        trouble = f"request.method {request.method!r} is none of POST, PUT"
    for name, value in request.headers.items():
        if not _HEADER.fullmatch(name) or any(sign in value for sign in "\r\n"):
            trouble = f"the header {name!r} is none"
    if trouble:
        raise SettingError(
            f"The adapter {adapter.name!r} cannot be used: {trouble}.", hint="See docs/drills.md."
        )
    return adapter


def filled_in(headers: Mapping[str, str], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Put the environment's values in place of `${NAME}`. Raises SettingError where one is not set."""
    known = os.environ if environment is None else environment

    def value_of(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise SettingError(
                f"The adapter wants the variable {found[1]}, which is not set.", hint=f"export {found[1]}=…"
            )
        return known[found[1]]

    return {name: _VARIABLE.sub(value_of, value) for name, value in headers.items()}


def lacks(answer: object, pointers: list[str]) -> str:
    """Say what a good answer has and this one has not; empty where it has all. Pure."""
    for pointer in pointers:
        found, is_there = _at(answer, pointer)
        if not is_there or found is None:
            return f"no {pointer}"
        if not _is_finite(found):
            return f"{pointer} is not finite"
    return ""


def picked(answer: object, pointers: list[str]) -> list[object]:
    """Return what stands at these places: what an answer says, without ids and times."""
    return [_at(answer, pointer)[0] for pointer in pointers]


def _at(value: object, pointer: str) -> tuple[object, bool]:
    for word in pointer.split("/")[1:]:
        word = word.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and word in value:
            value = value[word]
        elif isinstance(value, list) and word.isdigit() and int(word) < len(value):
            value = value[int(word)]
        else:
            return None, False
    return value, True


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(_is_finite(one) and one is not None for one in value)
    return True
