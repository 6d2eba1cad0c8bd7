"""The server's certificate: loaded, judged before use, and changed while serving."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from nightproof.base.clock import utc_now
from nightproof.base.errors import SettingError
from nightproof.settings.settings import ServerSettings


class Certificate:
    """A live TLS context whose pair can be exchanged. A bad pair never reaches it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.context = _context(settings)
        self.not_after = _not_after(_path(settings.tls_cert))

    def reload(self) -> None:
        """Read the pair again. Raises SettingError and keeps the old one if the new one does not hold.

        The pair is tried in a scratch context first: a mismatched key loaded into the live one would
        leave it unable to complete any handshake.
        """
        _context(self._settings)
        not_after = _not_after(_path(self._settings.tls_cert))
        if not_after <= utc_now():
            raise SettingError(f"The certificate {self._settings.tls_cert} has expired.", hint="Renew it first.")
        self.context.load_cert_chain(_path(self._settings.tls_cert), _path(self._settings.tls_key))
        self.not_after = not_after

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
        context.load_cert_chain(_path(settings.tls_cert), _path(settings.tls_key))
        if settings.tls_client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(settings.tls_client_ca)
    except (ssl.SSLError, OSError) as error:
        raise SettingError(
            f"The TLS files cannot be used: {getattr(error, 'reason', None) or error}.",
            hint="Check that tls_cert and tls_key are a pair of PEM files, and that tls_client_ca is PEM.",
        ) from error
    return context


def _not_after(path: Path) -> datetime:
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except (ValueError, OSError) as error:
        raise SettingError(f"The certificate {path} cannot be read.", hint="It must be PEM.") from error
    return min(certificate.not_valid_after_utc.astimezone(UTC) for certificate in chain)
