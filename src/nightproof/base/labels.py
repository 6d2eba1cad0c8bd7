"""Labels as they are handed on: asked for, and what became of them. Plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from nightproof.base.errors import FieldError

Became = Literal["counted", "held", "duplicate", "refused"]


class GivenLabel(msgspec.Struct, frozen=True):
    """What a caller says the right answer was."""

    request: str
    item: int
    label: dict[str, Any]


class LabelOutcome(msgspec.Struct, frozen=True):
    """What became of one label."""

    became: Became
    failure: str = ""
    detail: str = ""
    errors: Sequence[FieldError] = ()
    subject: bytes = b""
