"""Signatures and manifests of releases, without a file: what holds, and each way in which it does not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nightproof.releases import signing
from nightproof.releases.manifest import Facts, Manifest, ManifestRefused, is_name, read_statement, statement
from nightproof.releases.signing import KeyRefused, SignatureRefused
from nightproof.storage.bundles import digest_of

SUMS = {"service.py": "ab" * 32, "artifacts/model.onnx": "cd" * 32}
KEYS: list[signing.PrivateKey] = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ec.generate_private_key(ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.generate(),
]


def facts(**other: Any) -> Facts:
    """Describe a release."""
    given: dict[str, Any] = {
        "service": "credit", "version": "1.0", "bundle": digest_of(SUMS), "made": "2026-01-01T00:00:00Z",
        "made_by": "me", "nightproof": "0", "versions": {"python": "3.11.2"},
        "input_schema": {"maximum": 2**63}, "output_schema": {},
        "golden_cases": 1, "memory_mb": 100, "sizes": {"service.py": 1, "artifacts/model.onnx": 2},
    }  # fmt: skip
    return Facts(**{**given, **other})


def signed_by(key: signing.PrivateKey, **other: Any) -> bytes:
    """Sign a release."""
    return signing.sign(statement(Manifest(facts(**other), SUMS)), key)


def trusting(*keys: signing.PrivateKey) -> dict[str, signing.PublicKey]:
    """Trust these keys."""
    return {signing.key_id(key.public_key()): key.public_key() for key in keys}


@pytest.mark.parametrize("key", KEYS, ids=["P-256", "P-384", "P-521", "Ed25519"])
def test_a_signature_holds_under_its_key_and_the_release_comes_out_as_it_went_in(key: signing.PrivateKey):
    verified = signing.verify(signed_by(key), trusting(*KEYS))

    assert verified.key_id == signing.key_id(key.public_key())
    assert read_statement(verified.payload) == Manifest(facts(), SUMS)


def test_a_key_that_is_not_trusted_is_named_by_its_id():
    with pytest.raises(SignatureRefused) as refused:
        signing.verify(signed_by(KEYS[0]), trusting(KEYS[1]))

    assert refused.value.why == "unknown_key"
    assert signing.key_id(KEYS[0].public_key())[:16] in refused.value.text


@pytest.mark.parametrize("key", KEYS, ids=["P-256", "P-384", "P-521", "Ed25519"])
def test_a_statement_that_was_changed_does_not_hold(key: signing.PrivateKey):
    bundle = json.loads(signed_by(key))
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"1.0", b"1.1")).decode()

    with pytest.raises(SignatureRefused) as refused:
        signing.verify(json.dumps(bundle).encode(), trusting(key))

    assert refused.value.why == "wrong_signature"


def test_a_signature_under_the_name_of_another_key_does_not_hold():
    mallory, alice = KEYS[0], KEYS[3]
    bundle = json.loads(signed_by(mallory))
    bundle["verificationMaterial"]["publicKey"]["hint"] = signing.key_id(alice.public_key())

    with pytest.raises(SignatureRefused) as refused:
        signing.verify(json.dumps(bundle).encode(), trusting(alice))

    assert refused.value.why == "wrong_signature"


def _without(bundle: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = bundle
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return bundle


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b"",
        lambda b: b"[" * 100_000,
        lambda b: b"null",
        lambda b: json.dumps({**b, "mediaType": "other"}).encode(),
        lambda b: json.dumps(_without(b, "dsseEnvelope")).encode(),
        lambda b: json.dumps(_without(b, "dsseEnvelope", "payload")).encode(),
        lambda b: json.dumps({**b, "dsseEnvelope": {**b["dsseEnvelope"], "signatures": []}}).encode(),
        lambda b: json.dumps(
            {**b, "dsseEnvelope": {**b["dsseEnvelope"], "payloadType": "text/plain"}}
        ).encode(),
        lambda b: json.dumps({**b, "dsseEnvelope": {**b["dsseEnvelope"], "payload": "*"}}).encode(),
        lambda b: json.dumps(b).encode().replace(b'"mediaType"', b'"mediaType": "x", "mediaType"'),
        lambda b: json.dumps(b).encode() + b" " * signing.MOST_BYTES,
    ],
)
def test_what_is_no_signature_is_refused_as_malformed(spoil: Any):
    with pytest.raises(SignatureRefused) as refused:
        signing.verify(spoil(json.loads(signed_by(KEYS[0]))), trusting(KEYS[0]))

    assert refused.value.why == "malformed"


def _statement(**other: Any) -> dict[str, Any]:
    return dict(json.loads(statement(Manifest(facts(**other), SUMS))))


def _resource(told: dict[str, Any], place: int, **other: Any) -> dict[str, Any]:
    told["predicate"]["resources"][place].update(other)
    return told


@pytest.mark.parametrize(
    "told",
    [
        {},
        {**_statement(), "_type": "https://in-toto.io/Statement/v0.1"},
        {**_statement(), "predicateType": "https://slsa.dev/provenance/v1"},
        _resource(_statement(), 0, name="../service.py"),
        _resource(_statement(), 0, name="/etc/passwd"),
        _resource(_statement(), 0, name="a\\b"),
        _resource(_statement(), 0, name="service.py"),
        _resource(_statement(), 0, algorithm="md5"),
        _resource(_statement(), 0, digest="00" * 32),
        _resource(_statement(), 0, digest="zz"),
        {**_statement(), "subject": []},
        _statement(bundle="00" * 32),
        _statement(sizes={"service.py": 1}),
        _statement(sizes={"service.py": -1, "artifacts/model.onnx": 2}),
        _statement(version="../1"),
        _statement(service="Credit/../x"),
    ],
    ids=str,
)
def test_a_statement_that_contradicts_itself_or_leads_outside_is_refused(told: dict[str, Any]):
    with pytest.raises(ManifestRefused):
        read_statement(json.dumps(told).encode())


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\\b", "a\nb", "a\0b", "x" * 241, "./a"]
)
def test_a_name_that_is_not_plain_and_inside_is_none(name: str):
    assert not is_name(name)


def test_a_key_of_another_kind_or_none_is_refused_with_what_to_do():
    wrong = rsa.generate_private_key(65_537, 2_048)
    pem = wrong.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = KEYS[0].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )

    for content in (pem, locked, b"no key"):
        with pytest.raises(KeyRefused) as refused:
            signing.read_private_key(content)
        assert refused.value.hint


def test_a_key_that_is_made_here_is_one():
    assert signing.read_private_key(signing.new_private_key()).public_key()
