"""Write records to files that can be checked later: JSON Lines, Parquet or CloudEvents, and a manifest.

Called by `nightproof audit export` with pages of records. Files are written in bounded memory. The manifest names
every file with its SHA-256; the log then records the manifest's own SHA-256, and the proof of that record lies
beside it: whoever has the log's public key can check that these files are what was exported, when and by whom.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import orjson

from nightproof.audit.seal import NoteRefused, Verifier, check_proof_file
from nightproof.base.clock import iso_us
from nightproof.base.errors import NightproofError, SettingError

Format = Literal["jsonl", "parquet", "cloudevents"]
MANIFEST, PROOF = "manifest.json", "manifest.proof"
_TEXTS = ("id", "at", "kind", "service", "release", "caller", "ending", "failure", "leaf", "content")


class Exported(msgspec.Struct, kw_only=True):
    """A record on its way into a file."""

    seq: int
    id: str
    at_us: int
    kind: str
    service: str
    release: str
    caller: str
    ending: str
    failure: str
    leaf: str
    """The leaf's own text: its SHA-256 after a zero byte is what the tree holds."""
    content: Any = None


class Manifest(msgspec.Struct, kw_only=True):
    """What an export holds."""

    form: str = "nightproof export 1"
    origin: str
    made: str
    by: str
    asked: dict[str, Any]
    format: Format
    records: int
    first_seq: int | None
    last_seq: int | None
    files: list[dict[str, Any]]
    """`name`, `sha256`, `bytes`, `records` of each."""


class ExportRefused(NightproofError):
    """An export does not hold."""


class _Sink(Protocol):
    def write(self, records: Sequence[Exported]) -> None: ...
    def close(self) -> None: ...


class Writer:
    """Writes one export into a folder. Use `write` for each page, then `finish`."""

    def __init__(self, folder: Path, form: Format, *, origin: str, by: str, asked: dict[str, Any]) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise SettingError(f"{folder} is not empty.", hint="Name a new folder with -o.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._form = folder, form
        self._origin, self._by, self._asked = origin, by, asked
        self._path = folder / ("records.parquet" if form == "parquet" else "records.jsonl")
        self._sink: _Sink = (
            _Parquet(self._path)
            if form == "parquet"
            else _Lines(self._path, origin, as_events=form == "cloudevents")
        )
        self.count = 0
        self._first: int | None = None
        self._last: int | None = None

    def write(self, records: Sequence[Exported]) -> None:
        """Add a page."""
        if not records:
            return
        self._sink.write(records)
        self.count += len(records)
        seqs = [one.seq for one in records]
        self._first = min(seqs) if self._first is None else min(self._first, *seqs)
        self._last = max(seqs) if self._last is None else max(self._last, *seqs)

    def finish(self, now_us: int) -> str:
        """Close the file and write the manifest; return the manifest's SHA-256 in hex."""
        self._sink.close()
        manifest = Manifest(
            origin=self._origin,
            made=iso_us(now_us),
            by=self._by,
            asked=self._asked,
            format=self._form,
            records=self.count,
            first_seq=self._first,
            last_seq=self._last,
            files=[
                {
                    "name": self._path.name,
                    "sha256": _sha256(self._path),
                    "bytes": self._path.stat().st_size,
                    "records": self.count,
                }
            ],
        )
        content = orjson.dumps(msgspec.to_builtins(manifest), option=orjson.OPT_INDENT_2) + b"\n"
        (self._folder / MANIFEST).write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def attach(self, proof: bytes) -> None:
        """Put the proof that the log recorded this manifest beside it."""
        (self._folder / PROOF).write_bytes(proof)


def check(folder: Path, verifiers: Sequence[Verifier]) -> Manifest:
    """Check an export by the log's public key alone. Raises ExportRefused, naming what does not hold."""
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = msgspec.json.decode(content, type=Manifest)
        proven = check_proof_file((folder / PROOF).read_bytes(), verifiers)
    except OSError as error:
        raise ExportRefused(
            f"{error.filename} cannot be read: {error.strerror}.",
            hint="An export is a folder with all its files.",
        ) from None
    except msgspec.DecodeError:
        raise ExportRefused(f"{folder / MANIFEST} is no manifest.", hint="Get the export again.") from None
    except NoteRefused as error:
        raise ExportRefused(f"{folder / PROOF}: {error.text}", hint=error.hint) from None
    facts = json.loads(proven.leaf)
    if facts.get("manifest_sha256") != hashlib.sha256(content).hexdigest():
        raise ExportRefused(
            "The log recorded another manifest than this one.", hint="It was changed; get it again."
        )
    for file in manifest.files:
        path = folder / Path(str(file["name"])).name
        if not path.is_file() or _sha256(path) != file["sha256"]:
            raise ExportRefused(
                f"{path} is not the file that was exported.", hint="It was changed; get it again."
            )
    return manifest


def event_of(record: Exported, origin: str) -> dict[str, Any]:
    """Return a record as a CloudEvents 1.0 event in its JSON form."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": record.id,
        "source": f"//{origin}",
        "type": f"io.nightproof.audit.{record.kind}.v2",
        "time": iso_us(record.at_us),
        "datacontenttype": "application/json",
        "nightproofseq": record.seq,
        "data": {"leaf": orjson.loads(record.leaf)},
    }
    if record.service:
        event["subject"] = record.service
    if record.content is not None:
        event["data"]["content"] = record.content
    return event


class _Lines:
    """JSON Lines: one record, or one CloudEvents event, a line."""

    def __init__(self, path: Path, origin: str, *, as_events: bool) -> None:
        self._file = path.open("xb")
        self._origin = origin
        self._as_events = as_events

    def write(self, records: Sequence[Exported]) -> None:
        for record in records:
            told = event_of(record, self._origin) if self._as_events else msgspec.to_builtins(record)
            self._file.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Parquet: one row a record, leaf and content as JSON texts."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise SettingError(
                "Parquet needs pyarrow, which is not installed.", hint="pip install 'nightproof[parquet]'"
            ) from None
        self._arrow = pyarrow
        self._schema = pyarrow.schema(
            [
                ("seq", pyarrow.int64()),
                ("at_us", pyarrow.int64()),
                *((name, pyarrow.string()) for name in _TEXTS),
            ]
        )
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema)

    def write(self, records: Sequence[Exported]) -> None:
        rows = [
            {
                **msgspec.to_builtins(record),
                "at": iso_us(record.at_us),
                "content": None if record.content is None else orjson.dumps(record.content).decode(),
            }
            for record in records
        ]
        self._writer.write_table(self._arrow.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
