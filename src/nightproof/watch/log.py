"""Structured logs: JSON in production, readable on a terminal. Never a caller's data, never a secret."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up(form: Literal["auto", "json", "text"], level: str) -> None:
    """Configure logging of this process, to standard error. `auto` is text on a terminal, else JSON."""
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if as_text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it would log callers' bytes


def log(event: str, *, level: str = "info", **named: Any) -> None:
    """Log one event with its facts: names, numbers and our own words only.

    A log that cannot be written (its disk is full, its reader is gone) keeps nobody from his answer.
    """
    try:
        getattr(structlog.get_logger(), level)(event, **named)
    except (OSError, ValueError):
        pass  # there is no other place to tell it; metrics and the ledger have the event's effect


class Sparing:
    """Log an event at most once a second for each of its kinds, with the number that were left out."""

    def __init__(self, *, most_kinds: int = 1_000) -> None:
        self._most_kinds = most_kinds
        self._said: dict[tuple[str, ...], tuple[float, int]] = {}

    def log(self, event: str, kind: tuple[str, ...], *, now: float, **named: Any) -> None:
        """Log the event, or count it into the next one of its kind."""
        said_s, left_out = self._said.get(kind, (0.0, 0))
        if now - said_s < 1.0:
            self._said[kind] = (said_s, left_out + 1)
            return
        if len(self._said) >= self._most_kinds:
            self._said.clear()
        self._said[kind] = (now, 0)
        log(event, level="warning", left_out=left_out, **named)


def log_unexpected(error: BaseException, *, request_id: str = "", service: str = "", doing: str = "") -> None:
    """Log an exception that nobody expected: its type and where it arose, not its text, which may hold data.

    `doing` names what was done, where it was no request.
    """
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    log(
        "internal_error",
        level="error",
        request_id=request_id,
        service=service,
        **({"doing": doing} if doing else {}),
        error=type(error).__name__,
        at=[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    )
