"""Read a stream of server-sent events, as bytes come: strict about the form, bounded in what it keeps.

Called by `client.py`. Line ends may be LF, CRLF or CR, and a chunk may end anywhere, in the middle of a character too.
What an event means is not known here. Never waits.

>>> reader = SseReader()
>>> reader.feed(b'data: {"a"'), reader.feed(b': 1}' + bytes([13, 10, 13])), reader.feed(bytes([10]))
([], [b'{"a": 1}'], [])
"""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
_IGNORED = frozenset({b"event", b"id", b"retry"})

MOST_LINE_BYTES = 1 << 20


class MalformedStream(Exception):
    """The bytes are no stream of events; the text says how, in our words."""


class SseReader:
    """Splits bytes into events and returns the data of each."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_data_bytes", "_most_bytes", "_open", "_open_bytes")

    def __init__(self, most_line_bytes: int = MOST_LINE_BYTES) -> None:
        self._most_bytes = most_line_bytes
        self._open: list[bytes] = []
        """Pieces of a line whose end has not come."""
        self._open_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """Take what has come; return the data of the events that are whole. Raises MalformedStream."""
        if self._after_cr:
            self._after_cr = False
            if piece.startswith(b"\n"):
                piece = piece[1:]
        if b"\r" in piece:
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in piece:
            self._keep_open(piece)
            return []
        lines = piece.split(b"\n")
        last = lines.pop()
        if self._open:
            self._keep_open(lines[0])
            lines[0] = b"".join(self._open)
            self._open.clear()
            self._open_bytes = 0
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[bytes] = []
        for line in lines:
            if line:
                self._take_line(line)
            elif self._data:
                event = self._event()
                if event:
                    events.append(event)
        self._keep_open(last)
        return events

    def end(self) -> bytes | None:
        """Return the data of an event that lacks only its blank line, where the stream ends; None if there is none."""
        if self._open:
            raise MalformedStream("it ends in the middle of a line")
        return self._event() if self._data else None

    def _keep_open(self, piece: bytes) -> None:
        if piece:
            self._open.append(piece)
            self._open_bytes += len(piece)
            self._hold_to_most(self._open_bytes)

    def _take_line(self, line: bytes) -> None:
        self._hold_to_most(len(line))
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value[1:] if value[:1] == b" " else value
            self._data.append(value)
            self._data_bytes += len(value) + 1
            self._hold_to_most(self._data_bytes)
        elif name and name not in _IGNORED:
            raise MalformedStream("a line is no field of an event")

    def _event(self) -> bytes:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._data_bytes = 0
        if not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                raise MalformedStream("it is not UTF-8") from None
        return data

    def _hold_to_most(self, size_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            raise MalformedStream(f"a line or an event is beyond {self._most_bytes} bytes")
