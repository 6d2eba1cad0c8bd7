"""The writer's program: take batches from the ledger and make them durable, one after the other.

Runs in its own process or thread, owns the log's one writing connection, and blocks as it likes. While it
commits, the ledger gathers the next batch. Between commits it signs checkpoints, moves SQLite's write-ahead log
into the file, and does what `Do` asks. It never decides what an error means for a caller: it says whether a
batch is certainly not there, or whether nobody can say; after the latter it writes nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nightproof.audit import messages
from nightproof.audit.messages import Channel, ChannelClosed
from nightproof.audit.writer import LogWriter
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError
from nightproof.settings.settings import LedgerSettings
from nightproof.storage.ledger_protocol import LedgerWriting
from nightproof.storage.ledger_rows import Row
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable


class OpenLog(NamedTuple):
    """A log that was opened and judged."""

    writer: LogWriter
    origin: str = ""
    vkey: str = ""


_ASK_AGAIN = 3
OpenWith = Callable[[Callable[[messages.FromWriter], None]], OpenLog]
"""Open the log, given where to tell of each checkpoint. Raises what keeps it shut."""


def write_until_closed(channel: Channel, open_log: OpenWith, settings: LedgerSettings) -> None:
    """Open the log and serve the channel until it closes or the disk fails; then seal and close."""
    try:
        opened = open_log(channel.send)
    except Exception as error:  # noqa: BLE001
        # Whatever keeps the log shut is told to the ledger's `start`, which refuses to serve.
        channel.send(messages.NotOpened(*_told(error)))
        return
    log = opened.writer
    is_sound = True
    try:
        last = log.store.last_checkpoint()
        channel.send(messages.Opened(log.size, opened.origin, opened.vkey, last))
        is_sound = _serve(channel, log, settings)
    except ChannelClosed:
        pass  # the ledger stopped
    finally:
        _close(log, is_sound=is_sound)


def _serve(channel: Channel, log: LogWriter, settings: LedgerSettings) -> bool:
    """Serve until the disk fails; raises ChannelClosed where the ledger stops first."""
    checkpointed_s = monotonic_s()
    unchecked_rows = 0
    while True:
        message = channel.receive(_wait_s(log, settings, unchecked_rows))
        if isinstance(message, messages.Write):
            if not _write(channel, log, message):
                return False
            unchecked_rows += len(message.entries)
        elif isinstance(message, messages.Do):
            if not _do(channel, log.store, message):
                return False
        elif log.seal_due_in_s == 0.0 and not _seal(channel, log):
            return False
        now = monotonic_s()
        due = now - checkpointed_s > settings.checkpoint_every_s
        if unchecked_rows and (due or unchecked_rows > settings.checkpoint_pages):
            checkpointed_s, unchecked_rows = now, 0
            _checkpoint(log)


def _wait_s(log: LogWriter, settings: LedgerSettings, unchecked_rows: int) -> float | None:
    """Return how long to wait for a message before the log itself must be looked after."""
    seal_in_s = log.seal_due_in_s
    if unchecked_rows:
        return (
            settings.checkpoint_every_s if seal_in_s is None else min(seal_in_s, settings.checkpoint_every_s)
        )
    return seal_in_s


def _write(channel: Channel, log: LogWriter, batch: messages.Write) -> bool:
    """Write a batch and tell what became of it; return whether the log may be written after it."""
    try:
        first_seq = _place_of(log, batch.entries[0].row) if batch.is_again else None
        if first_seq is None:
            first_seq = log.write(batch.entries)
    except StorageUnavailable as error:
        channel.send(messages.NotWritten(batch.number, True, error.text))
        return True
    except Exception as error:  # noqa: BLE001
        # Every error has a meaning for the waiters; one that is no StorageUnavailable fences.
        channel.send(messages.NotWritten(batch.number, False, str(error)))
        return False
    channel.send(messages.Written(batch.number, first_seq))
    return True


def _place_of(log: LogWriter, row: Row) -> int | None:
    """Ask where a row is that a writer before may have written; raises StorageOutcomeUnknown where nobody says.

    A log that cannot be asked is no certain no: the row may be there.
    """
    for _ in range(_ASK_AGAIN - 1):
        try:
            return log.place_of(row)
        except StorageUnavailable:
            continue
    try:
        return log.place_of(row)
    except StorageUnavailable as error:
        raise StorageOutcomeUnknown(error.text, hint=error.hint) from error


def _do(channel: Channel, store: LedgerWriting, job: messages.Do) -> bool:
    """Do a job between two commits; return whether the log may be written after it."""
    try:
        value = _ACTS[job.act](store, **job.named)
    except Exception as error:  # noqa: BLE001
        # The one who asked is told, whatever it is; only the disk's own doubt concerns the log.
        channel.send(messages.NotDone(job.number, *_told(error)))
        if isinstance(error, StorageOutcomeUnknown):
            channel.send(messages.Broken(str(error)))
            return False
    else:
        channel.send(messages.Done(job.number, value))
    return True


def _empty_log(store: LedgerWriting) -> bool:
    """Empty the write-ahead log; say whether no reader was in the way."""
    store.checkpoint("truncate")
    return store.wal_bytes() == 0


_ACTS: dict[str, Callable[..., Any]] = {
    "size": lambda store: store.size(),
    "drop_payloads": lambda store, **named: store.drop_payloads(**named),
    "empty_log": _empty_log,
}


def _seal(channel: Channel, log: LogWriter) -> bool:
    """Sign a checkpoint over what no batch has sealed; return whether the log may be written after it."""
    try:
        log.seal()
    except StorageUnavailable:
        return True  # the next batch, or the next time, seals it
    except ChannelClosed:
        raise
    except Exception as error:  # noqa: BLE001
        # As with a batch: what is not a certain no, nobody can judge.
        channel.send(messages.Broken(str(error)))
        return False
    return True


def _checkpoint(log: LogWriter) -> None:
    try:
        log.store.checkpoint("passive")
    except (StorageUnavailable, StorageOutcomeUnknown):
        pass  # the records are safe in the write-ahead log; the next commit meets the fault and tells it


def _close(log: LogWriter, *, is_sound: bool) -> None:
    try:
        if is_sound:
            log.seal()
    except Exception:  # noqa: BLE001, S110
        pass  # the records are there; the next start seals them
    try:
        log.store.close()
    except (StorageUnavailable, StorageOutcomeUnknown):
        pass  # nothing more is owed: every answered entry was durable before


def _told(error: Exception) -> tuple[str, str, str]:
    text, hint = (error.text, error.hint) if isinstance(error, NightproofError) else (str(error), "")
    return type(error).__name__, text, hint
