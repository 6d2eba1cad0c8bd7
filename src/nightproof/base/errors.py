"""What our own code raises.

All descend from `NightproofError` and name an entry of the failure catalogue. `Fault` ends one
request; `Refusal` is our deliberate no. `DeclarationError` is for the engineer at his desk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field; never carries the caller's values."""

    pointer: str
    """JSON pointer (RFC 6901) to the field; empty for the whole record."""
    detail: str
    kind: str = "other"


class NightproofError(Exception):
    """The root of all our errors: what happened, to which thing, and what to do."""

    hint: str = ""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        if hint:
            self.hint = hint

    def __str__(self) -> str:
        return f"{self.text} {self.hint}".strip()


class Fault(NightproofError):
    """Ends one request, under a name of the failure catalogue."""

    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        text: str,
        *,
        failure: str = "",
        hint: str = "",
        status: int = 0,
        errors: Sequence[FieldError] = (),
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(text, hint=hint)
        self.failure = failure or self.code
        self.status = status
        """One of the catalogue's statuses where it lists several; 0 takes the first."""
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class Refusal(Fault):
    """Our deliberate no: the request was understood, and is not served."""

    code: ClassVar[str] = "invalid_input"


class DeclarationError(NightproofError):
    """A service folder says something that cannot be served; the text says where, the hint what to do."""


class SettingError(NightproofError):
    """A setting is unknown, of the wrong form, or outside its bounds."""


class StateError(NightproofError):
    """The state folder cannot be used: taken by another server, not writable, or on a file system that lies."""

    exit_code: ClassVar[int] = 1
    """What the program that meets it ends with; after sysexits where a supervisor should know the kind."""


def error_named(kind: str, text: str, hint: str) -> NightproofError:
    """Return an error of ours by the name of its class, as another of our processes told it."""
    kinds: list[type[NightproofError]] = [NightproofError]
    while kinds:
        one = kinds.pop()
        if one.__name__ == kind:
            return one(text, hint=hint)
        kinds += one.__subclasses__()
    return NightproofError(text, hint=hint)
