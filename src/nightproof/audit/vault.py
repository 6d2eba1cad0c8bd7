"""The vault: content sealed under keys that can be destroyed one by one.

Three levels: the master key wraps keys of keys (epochs) and secrets, an epoch wraps data keys, a data key seals
content. Content about one person is sealed under that person's key of the month, other content under its
caller's key of the day; content about several persons under a key derived from all of theirs, so that erasing
any one of them closes it. `seal` does no I/O: a key that is not at hand is drawn anew and given to the caller of
`seal`, who has it kept before the content is. Content and keys are in no error and no repr.

Form of a payload, for those who write a reader: the bytes `NPV1`, then MessagePack: a list of parts, each
`[name, [kid, …], nonce, box]`. `box` is a 16-byte key check (HMAC-SHA-256 of the key over "check", cut) and the
AES-256-GCM text of the content under the 12-byte nonce. The additional data is `kind NUL id NUL name NUL` and the
kids. With several kids the key is HMAC-SHA-256 over their keys in that order, under the text "several".
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nightproof.base.clock import utc_us
from nightproof.base.errors import StateError
from nightproof.storage.master_key import VaultLocked
from nightproof.storage.vault_store import Epoch, VaultStoring, WrappedKey

_MAGIC: Final = b"NPV1"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_CHECK_BYTES = 16
_KID_BYTES = 8
_SUBJECT_BYTES = 16
_DAY_US: Final = 86_400_000_000
_MONTH_US: Final = 30 * _DAY_US
_MOST_CACHED = 10_000
_MOST_MESSAGES = 1 << 28
"""Under one key with random nonces; NIST SP 800-38D allows 2^32."""
_NONCES_AT_ONCE = 256

Scope = tuple[str, str | bytes, int]


class Part(msgspec.Struct, frozen=True):
    """A piece of content, and the people whom it is about."""

    name: str
    content: bytes
    subjects: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"<Part {self.name} of {len(self.content)} bytes>"


class Sealed(msgspec.Struct, frozen=True):
    """Content as it is stored, and the keys that must be kept before it is."""

    payload: bytes
    new_keys: tuple[WrappedKey, ...] = ()


class Opened(msgspec.Struct, frozen=True):
    """Content in the clear, by part; None where it cannot be had any more."""

    parts: dict[str, bytes | None]
    erased: bool = False
    """A key that is needed is gone from the vault."""
    unreadable: bool = False
    """A key or the content itself is damaged."""

    def __repr__(self) -> str:
        return f"<Opened {', '.join(self.parts)}>"


class _Stored(msgspec.Struct, array_like=True):
    name: str
    kids: list[bytes]
    nonce: bytes
    box: bytes


class _DataKey:
    """A data key in the clear, with what sealing needs made ready."""

    __slots__ = ("box", "check", "is_kept", "key", "kid", "messages", "wrapped")

    def __init__(self, kid: bytes, key: bytes, wrapped: WrappedKey) -> None:
        self.kid = kid
        self.key = key
        self.box = AESGCM(key)
        self.check = _check_of(key)
        self.wrapped = wrapped
        self.is_kept = False
        self.messages = 0

    def __repr__(self) -> str:
        return f"<DataKey {self.kid.hex()}>"


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(list[_Stored])


class _Sealer:
    """Seals for one thread: the data keys in use, and nonces drawn in advance."""

    def __init__(self, store: VaultStoring, epochs: dict[int, AESGCM]) -> None:
        self._store = store
        self._epochs = epochs
        self._in_use: dict[Scope, _DataKey] = {}
        self.unkept: dict[bytes, _DataKey] = {}
        """Drawn, and not yet durable."""
        self._nonces = b""
        self._nonce_at = 0

    def seal(
        self,
        parts: Sequence[Part],
        *,
        entry_id: str,
        kind: str,
        caller: str,
        at_us: int,
        is_lasting: bool = False,
    ) -> Sealed:
        stored: list[_Stored] = []
        new: tuple[WrappedKey, ...] = ()
        for part in parts:
            keys = (
                [self._key(("s", subject, at_us // _MONTH_US), subject, at_us) for subject in part.subjects]
                if part.subjects
                else [self._key(("c", caller, 0 if is_lasting else at_us // _DAY_US), None, at_us)]
            )
            for key in keys:
                if not key.is_kept and key.wrapped not in new:
                    new = (*new, key.wrapped)
            kids = [key.kid for key in keys]
            box, check = (
                (keys[0].box, keys[0].check) if len(keys) == 1 else _combined([key.key for key in keys])
            )
            nonce = self._nonce()
            text = box.encrypt(nonce, part.content, _context(kind, entry_id, part.name, kids))
            stored.append(_Stored(part.name, kids, nonce, check + text))
        return Sealed(_MAGIC + _encode(stored), new)

    def keep(self, keys: Sequence[WrappedKey]) -> None:
        self._store.add(keys)
        self.kept(keys)

    def kept(self, keys: Sequence[WrappedKey]) -> None:
        for wrapped in keys:
            key = self.unkept.pop(wrapped.kid, None)
            if key is not None:
                key.is_kept = True

    def forget(self, subject: bytes | None = None) -> None:
        if subject is None:
            self._in_use = {}
        else:
            self._in_use = {scope: key for scope, key in self._in_use.items() if scope[1] != subject}

    def _key(self, scope: Scope, subject: bytes | None, at_us: int) -> _DataKey:
        key = self._in_use.get(scope)
        if key is None or key.messages >= _MOST_MESSAGES:
            key = self._draw(subject, at_us)
            self._in_use.pop(scope, None)
            if len(self._in_use) >= _MOST_CACHED:
                del self._in_use[next(iter(self._in_use))]  # the oldest; it is drawn anew if need be
            self._in_use[scope] = key
        key.messages += 1
        return key

    def _draw(self, subject: bytes | None, at_us: int) -> _DataKey:
        kid, key = os.urandom(_KID_BYTES), os.urandom(_KEY_BYTES)
        epoch = max(self._epochs)
        nonce = os.urandom(_NONCE_BYTES)
        box = nonce + self._epochs[epoch].encrypt(nonce, key, _key_context(kid, epoch, subject))
        drawn = _DataKey(kid, key, WrappedKey(kid, epoch, subject, at_us, box))
        self.unkept[kid] = drawn
        return drawn

    def _nonce(self) -> bytes:
        at = self._nonce_at
        if at >= len(self._nonces):
            self._nonces, at = os.urandom(_NONCE_BYTES * _NONCES_AT_ONCE), 0
        self._nonce_at = at + _NONCE_BYTES
        return self._nonces[at : at + _NONCE_BYTES]


class Vault:
    """Seals and opens content. `seal` belongs to one thread; everything else may be called from any."""

    def __init__(self, store: VaultStoring, master: bytes, *, now_us: int) -> None:
        self._store = store
        self._master = AESGCM(master)
        self._epochs: dict[int, AESGCM] = {}
        self._requests = _Sealer(store, self._epochs)
        self._others = _Sealer(store, self._epochs)
        self._others_door = threading.Lock()
        self._open_epochs()
        if not self._epochs:
            self.rotate_epoch(now_us)
        self._epoch_made_us = max(epoch.made_us for epoch in store.epochs())
        self._destroyed = store.destroyed()
        self._mac_key = self.secret("mac_key", lambda: os.urandom(_KEY_BYTES))
        self._pseudonym_key = self.secret("pseudonym_key", lambda: os.urandom(_KEY_BYTES))

    # -- sealing, without I/O -----------------------------------------------------------------

    def pseudonym(self, subject: str) -> bytes:
        """Return what a person is called in the log: 16 bytes that nobody can trace without the vault."""
        return hmac.digest(self._pseudonym_key, subject.encode(), "sha256")[:_SUBJECT_BYTES]

    def seal(self, parts: Sequence[Part], *, entry_id: str, kind: str, caller: str, at_us: int) -> Sealed:
        """Seal content. The keys it returns must be kept (see `keep`) before the payload is."""
        return self._requests.seal(parts, entry_id=entry_id, kind=kind, caller=caller, at_us=at_us)

    def mac(self, content: bytes) -> bytes:
        """Return a keyed digest of content, 32 bytes, for finding it again without keeping it (HMAC-SHA-256)."""
        return hmac.digest(self._mac_key, content, "sha256")

    # -- keys ---------------------------------------------------------------------------------

    def kept(self, keys: Sequence[WrappedKey]) -> None:
        """Take note that these keys are durable: `seal` returns them no more."""
        self._requests.kept(keys)

    def keep(self, keys: Sequence[WrappedKey]) -> None:
        """Make new keys durable; until this has succeeded, `seal` goes on returning them.

        Raises StorageUnavailable or StorageOutcomeUnknown: what they seal must then not be stored.
        """
        self._requests.keep(keys)

    def open(self, payload: bytes, *, entry_id: str, kind: str) -> Opened:
        """Open a payload as far as its keys are there. Reads the store; never raises for what is in it."""
        try:
            if not payload.startswith(_MAGIC):
                raise ValueError("not sealed in this form")
            stored = _decoder.decode(payload[len(_MAGIC) :])
        except (ValueError, msgspec.DecodeError):
            return Opened({}, unreadable=True)
        parts: dict[str, bytes | None] = {}
        erased = unreadable = False
        for part in stored:
            parts[part.name] = None
            try:
                parts[part.name] = self._open_part(part, entry_id, kind)
            except KeyError:
                erased = True
            except (InvalidTag, ValueError):
                unreadable = True
        return Opened(parts, erased, unreadable)

    def _open_part(self, part: _Stored, entry_id: str, kind: str) -> bytes:
        keys = [self._unwrapped(kid) for kid in part.kids]
        if not keys:
            raise ValueError("no key is named")
        box, check = (AESGCM(keys[0]), _check_of(keys[0])) if len(keys) == 1 else _combined(keys)
        if not hmac.compare_digest(check, part.box[:_CHECK_BYTES]):
            raise ValueError("sealed under another key")
        return box.decrypt(
            part.nonce, part.box[_CHECK_BYTES:], _context(kind, entry_id, part.name, part.kids)
        )

    def _unwrapped(self, kid: bytes) -> bytes:
        """Return a data key. Raises KeyError where it is gone, InvalidTag or ValueError where it is damaged."""
        unkept = self._requests.unkept.get(kid)
        if unkept is not None:
            return unkept.key
        found = self._store.get(kid)
        if found is None:
            raise KeyError("the key is gone")
        epoch = self._epochs.get(found.epoch)
        if epoch is None:
            self._open_epochs()  # another gateway may have begun one
            epoch = self._epochs.get(found.epoch)
        if epoch is None:
            raise ValueError("its key of keys is gone")
        return epoch.decrypt(
            found.wrapped[:_NONCE_BYTES],
            found.wrapped[_NONCE_BYTES:],
            _key_context(kid, found.epoch, found.subject),
        )

    def forget(self, subject: bytes) -> None:
        """Seal no more under the keys of a person that are in memory: the next content gets a new one."""
        self._requests.forget(subject)
        self._others.forget(subject)

    def erase(self, subject: bytes, at_us: int) -> int:
        """Destroy a person's keys for good; return how many. Again is fine."""
        self.forget(subject)
        gone = self._store.destroy_subject(subject, at_us)
        self.forget(subject)
        self._destroyed = self._store.destroyed()
        return gone

    def erase_made_before(self, subject: bytes, at_us: int) -> int:
        """Destroy those keys of a person that were made until then: an erasure that a backup has undone."""
        gone = self._store.destroy_subject(subject, utc_us(), made_by_us=at_us)
        if gone:
            self.forget(subject)
            self._destroyed = self._store.destroyed()
        return gone

    def refresh(self) -> None:
        """Drop the keys in memory if another gateway has destroyed some, and take in new epochs."""
        destroyed = self._store.destroyed()
        if destroyed != self._destroyed:
            self._destroyed = destroyed
            self._requests.forget()
            self._others.forget()

    # -- what wraps keys ----------------------------------------------------------------------

    def rotate_epoch(self, now_us: int) -> int:
        """Begin a new key of keys for what is sealed from now on; return its number. Old content stays as it is."""
        number = max((epoch.number for epoch in self._store.epochs()), default=0) + 1
        key = os.urandom(_KEY_BYTES)
        self._store.add_epoch(Epoch(number, now_us, self._wrap(key, f"epoch {number}")))
        self._open_epochs()  # of two gateways that begin one at once, one's key is kept, and counts for both
        self._epoch_made_us = now_us
        self._requests.forget()
        self._others.forget()
        return number

    def is_rotation_due(self, now_us: int, *, after_days: float) -> bool:
        """Say whether the present key of keys has been in use for long enough."""
        return now_us - self._epoch_made_us > after_days * _DAY_US

    def change_master(self, new: bytes) -> None:
        """Wrap epochs and secrets by another master key: all of them, or none. No content is touched."""
        present, self._master = self._master, AESGCM(new)
        try:
            epochs = [
                Epoch(
                    one.number,
                    one.made_us,
                    self._wrap(_unwrap(present, one.wrapped, f"epoch {one.number}"), f"epoch {one.number}"),
                )
                for one in self._store.epochs()
            ]
            secrets = {
                name: self._wrap(_unwrap(present, wrapped, f"secret {name}"), f"secret {name}")
                for name, wrapped in self._store.secrets().items()
            }
            self._store.rewrap(epochs, secrets)
        except BaseException:
            self._master = present
            raise

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return a secret that the vault keeps, made where it is new (the signing key, HMAC keys)."""
        wrapped = self._store.secret(name)
        if wrapped is None:
            wrapped = self._store.keep_secret(name, self._wrap(make(), f"secret {name}"))
        return _unwrap(self._master, wrapped, f"secret {name}")

    def seal_bytes(self, content: bytes, *, purpose: str, subject: bytes = b"") -> bytes:
        """Seal what other rooms keep, for `open_bytes` with the same purpose; a new key is made durable here.

        One key lasts as long as its key of keys: what is sealed while the disk is full needs no new one.
        """
        with self._others_door:
            sealed = self._others.seal(
                [Part("content", content, (subject,) if subject else ())],
                entry_id="",
                kind=purpose,
                caller=purpose,
                at_us=utc_us(),
                is_lasting=True,
            )
            if sealed.new_keys:
                self._others.keep(sealed.new_keys)
        return sealed.payload

    def open_bytes(self, sealed: bytes, *, purpose: str) -> bytes:
        """Open what `seal_bytes` sealed. Raises StateError where its key is gone or it is damaged."""
        opened = self.open(sealed, entry_id="", kind=purpose)
        content = opened.parts.get("content")
        if content is None:
            raise StateError(
                "The content was erased." if opened.erased else "The content cannot be opened.",
                hint="Nothing brings erased content back."
                if opened.erased
                else "Was the vault restored from another backup?",
            )
        return content

    def _open_epochs(self) -> None:
        for epoch in self._store.epochs():
            if epoch.number not in self._epochs:
                self._epochs[epoch.number] = AESGCM(
                    _unwrap(self._master, epoch.wrapped, f"epoch {epoch.number}")
                )

    def _wrap(self, key: bytes, context: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._master.encrypt(nonce, key, context.encode())

    def __repr__(self) -> str:
        return f"<Vault epoch={max(self._epochs)}>"


def _unwrap(master: AESGCM, wrapped: bytes, context: str) -> bytes:
    try:
        return master.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context.encode())
    except (InvalidTag, ValueError):
        raise VaultLocked(
            "The master key does not open this vault.",
            hint="Give the key that it was made with (see docs/audit.md, Keys); without it no content can be read.",
        ) from None


def _check_of(key: bytes) -> bytes:
    return hmac.digest(key, b"check", "sha256")[:_CHECK_BYTES]


def _combined(keys: Sequence[bytes]) -> tuple[AESGCM, bytes]:
    key = hmac.digest(b"several", b"".join(keys), "sha256")
    return AESGCM(key), _check_of(key)


def _context(kind: str, entry_id: str, name: str, kids: Sequence[bytes]) -> bytes:
    return f"{kind}\0{entry_id}\0{name}\0".encode() + b"".join(kids)


def _key_context(kid: bytes, epoch: int, subject: bytes | None) -> bytes:
    return b"%b%d\0%b" % (kid, epoch, subject or b"")
