"""Give the log's checkpoints to a witness, and hold the log to what its witnesses have seen.

A witness is a folder or a C2SP tlog-witness over HTTPS; the file `checkpoint.note` beside the log is the nearest
one. Promises: a log that is smaller than a checkpoint anyone holds, or differs from it, is not opened for writing;
a witness that does not answer never holds up a request. Redirects are not followed, answers are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from nightproof.audit.seal import NoteRefused, Verifier, add_checkpoint_body, parse_checkpoint
from nightproof.audit.tree import TreeBroken, consistency_proof, root_at
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import SettingError, StateError
from nightproof.settings.settings import WitnessSettings
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import Checkpoint
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.witness_folder import WitnessConflict, WitnessFolder

if TYPE_CHECKING:
    import httpx

_WITHIN_S = 10.0
_MOST_ANSWER_BYTES = 65_536
_BACKOFF_MOST_S = 300.0


class AuditRolledBack(StateError):
    """The log is smaller than a checkpoint that was signed over it, or is another one."""

    exit_code = 78  # EX_CONFIG: starting again does not help


class WitnessRefused(StateError):
    """The witness says that our checkpoint does not continue what it has seen."""


class WitnessSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How far the witness is."""

    is_set: bool
    size: int
    """Entries of the log that the witness has seen."""
    age_s: float
    """Seconds since it took a checkpoint, or since the start; 0 where nothing newer is there to take."""
    why: str
    """What kept it from taking the last one."""
    is_refused: bool


def check_anchors(store: LedgerReading, vkey: str, state: StateFolder, settings: WitnessSettings) -> None:
    """Hold the log to every checkpoint that is at hand outside it. Raises AuditRolledBack.

    A witness over HTTPS is asked when the first checkpoint is given to it, not here: a start must not wait for it.
    """
    verifiers = [Verifier(vkey)]
    if state.anchor.exists():
        _hold_to(store, state.anchor.read_bytes(), verifiers, str(state.anchor))
    if settings.folder is not None:
        try:
            newest = WitnessFolder(settings.folder).newest()
        except StateError:
            return  # not mounted yet: the witness shows as late, and is asked again with the next checkpoint
        if newest is not None:
            _hold_to(store, newest, verifiers, str(settings.folder))


def _hold_to(store: LedgerReading, note: bytes, verifiers: list[Verifier], where: str) -> None:
    try:
        anchor = parse_checkpoint(note, verifiers)
    except NoteRefused as error:
        raise AuditRolledBack(
            f"The checkpoint in {where} does not hold: {error.text}",
            hint="It was changed, or belongs to another log; see the runbook audit_rolled_back.",
        ) from error
    size = store.size()
    if size < anchor.size:
        raise AuditRolledBack(
            f"The log has {size} entries, and {where} holds a checkpoint over {anchor.size}.",
            hint="It was cut off or replaced by an older copy. Do not start on it; see the runbook audit_rolled_back.",
        )
    try:
        root = root_at(store, anchor.size)
    except TreeBroken:
        root = b""
    if root != anchor.root:
        raise AuditRolledBack(
            f"The first {anchor.size} entries of the log are not those over which {where} holds a checkpoint.",
            hint="Run `nightproof audit verify` to find the first bad record; see the runbook audit_rolled_back.",
        )


class Witness:
    """Gives the newest checkpoint to the folder and the address that are set. Runs on the event loop."""

    def __init__(
        self,
        settings: WitnessSettings,
        *,
        newest: Callable[[], Checkpoint | None],
        reader: Callable[[], LedgerReading],
        vkey: Callable[[], str],
        on_refused: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._settings = settings
        self._newest = newest
        self._reader = reader
        self._vkey = vkey
        self._on_refused = on_refused
        self._folder = WitnessFolder(settings.folder) if settings.folder is not None else None
        self._verifiers = [Verifier(settings.vkey)] if settings.vkey else []
        if settings.url:
            _refuse_open_address(settings.url)
        self._is_folder_held_to = False
        self._size = 0
        self._url_size = 0
        self._taken_s = monotonic_s()
        self._why = ""
        self._is_refused = False
        self._pause_s = settings.every_s

    @property
    def is_set(self) -> bool:
        """Say whether any witness is set."""
        return self._folder is not None or bool(self._settings.url)

    @property
    def pause_s(self) -> float:
        """How long to wait before the next time: longer and longer while the witness does not take it."""
        return self._pause_s

    async def give(self) -> None:
        """Give the newest checkpoint now, if the witness has not seen it. Never raises for what the witness does."""
        checkpoint = self._newest()
        if not self.is_set or checkpoint is None:
            return
        if checkpoint.size <= self._size and not self._why:
            self._taken_s = monotonic_s()  # it has all there is
            return
        import httpx  # not for the process that writes the log, which reads this module for its checks

        try:
            if self._folder is not None:
                await asyncio.to_thread(self._keep_in, self._folder, checkpoint)
            if self._settings.url:
                checkpoint = await self._post(checkpoint)
        except (WitnessRefused, WitnessConflict, AuditRolledBack) as error:
            self._failed(error.text)
            if not self._is_refused:
                self._is_refused = True
                self._on_refused(error.text)
        except (StateError, NoteRefused, StorageUnavailable, StorageOutcomeUnknown) as error:
            self._failed(error.text)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            self._failed(f"the witness did not answer ({type(error).__name__})")
        else:
            self._size, self._taken_s = checkpoint.size, monotonic_s()
            self._why, self._is_refused, self._pause_s = "", False, self._settings.every_s

    def snapshot(self) -> WitnessSnapshot:
        """Return a frozen picture."""
        return WitnessSnapshot(
            is_set=self.is_set,
            size=self._size,
            age_s=monotonic_s() - self._taken_s,
            why=self._why,
            is_refused=self._is_refused,
        )

    @property
    def is_late(self) -> bool:
        """Say whether the last checkpoint that a witness took is older than it may be."""
        return self.is_set and monotonic_s() - self._taken_s > self._settings.late_after_s

    def _failed(self, why: str) -> None:
        self._why = why
        self._is_folder_held_to = False  # what is mounted there next may be another log's
        self._pause_s = min(max(self._pause_s * 2, self._settings.every_s), _BACKOFF_MOST_S)

    def _keep_in(self, folder: WitnessFolder, checkpoint: Checkpoint) -> None:
        """Add to the folder; hold the log first to what is there, since it may not have been mounted at the start."""
        if not self._is_folder_held_to:
            seen = folder.newest()
            if seen is not None:
                reader = self._reader()
                try:
                    _hold_to(reader, seen, [Verifier(self._vkey())], str(folder.path))
                finally:
                    reader.close()
        folder.keep(checkpoint.size, checkpoint.note)
        # Not before: a folder that takes nothing yet has shown nothing of what will be there once it is mounted.
        self._is_folder_held_to = True

    async def _post(self, checkpoint: Checkpoint) -> Checkpoint:
        """Send the checkpoint with its consistency proof; return which one the witness took.

        A witness that knows another size says which. Another gateway on the same log may have given it more than
        this one has signed: then the log's own newest checkpoint is sent.
        """
        import httpx

        async with httpx.AsyncClient(timeout=_WITHIN_S, follow_redirects=False) as client:
            for _ in range(3):
                body = await asyncio.to_thread(self._body, checkpoint)
                async with client.stream("POST", self._settings.url, content=body) as answer:
                    text = await _bounded(answer)
                if answer.status_code != httpx.codes.CONFLICT:
                    break
                told = _size_told(text)
                if told > checkpoint.size:
                    checkpoint = await asyncio.to_thread(self._newest_of_all, told)
                self._url_size = told
        if answer.status_code in (403, 404, 409, 422):
            raise WitnessRefused(f"The witness refused the checkpoint with status {answer.status_code}.")
        if not answer.is_success:
            raise StateError(f"the witness answered with status {answer.status_code}")
        if self._verifiers:
            cosigned = checkpoint.note + text.encode()
            parse_checkpoint(cosigned, self._verifiers)  # raises where its cosignature is not there or wrong
        self._url_size = checkpoint.size
        return checkpoint

    def _newest_of_all(self, seen: int) -> Checkpoint:
        """Return the log's newest checkpoint, whoever signed it. Raises WitnessRefused where it covers too few."""
        reader = self._reader()
        try:
            found = reader.last_checkpoint()
        finally:
            reader.close()
        if found is None or found.size < seen:
            has = found.size if found is not None else 0
            raise WitnessRefused(f"The witness has seen {seen} entries, and {has} of the log are signed.")
        return found

    def _body(self, checkpoint: Checkpoint) -> bytes:
        reader = self._reader()
        try:
            proof = consistency_proof(reader, self._url_size, checkpoint.size)
            return add_checkpoint_body(self._url_size, proof, checkpoint.note)
        finally:
            reader.close()

    def __repr__(self) -> str:
        return f"<Witness size={self._size} {self._why}>"


async def _bounded(answer: httpx.Response) -> str:
    content = b""
    async for piece in answer.aiter_bytes():
        content += piece
        if len(content) > _MOST_ANSWER_BYTES:
            raise StateError("the witness's answer has no end")
    return content.decode("utf-8", "replace")


def _size_told(text: str) -> int:
    number = text.strip()
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise StateError("the witness named no size with its conflict")
    return int(number)


def _refuse_open_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    try:
        is_near = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        is_near = False
    if parts.scheme != "http" or not is_near:
        raise SettingError(
            "witness.url is no https:// address.",
            hint="Plain http:// is taken on this machine's loopback only.",
        )
