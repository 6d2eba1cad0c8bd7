"""The server's certificate: loaded, judged before use, and changed while serving."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from nightproof.base.clock import utc_now
from nightproof.base.errors import SettingError
from nightproof.settings.settings import ServerSettings


class Certificate:
    """The server's pair and the authorities of its callers, exchanged while serving.

    The listener keeps `context` for good; each handshake moves on to the newest one, so that a reload
    changes the pair and the authorities together, and a bad one is never touched.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.context = self._newest = _context(settings)
        self.context.sni_callback = self._take_newest
        self.not_after = _not_after(_path(settings.tls_cert))

    def reload(self) -> None:
        """Read all files again. Raises SettingError and keeps the old ones if the new ones do not hold."""
        newest = _context(self._settings)
        not_after = _not_after(_path(self._settings.tls_cert))
        if not_after <= utc_now():
            raise SettingError(
                f"The certificate {self._settings.tls_cert} has expired.", hint="Renew it first."
            )
        self._newest, self.not_after = newest, not_after

    def _take_newest(self, handshake: ssl.SSLObject, name: str | None, listeners: ssl.SSLContext) -> None:
        """Let a handshake use the newest context; OpenSSL asks here also when a caller names no host."""
        handshake.context = self._newest

    def days_left(self) -> float:
        """Return the days until the certificate ends; negative when it has."""
        return (self.not_after - utc_now()).total_seconds() / 86_400


def _path(path: Path | None) -> Path:
    if path is None:
        raise SettingError("TLS needs a certificate and a key.", hint="Give --tls-cert and --tls-key.")
    return path


def _context(settings: ServerSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password of ours, an encrypted key would be asked for on the terminal, and all would wait.
        context.load_cert_chain(_path(settings.tls_cert), _path(settings.tls_key), password="")
        if settings.tls_client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.tls_client_ca)
            context.num_tickets = 0  # a resumed session would not show its certificate again
    except (ssl.SSLError, OSError) as error:
        raise SettingError(
            f"The TLS files cannot be used: {getattr(error, 'reason', None) or error}.",
            hint="tls_cert and tls_key must be a pair of PEM files, the key not encrypted, and tls_client_ca PEM.",
        ) from error
    return context


def _not_after(path: Path) -> datetime:
    from cryptography import x509  # only a server with a certificate waits for it at its start

    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (ValueError, OSError) as error:
        raise SettingError(f"The certificate {path} cannot be read.", hint="It must be PEM.") from error
    return min(certificate.not_valid_after_utc.astimezone(UTC) for certificate in chain)
