"""Signed statements about the log: C2SP signed notes, checkpoints, proof files and what witnesses are sent.

Forms after C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof and tlog-witness; signatures are
Ed25519. Pure: never reads a log, a file or the clock. Errors never repeat what was handed in.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nightproof.audit.tree import HASH_BYTES, check_consistency, leaf_hash, root_from_inclusion
from nightproof.base.errors import NightproofError

_ED25519: Final = 0x01
_COSIGNATURE: Final = 0x04
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_TIME_BYTES = 8
_MARK = "— "
_MOST_SIGNATURES = 100
_MOST_PATH = 64
_PROOF_FORM = "c2sp.org/tlog-proof@v1"
_CONSISTENCY_FORM = "nightproof.dev/consistency-proof@v1"
_BETWEEN = b"==\n"


class NoteRefused(NightproofError):
    """A signed note, or a file that holds one, is malformed or not signed as it must be."""


class Signer:
    """An Ed25519 key with the name under which it signs."""

    def __init__(self, name: str, private_key: bytes) -> None:
        _refuse_name(name)
        self.name = name
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)
        public = self._key.public_key().public_bytes_raw()
        self._id = _key_id(name, _ED25519, public)
        self.vkey = f"{name}+{self._id.hex()}+{_base64(bytes([_ED25519]) + public)}"
        """The public key, in the form of a C2SP verifier key."""

    def sign(self, text: str) -> str:
        """Return the signature line of a note's text, which must end in a line break."""
        signature = self._key.sign(text.encode())
        return f"{_MARK}{self.name} {_base64(self._id + signature)}\n"

    def __repr__(self) -> str:
        return f"<Signer {self.name}>"


class Verifier:
    """A public key, from its C2SP verifier-key text. Raises NoteRefused where that is malformed."""

    def __init__(self, vkey: str) -> None:
        name, _, rest = vkey.strip().partition("+")
        given_id, _, encoded = rest.partition("+")
        _refuse_name(name)
        raw = _unbase64(encoded, "verifier key")
        if len(raw) != 1 + _KEY_BYTES or raw[0] not in (_ED25519, _COSIGNATURE):
            raise NoteRefused(
                "The verifier key is not an Ed25519 key.", hint="It has the form name+8 hex digits+base64."
            )
        self.name, self.kind, public = name, raw[0], raw[1:]
        self.key_id = _key_id(name, self.kind, public)
        if given_id.lower() != self.key_id.hex():
            raise NoteRefused(
                "The verifier key's id does not belong to its key.", hint="Copy the whole key again."
            )
        self._key = Ed25519PublicKey.from_public_bytes(public)

    def accepts(self, text: str, signature: bytes) -> bool:
        """Say whether the signature, without its key id, is this key's on the text."""
        message = text.encode()
        if self.kind == _COSIGNATURE:
            if len(signature) != _TIME_BYTES + _SIGNATURE_BYTES:
                return False
            time_s = int.from_bytes(signature[:_TIME_BYTES], "big")
            message = f"cosignature/v1\ntime {time_s}\n".encode() + message
            signature = signature[_TIME_BYTES:]
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<Verifier {self.name}+{self.key_id.hex()}>"


class ParsedCheckpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says, and who signed it of those who are known."""

    origin: str
    size: int
    root: bytes
    signed_by: tuple[str, ...]


class ProvenLeaf(msgspec.Struct, frozen=True):
    """A leaf of which a proof file shows that it is in the log."""

    leaf: bytes
    index: int
    checkpoint: ParsedCheckpoint


def new_private_key() -> bytes:
    """Draw an Ed25519 private key, 32 bytes."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def checkpoint_note(origin: str, size: int, root: bytes, signers: Iterable[Signer]) -> bytes:
    """Write the signed checkpoint of a log: name, size, root, blank line, signatures."""
    text = f"{origin}\n{size}\n{_base64(root)}\n"
    return (text + "\n" + "".join(signer.sign(text) for signer in signers)).encode()


def open_note(note: bytes, verifiers: Sequence[Verifier]) -> tuple[str, tuple[str, ...]]:
    """Return a note's text and the names of the known keys that signed it.

    Unknown signatures are passed over. Raises NoteRefused where the note is malformed, where a known key's
    signature is wrong, or where no known key signed it.
    """
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteRefused("The note is not UTF-8.", hint=_DAMAGED) from None
    if any(ord(sign) < 0x20 and sign != "\n" for sign in whole):
        raise NoteRefused("The note has control characters.", hint=_DAMAGED)
    body, found, signatures = whole.rpartition("\n\n")
    lines = signatures.splitlines()
    if not found or not whole.endswith("\n") or not lines or len(lines) > _MOST_SIGNATURES:
        raise NoteRefused("The note has no signatures.", hint=_DAMAGED)
    text = f"{body}\n"
    signed_by: list[str] = []
    for line in lines:
        name, _, encoded = line.removeprefix(_MARK).partition(" ")
        if not line.startswith(_MARK) or not encoded:
            raise NoteRefused("The note has a line that is no signature.", hint=_DAMAGED)
        raw = _unbase64(encoded, "signature")
        for verifier in verifiers:
            if verifier.name == name and verifier.key_id == raw[:_KEY_ID_BYTES]:
                if not verifier.accepts(text, raw[_KEY_ID_BYTES:]):
                    raise NoteRefused(
                        f"The signature of {name!r} is wrong.",
                        hint="The note was changed, or the key is another.",
                    )
                signed_by.append(name)
    if verifiers and not signed_by:
        raise NoteRefused(
            "No key that is trusted here signed the note.", hint="Give the log's own key with --key."
        )
    return text, tuple(signed_by)


