"""Sign and verify releases in the form of OpenSSF Model Signing v1.0: an in-toto statement in a DSSE envelope.

The envelope lies in a Sigstore bundle (v0.3, JSON) whose hint names the public key. Works without a network and
without that project's library. Keys: ECDSA on P-256, P-384 and P-521, which the reference tool reads too, and
Ed25519, which it does not. Pure: never reads a file or the clock. Errors never repeat a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from nightproof.base.errors import NightproofError
from nightproof.base.strictjson import JsonRefused, parse

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_BYTES = 16 * 1024 * 1024
"""Of a signed manifest; it lists every file of a release."""

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Why = Literal["malformed", "unknown_key", "wrong_signature"]

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_KINDS = "ECDSA on P-256, P-384 or P-521, or Ed25519"
_MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out release.key"


class KeyRefused(NightproofError):
    """A file is no key that releases are signed with."""


class SignatureRefused(NightproofError):
    """A signed manifest is malformed, or not signed by a key that is trusted."""

    def __init__(self, text: str, *, why: Why, hint: str = "", key_id: str = "") -> None:
        super().__init__(text, hint=hint)
        self.why = why
        self.key_id = key_id


class Verified(msgspec.Struct, frozen=True):
    """A statement whose signature holds."""

    payload: bytes
    key_id: str


def new_private_key() -> bytes:
    """Draw a P-256 key; return it as PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_private_key(pem: bytes) -> PrivateKey:
    """Return the private key in a PEM text without a passphrase. Raises KeyRefused."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise KeyRefused(
            "The key is locked with a passphrase.", hint="Give one without: openssl pkey -in KEY -out OPEN."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused("This is no private key in PEM.", hint=f"`{_MAKE}` makes one.") from None
    if not isinstance(key, PrivateKey) or not _is_supported(key.public_key()):
        raise KeyRefused(f"The key is not {_KINDS}.", hint=f"`{_MAKE}` makes one.")
    return key


def read_public_key(pem: bytes) -> PublicKey:
    """Return the public key in a PEM text. Raises KeyRefused."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        hint = "Print it from the private one: openssl pkey -in release.key -pubout -out release.pub."
        raise KeyRefused("This is no public key in PEM.", hint=hint) from None
    if not isinstance(key, PublicKey) or not _is_supported(key):
        raise KeyRefused(f"The key is not {_KINDS}.", hint=f"`{_MAKE}` makes one.")
    return key


def public_pem(key: PublicKey) -> bytes:
    """Return the public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> str:
    """Name a public key: SHA-256, hex, of its PEM, as the bundle's hint has it."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def sign(payload: bytes, key: PrivateKey) -> bytes:
    """Return the Sigstore bundle over a statement."""
    signed = pre_authentication(PAYLOAD_TYPE, payload)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed)
    else:
        signature = key.sign(signed, ec.ECDSA(_HASHES[key.curve.name]()))
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return msgspec.json.encode(bundle)


def verify(bundle: bytes, trusted: Mapping[str, PublicKey]) -> Verified:
    """Return the statement in a bundle that one of these keys signed. Raises SignatureRefused."""
    envelope, hint = _envelope_of(bundle)
    payload, signature = envelope
    key = trusted.get(hint)
    if key is None:
        raise SignatureRefused(
            f"It is signed by key {hint[:16] or '(none named)'}, which is not trusted here.",
            why="unknown_key",
            hint="If you know whose key that is: nightproof trust add PUBLIC-KEY-FILE.",
            key_id=hint,
        )
    signed = pre_authentication(PAYLOAD_TYPE, payload)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            key.verify(signature, signed, ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        raise SignatureRefused(
            f"The signature does not hold under key {hint[:16]}.",
            why="wrong_signature",
            hint="The manifest was changed after it was signed, or another key signed it. Get the release again.",
            key_id=hint,
        ) from None
    return Verified(payload, hint)


def unverified_payload(bundle: bytes) -> tuple[bytes, str]:
    """Return statement and hint of a bundle without asking for its signature: to show, never to act on."""
    (payload, _), hint = _envelope_of(bundle)
    return payload, hint


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return what DSSE v1 signs: type and payload, each with its length."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _envelope_of(bundle: bytes) -> tuple[tuple[bytes, bytes], str]:
    if len(bundle) > MOST_BYTES:
        raise _malformed(f"it has {len(bundle)} bytes, more than {MOST_BYTES}")
    try:
        read = msgspec.convert(parse(bundle), _Bundle)
        signatures = read.dsse_envelope.signatures
        payload = base64.b64decode(read.dsse_envelope.payload, validate=True)
        signature = base64.b64decode(signatures[0].sig, validate=True) if signatures else b""
    except (JsonRefused, msgspec.ValidationError, binascii.Error, ValueError, RecursionError):
        raise _malformed("it is no Sigstore bundle in JSON") from None
    if read.media_type != MEDIA_TYPE:
        raise _malformed("its media type is another one than bundle v0.3")
    if read.dsse_envelope.payload_type != PAYLOAD_TYPE:
        raise _malformed("its payload is no in-toto statement")
    if len(signatures) != 1:
        raise _malformed(f"it has {len(signatures)} signatures, not one")
    named = read.verification_material.public_key
    return (payload, signature), named.hint if named is not None else ""


def _malformed(what: str) -> SignatureRefused:
    hint = "Make the release again with `nightproof release`."
    return SignatureRefused(f"The signature cannot be read: {what}.", why="malformed", hint=hint)


def _is_supported(key: Any) -> bool:
    return isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _HASHES
    )


class _Signature(msgspec.Struct, rename="camel"):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _Named(msgspec.Struct, rename="camel"):
    hint: str = ""


class _Material(msgspec.Struct, rename="camel"):
    public_key: _Named | None = None


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope
