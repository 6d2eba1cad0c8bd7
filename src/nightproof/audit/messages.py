"""What the ledger and the writer of its log tell each other, and the way that it goes.

The writer runs in a process of its own beside the server (`ProcessLink` in `links.py`), or in a thread for an
operator's verb and in tests (`ThreadLink`). Either way it is the same words: values, never code, never a key in
the clear but in `Open`, which goes over a socket that no other process holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from nightproof.audit.record import Entry
from nightproof.storage.ledger_rows import Checkpoint

Act = Literal["size", "drop_payloads", "empty_log"]


class Open(msgspec.Struct, array_like=True, tag=1):
    """Open the log; answered by `Opened` or `NotOpened`."""

    settings: bytes
    """As JSON."""
    master: bytes
    """The master key of the vault."""

    def __repr__(self) -> str:
        return "<Open>"


class Write(msgspec.Struct, array_like=True, tag=2):
    """Make these entries durable, their keys first; answered by `Written` or `NotWritten`."""

    number: int
    entries: list[Entry]
    is_again: bool = False
    """A writer before may have written them: look first."""


class Do(msgspec.Struct, array_like=True, tag=3):
    """Do this between two commits; answered by `Done` or `NotDone`."""

    number: int
    act: Act
    named: dict[str, Any] = {}


class Opened(msgspec.Struct, array_like=True, tag=11):
    """The log is open, and may be written."""

    size: int
    origin: str
    vkey: str
    checkpoint: Checkpoint | None


class NotOpened(msgspec.Struct, array_like=True, tag=12):
    """The log must not be written, or cannot be opened."""

    kind: str
    """Name of the error's class."""
    text: str
    hint: str


class Written(msgspec.Struct, array_like=True, tag=13):
    """The rows are durable."""

    number: int
    first_seq: int


class NotWritten(msgspec.Struct, array_like=True, tag=14):
    """The rows are not there, for certain; or nobody can say, and the writer has ended."""

    number: int
    is_certain: bool
    why: str


class Done(msgspec.Struct, array_like=True, tag=15):
    """What `Do` gave."""

    number: int
    value: Any


class NotDone(msgspec.Struct, array_like=True, tag=16):
    """What `Do` raised."""

    number: int
    kind: str
    text: str
    hint: str


class Sealed(msgspec.Struct, array_like=True, tag=17):
    """A checkpoint was signed and is durable in the log."""

    checkpoint: Checkpoint


class Broken(msgspec.Struct, array_like=True, tag=18):
    """The disk failed outside a batch in a way that nobody can judge; the writer has ended."""

    why: str


ToWriter = Open | Write | Do
FromWriter = Opened | NotOpened | Written | NotWritten | Done | NotDone | Sealed | Broken

encode = msgspec.msgpack.Encoder().encode
to_writer = msgspec.msgpack.Decoder(ToWriter)
from_writer = msgspec.msgpack.Decoder(FromWriter)


class ChannelClosed(Exception):
    """The ledger wants nothing more."""


class Channel(Protocol):
    """The way as the writer sees it. It blocks."""

    def receive(self, timeout_s: float | None) -> ToWriter | None:
        """Return the next message; None when the time is up. Raises ChannelClosed at the end."""

    def send(self, message: FromWriter) -> None:
        """Tell the ledger. Raises ChannelClosed where nobody is left to be told."""


class Link(Protocol):
    """The way as the ledger sees it, on the event loop."""

    def start(self, heard: Callable[[FromWriter], None], lost: Callable[[str], None]) -> None:
        """Start a writer. `heard` gets what it says; `lost` that it is gone, with the cause, and only then.

        After `lost` another may be started. Raises OSError where the system has no room.
        """

    def send(self, message: ToWriter) -> None:
        """Tell the writer; dropped where it is gone, since `lost` tells that."""

    async def stop(self, within_s: float) -> None:
        """Let the writer seal and close; end it, if need be and if it can be ended, when the time is up."""

    @property
    def pid(self) -> int:
        """The process that writes; 0 where there is none."""