def parse_checkpoint(note: bytes, verifiers: Sequence[Verifier]) -> ParsedCheckpoint:
    """Read a signed checkpoint. Raises NoteRefused; see `open_note`."""
    text, signed_by = open_note(note, verifiers)
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0] or not lines[1].isascii() or not lines[1].isdigit():
        raise NoteRefused("The note is no checkpoint.", hint=_DAMAGED)
    if len(lines[1]) > 18 or (lines[1] != "0" and lines[1].startswith("0")):
        raise NoteRefused("The checkpoint's size is malformed.", hint=_DAMAGED)
    root = _unbase64(lines[2], "root")
    if len(root) != HASH_BYTES:
        raise NoteRefused("The checkpoint's root is no SHA-256 hash.", hint=_DAMAGED)
    return ParsedCheckpoint(lines[0], int(lines[1]), root, signed_by)


def proof_file(leaf: bytes, index: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """Write a proof that stands alone: C2SP tlog-proof, the leaf in its `extra` line."""
    lines = [_PROOF_FORM, f"extra {_base64(leaf)}", f"index {index}", *map(_base64, proof), "", ""]
    return "\n".join(lines).encode() + note


def check_proof_file(content: bytes, verifiers: Sequence[Verifier]) -> ProvenLeaf:
    """Verify a proof file. Raises NoteRefused where anything in it does not hold."""
    head, found, note = content.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NoteRefused("The proof is not text.", hint=_DAMAGED) from None
    if not found or len(lines) < 3 or lines[0] != _PROOF_FORM or len(lines) > 3 + _MOST_PATH:
        raise NoteRefused("The file is no proof of this form.", hint=f"Its first line is {_PROOF_FORM}.")
    if not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise NoteRefused("The proof lacks its leaf or its index.", hint=_DAMAGED)
    leaf = _unbase64(lines[1][6:], "leaf")
    number = lines[2][6:]
    if not number.isascii() or not number.isdigit() or len(number) > 18 or str(int(number)) != number:
        raise NoteRefused("The proof's index is no number.", hint=_DAMAGED)
    path = [_unbase64(line, "hash") for line in lines[3:]]
    if any(len(one) != HASH_BYTES for one in path):
        raise NoteRefused("The proof has a hash of a wrong length.", hint=_DAMAGED)
    checkpoint = parse_checkpoint(note, verifiers)
    try:
        root = root_from_inclusion(leaf_hash(leaf), int(number), checkpoint.size, path)
    except ValueError as error:
        raise NoteRefused(f"The proof does not fit its checkpoint: {error}.", hint=_DAMAGED) from None
    if root != checkpoint.root:
        raise NoteRefused(
            "The proof does not lead to the checkpoint's root: this record is not in that log.", hint=_DAMAGED
        )
    return ProvenLeaf(leaf, int(number), checkpoint)


def consistency_file(old: bytes, new: bytes, proof: Sequence[bytes]) -> bytes:
    """Write a proof that the log under one checkpoint begins with the log under another; it stands alone."""
    lines = [_CONSISTENCY_FORM, *map(_base64, proof), "", ""]
    return "\n".join(lines).encode() + old + _BETWEEN + new


def check_consistency_file(
    content: bytes, verifiers: Sequence[Verifier]
) -> tuple[ParsedCheckpoint, ParsedCheckpoint]:
    """Verify a consistency file; return both checkpoints, older first. Raises NoteRefused where it does not hold."""
    head, found, notes = content.partition(b"\n\n")
    old, between, new = notes.partition(_BETWEEN)
    lines = head.decode("ascii", "replace").split("\n")
    if not found or not between or lines[0] != _CONSISTENCY_FORM or len(lines) > 1 + 2 * _MOST_PATH:
        raise NoteRefused("The file is no consistency proof.", hint=f"Its first line is {_CONSISTENCY_FORM}.")
    path = [_unbase64(line, "hash") for line in lines[1:]]
    if any(len(one) != HASH_BYTES for one in path):
        raise NoteRefused("The proof has a hash of a wrong length.", hint=_DAMAGED)
    first, second = parse_checkpoint(old, verifiers), parse_checkpoint(new, verifiers)
    if not check_consistency(first.size, first.root, second.size, second.root, path):
        raise NoteRefused(
            f"The log of {second.size} entries does not begin with the log of {first.size}.", hint=_DAMAGED
        )
    return first, second


def is_consistency_file(content: bytes) -> bool:
    """Say whether a file claims to be a consistency proof."""
    return content.startswith(_CONSISTENCY_FORM.encode() + b"\n")


def add_checkpoint_body(old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """Write what a C2SP witness is sent: the size it knows, the consistency proof, the new checkpoint."""
    lines = [f"old {old_size}", *map(_base64, proof), "", ""]
    return "\n".join(lines).encode() + note


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:_KEY_ID_BYTES]


def _refuse_name(name: str) -> None:
    if not name or "+" in name or any(sign.isspace() or not sign.isprintable() for sign in name):
        raise NoteRefused("A key's name is empty, or has spaces or a plus sign.", hint="Take another name.")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _unbase64(text: str, what: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteRefused(f"The {what} is not base64.", hint=_DAMAGED) from None
    if _base64(content) != text:  # spare bits and padding: one form only, so that no byte can change unseen
        raise NoteRefused(f"The {what} is not base64 in its one form.", hint=_DAMAGED)
    return content


_DAMAGED = "The file is damaged or incomplete; get it again from where it was made."
