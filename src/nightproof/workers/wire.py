"""Messages between the server and a worker, in frames of msgpack. Code and text travel, never pickles."""

from __future__ import annotations

import msgspec

from nightproof.base.errors import FieldError
from nightproof.base.frames import framed
from nightproof.declare.describe import Description


class Load(msgspec.Struct, array_like=True, tag=1):
    """Load the service from this folder; answer `Loaded` or `LoadFailed`."""

    folder: str
    output_most_bytes: int
    digest: str = ""
    """What the folder's files must come to, checked before a line of them runs; empty: not a release."""
    versions: dict[str, str] = {}
    """What the release was made with; another Python or framework is refused before a line of it runs."""


class Run(msgspec.Struct, array_like=True, tag=2):
    """Answer these records; `rule` ≥ 0 asks a fallback rule in place of the model."""

    batch: int
    items: list[bytes]
    rule: int = -1


class Ping(msgspec.Struct, array_like=True, tag=3):
    """Say that you live; with `golden`, answer the golden cases again first."""

    number: int
    golden: bool = False


class Described(msgspec.Struct, array_like=True, tag=11):
    """The service's declaration as data, sent before the model is loaded."""

    description: Description


class Loaded(msgspec.Struct, array_like=True, tag=12):
    """The model is loaded and all golden cases hold."""

    golden_cases: int
    versions: dict[str, str]


class LoadFailed(msgspec.Struct, array_like=True, tag=13):
    """The release cannot be served; the text is for the engineer."""

    failure: str
    text: str
    hint: str = ""


class Answer(msgspec.Struct, array_like=True):
    """One record's answer: an output, or a failure's name with its errors."""

    output: bytes = b""
    failure: str = ""
    detail: str = ""
    errors: list[FieldError] = []
    findings: list[str] = []


class Done(msgspec.Struct, array_like=True, tag=14):
    """The answers of a batch, in order; `alone` asks that each record be tried by itself."""

    batch: int
    answers: list[Answer]
    predict_us: int
    alone: bool = False


class Pong(msgspec.Struct, array_like=True, tag=15):
    """The worker lives; `trouble` names the golden case that no longer holds."""

    number: int
    trouble: str = ""


ToWorker = Load | Run | Ping
FromWorker = Described | Loaded | LoadFailed | Done | Pong

_encoder = msgspec.msgpack.Encoder()
to_worker = msgspec.msgpack.Decoder(ToWorker)
from_worker = msgspec.msgpack.Decoder(FromWorker)


def frame(message: ToWorker | FromWorker) -> bytes:
    """Encode one message as a frame."""
    return framed(_encoder.encode(message))
