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
    """Log one event with its facts: names, numbers and our own words only."""
    getattr(structlog.get_logger(), level)(event, **named)


def log_unexpected(error: BaseException, *, request_id: str = "", service: str = "") -> None:
    """Log an exception that nobody expected: its type and where it arose, not its text, which may hold data."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    log(
        "internal_error",
        level="error",
        request_id=request_id,
        service=service,
        error=type(error).__name__,
        at=[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    )
