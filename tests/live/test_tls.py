"""TLS as callers meet it: 1.3 only, mutual where asked, reloaded on SIGHUP, and never made worse by a reload."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.books import read_books
from tests.serving import SERVICES, Served, run_nightproof, serving, wait_until

AUTHORITY = trustme.CA()


class Pair:
    """The certificate and key that the server reads, and where."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.client_ca = folder / "cert.pem", folder / "key.pem", folder / "callers.pem"

    def write(
        self, authority: trustme.CA, *, key_of: trustme.CA | None = None, ends: datetime | None = None
    ) -> None:
        """Put a new pair in place; with `key_of` the key belongs to another certificate."""
        issued = authority.issue_cert("localhost", "127.0.0.1", not_after=ends)
        keyed = issued if key_of is None else key_of.issue_cert("localhost")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(keyed.private_key_pem.bytes())

    @property
    def flags(self) -> list[str]:
        """What `serve` is started with."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]


def trusting(authority: trustme.CA, caller: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Make a caller's context that trusts one authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if caller is not None:
        caller.configure_cert(context)
    return context


def ask(served: Served, context: ssl.SSLContext) -> httpx.Response:
    """Ask for a prediction on a new connection."""
    with httpx.Client(base_url=served.base_url, verify=context, timeout=5) as client:
        return client.post("/services/mirror/predict", json={"text": "a"}, headers=served.headers)


def is_served(served: Served, context: ssl.SSLContext) -> bool:
    """Say whether a caller gets its answer."""
    try:
        return ask(served, context).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Write a good pair."""
    made = Pair(tmp_path_factory.mktemp("tls"))
    made.write(AUTHORITY)
    return made


@pytest.fixture(scope="module")
def served(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the mirror with TLS. Each test leaves the good pair in use."""
    options = {"verify": trusting(AUTHORITY)}
    state = tmp_path_factory.mktemp("tls-state") / "state"
    with serving("mirror", state, *pair.flags, scheme="https", client_options=options) as started:
        yield started


def reload(served: Served, outcome: str) -> None:
    """Send SIGHUP and wait until the outcome is recorded."""

    def outcomes() -> list[str]:
        acts = read_books(served.state).operators
        return [leaf["outcome"] for leaf in acts if leaf["act"] == "certificate.reload"]

    before = len(outcomes())
    served.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(outcomes()) > before)
    assert outcomes()[-1] == outcome


def test_an_answer_comes_over_tls_1_3(served: Served):
    plain = socket.create_connection(("127.0.0.1", served.port), timeout=5)
    with plain, trusting(AUTHORITY).wrap_socket(plain, server_hostname="localhost") as secure:
        version = secure.version()

    assert served.predict({"text": "a"}).json()["output"]["text"] == "a"
    assert version == "TLSv1.3"


def test_a_caller_of_older_versions_is_refused(served: Served):
    old = trusting(AUTHORITY)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(httpx.ConnectError):
        ask(served, old)


def test_plain_bytes_are_closed_without_an_answer_and_harm_nobody(served: Served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        received = b""
        try:
            while piece := caller.recv(4_096):
                received += piece
        except ConnectionError:
            pass

    assert b"HTTP/1.1" not in received
    assert is_served(served, trusting(AUTHORITY))


def test_a_renewed_pair_is_used_by_the_next_caller_and_kept_connections_stay(served: Served, pair: Pair):
    renewed = trustme.CA()
    assert served.predict({"text": "before"}).status_code == 200

    pair.write(renewed)
    reload(served, "loaded")

    assert is_served(served, trusting(renewed))
    assert not is_served(served, trusting(AUTHORITY))
    assert served.predict({"text": "on the kept connection"}).status_code == 200

    pair.write(AUTHORITY)
    reload(served, "loaded")
    assert is_served(served, trusting(AUTHORITY))


@pytest.mark.parametrize(
    "spoilt", ["key of another", "expired", "truncated", "no pem", "gone", "unreadable key"]
)
def test_a_bad_pair_is_refused_and_the_old_one_stays(served: Served, pair: Pair, spoilt: str):
    match spoilt:
        case "key of another":
            pair.write(trustme.CA(), key_of=trustme.CA())
        case "expired":
            pair.write(trustme.CA(), ends=datetime.now(UTC) - timedelta(minutes=1))
        case "truncated":
            pair.write(trustme.CA())
            pair.cert.write_bytes(pair.cert.read_bytes()[:300])
        case "no pem":
            pair.cert.write_bytes(b"\x30\x82garbage")
        case "gone":
            pair.cert.unlink()
        case "unreadable key":
            pair.write(trustme.CA())
            pair.key.write_bytes(encrypted(pair.key.read_bytes()))

    reload(served, "refused")

    assert is_served(served, trusting(AUTHORITY))
    assert 'event="certificate_reload_failed"' in served.metrics()
    assert "certificate_reload_failed" in served.log.read_text()
    pair.write(AUTHORITY)
    reload(served, "loaded")
    assert is_served(served, trusting(AUTHORITY))


def encrypted(key: bytes) -> bytes:
    """Write a key with a password on it."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    opened = load_pem_private_key(key, None)
    return opened.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def test_health_counts_the_days_of_the_certificate(served: Served, pair: Pair):
    pair.write(AUTHORITY, ends=datetime.now(UTC) + timedelta(days=3))
    reload(served, "loaded")

    def certificate() -> dict[str, Any]:
        parts = served.client.get("/healthz").json()["components"]
        return next(part for part in parts if part["name"] == "certificate")

    served.wait_until(lambda: certificate()["ok"] is False)  # health is looked at ten times a second at most
    assert "ends in" in certificate()["why"]
    assert served.client.get("/readyz").status_code == 200
    pair.write(AUTHORITY)
    reload(served, "loaded")


def test_callers_prove_who_they_are_and_their_authority_can_be_changed(tmp_path: Path, state: Path):
    pair, ours, theirs, next_ours = Pair(tmp_path), trustme.CA(), trustme.CA(), trustme.CA()
    pair.write(AUTHORITY)
    ours.cert_pem.write_to_path(pair.client_ca)
    good = trusting(AUTHORITY, ours.issue_cert("caller@example.org"))
    expired = trusting(AUTHORITY, ours.issue_cert("late", not_after=datetime.now(UTC) - timedelta(minutes=1)))
    stranger = trusting(AUTHORITY, theirs.issue_cert("caller@example.org"))
    renewed = trusting(AUTHORITY, next_ours.issue_cert("caller@example.org"))
    flags = [*pair.flags, "--tls-client-ca", str(pair.client_ca), "--set", "drain_wait_s=0"]

    with serving("mirror", state, *flags, scheme="https", client_options={"verify": good}) as served:
        assert is_served(served, good)
        assert not is_served(served, trusting(AUTHORITY))
        assert not is_served(served, stranger)
        assert not is_served(served, expired)
        assert not is_served(served, renewed)

        next_ours.cert_pem.write_to_path(pair.client_ca)
        reload(served, "loaded")

        assert is_served(served, renewed)
        assert not is_served(served, good)

        pair.client_ca.write_text("no authority")
        reload(served, "refused")
        assert is_served(served, renewed)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--tls-cert", "{cert}"], "tls_key is missing"),
        (["--tls-key", "{key}"], "tls_cert is missing"),
        (["--tls-client-ca", "{cert}"], "without TLS"),
        (["--tls-cert", "{key}", "--tls-key", "{cert}"], "cannot be used"),
        (["--tls-cert", "{cert}", "--tls-key", "absent.pem"], "cannot be used"),
    ],
)
def test_a_server_does_not_start_with_files_that_do_not_hold(
    tmp_path: Path, state: Path, given: list[str], says: str
):
    pair = Pair(tmp_path)
    pair.write(AUTHORITY)
    flags = [word.format(cert=pair.cert, key=pair.key) for word in given]

    done = run_nightproof("serve", str(SERVICES / "mirror"), "--state", str(state), "--port", "0", *flags)

    assert done.returncode == 2
    assert says in done.stderr
    assert "→" in done.stderr
