"""What the server and the drift child say to each other: msgpack in frames. No numpy here."""

from __future__ import annotations

from typing import Any

import msgspec

from nightproof.base.frames import framed
from nightproof.watch.drift.detector import Alarm, Rules, SignalReport


class Row(msgspec.Struct, array_like=True):
    """One answered record."""

    input: bytes
    output: bytes = b""
    """Empty where the release itself gave no answer that left."""
    findings: list[str] = []
    caller: str = ""
    subject: bytes = b""


class Release(msgspec.Struct, frozen=True):
    """What is to be watched."""

    service: str
    digest: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    checks: list[str] = []
    is_chat: bool = False
    """Its rows are chats, as `prompts` makes them, and its reference is of prompts."""


class Build(msgspec.Struct, array_like=True, tag=1):
    """Read the reference of this release and say which rows the release should answer: `Drafted`, or `NoProfile`."""

    release: Release
    folder: str
    most_answers: int
    block_rows: int


class Finish(msgspec.Struct, array_like=True, tag=2):
    """Here are the answers, in the order of the rows drafted; make the profile: `Built`."""

    outputs: list[bytes]
    findings: list[list[str]]
    made_us: int


class Watch(msgspec.Struct, array_like=True, tag=3):
    """Watch this release from now on, by this profile; without one learn it from the first rows."""

    release: Release
    rules: Rules
    profile: bytes
    state: bytes
    learn_rows: int
    caller_rows: int


class Rows(msgspec.Struct, array_like=True, tag=4):
    """A sample of what was answered since the last time."""

    service: str
    digest: str
    rows: list[Row]
    elapsed_s: float
    now_us: int


class Forget(msgspec.Struct, array_like=True, tag=5):
    """Watch this service no longer."""

    service: str


class Drafted(msgspec.Struct, array_like=True, tag=11):
    """Rows of the reference for the release to answer."""

    inputs: list[bytes]


class NoProfile(msgspec.Struct, array_like=True, tag=12):
    """No profile can be made, and why."""

    why: str


class Built(msgspec.Struct, array_like=True, tag=13):
    """The profile, encoded."""

    service: str
    digest: str
    profile: bytes


class Example(msgspec.Struct, array_like=True):
    """A record that shows what moved."""

    signal: str
    cell: str
    input: bytes
    subject: bytes = b""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a release is held against."""

    origin: str
    """reference, live, or learning."""
    rows: int
    answered_rows: int = 0
    seasons: str = "none"
    made_us: int = 0
    signals: int = 0
    not_watched: dict[str, str] = {}


class Told(msgspec.Struct, kw_only=True):
    """How a service stands."""

    service: str
    digest: str
    about: About
    rows: int = 0
    """Taken in since the watching began."""
    filling: int = 0
    """Of the window that is not complete."""
    windows: int = 0
    windows_judged: list[tuple[int, int, float]] = []
    """Per scale: rows of its last window, windows so far, evidence for drift; at 1 it alarms."""
    alarms: int = 0
    alarm: Alarm | None = None
    raised: bool = False
    """The alarm is new."""
    report: list[SignalReport] = []
    window_began_us: int = 0
    window_ended_us: int = 0
    examples: list[Example] = []
    state: bytes = b""
    skipped: int = 0


ToChild = Build | Finish | Watch | Rows | Forget
FromChild = Drafted | NoProfile | Built | Told
_encoder = msgspec.msgpack.Encoder()
to_child = msgspec.msgpack.Decoder(ToChild)


class _Envelope(msgspec.Struct, array_like=True, tag=20):
    """A told story among array-like messages."""

    told: Told


FromChildFrame = Drafted | NoProfile | Built | _Envelope
_from_child = msgspec.msgpack.Decoder(FromChildFrame)


def frame(message: ToChild | FromChild) -> bytes:
    """Encode one message with its length in front."""
    return framed(_encoder.encode(_Envelope(message) if isinstance(message, Told) else message))


def read_from_child(body: bytes) -> FromChild:
    """Decode what the child said."""
    message = _from_child.decode(body)
    return message.told if isinstance(message, _Envelope) else message
