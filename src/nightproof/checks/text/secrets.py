"""Secrets by the forms that their makers gave them, and by disorder where a name says that it is one."""

from __future__ import annotations

import math
from collections import Counter
from functools import cache

from nightproof.checks.text.named import NamedPattern, Patterns

_LEAST_BITS = 3.2
"""Per character, of a value that a name calls a secret: words have less, generated keys more."""
_PLACEHOLDERS = ("example", "changeme", "placeholder", "your_", "your-", "yourkey", "xxxx", "****", "....", "<", "${", "{{", "redacted", "dummy", "test1234")  # fmt: skip

_PEM_BEGIN = "-----BEGIN (?:RSA |EC |DSA |OPENSSH |ENCRYPTED |PGP )?PRIVATE KEY(?: BLOCK)?-----"
_PEM_END = "-----END (?:RSA |EC |DSA |OPENSSH |ENCRYPTED |PGP )?PRIVATE KEY(?: BLOCK)?-----"

# Line ends of a key that stands in a JSON text or in a variable are written as `\n`.
_LINE_END = r"(?:[ \t]*(?:\r?\n|\\+r\\+n|\\+n)[ \t]*)+"
_PEM_LINES = rf"(?:{_LINE_END}(?:[A-Za-z0-9+/=]{{1,80}}|[A-Za-z0-9-]{{1,40}}: [^\n\\]{{1,80}}))*"


_TELLING_CHARS = 48


def patterns() -> list[NamedPattern]:
    """Return the kinds of secrets, each with what makes sure of it."""
    return [
        NamedPattern("aws_access_key", r"\b((?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})\b", 20),
        NamedPattern("aws_secret_key", r"(?i:aws.{0,20}?(?:secret|sk).{0,20}?[=: \"']{1,4})([A-Za-z0-9/+=]{40})(?:$|[^A-Za-z0-9/+=])", 90, is_disordered),
        NamedPattern("azure_key", r"(?i:(?:AccountKey|SharedAccessKey|sig)=)([A-Za-z0-9+/%]{40,90}={0,2})", 110, is_disordered),
        NamedPattern("azure_client_secret", r"(?:^|[^A-Za-z0-9_~.-])([A-Za-z0-9_~.-]{3}[78]Q~[A-Za-z0-9_~.-]{31,34})(?:$|[^A-Za-z0-9_~.-])", 42),
        NamedPattern("gcp_api_key", r"\b(AIza[0-9A-Za-z_-]{35})(?:$|[^0-9A-Za-z_-])", 40),
        NamedPattern("gcp_oauth_secret", r"\b(GOCSPX-[A-Za-z0-9_-]{28})(?:$|[^0-9A-Za-z_-])", 36),
        NamedPattern("github_token", r"\b((?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{82})\b", 256),
        NamedPattern("gitlab_token", r"\b(gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{20,64})(?:$|[^0-9A-Za-z_-])", 72),
        NamedPattern("slack_token", r"\b(xox[abeoprs]-[A-Za-z0-9-]{10,120}|xapp-[0-9]-[A-Za-z0-9-]{20,120})(?:$|[^0-9A-Za-z-])", 128),
        NamedPattern("slack_webhook", r"(https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,90})", 130),
        NamedPattern("stripe_key", r"\b((?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,120}|whsec_[A-Za-z0-9+/=]{24,64})", 132),
        NamedPattern("anthropic_key", r"\b(sk-ant-[a-z0-9]{2,8}-[A-Za-z0-9_-]{32,128})(?:$|[^0-9A-Za-z_-])", 148),
        NamedPattern("openai_key", r"\b(sk-(?:proj-|svcacct-|admin-|None-)?[A-Za-z0-9_-]{20,200})", 216, _begins_disordered),
        NamedPattern("huggingface_token", r"\b(hf_[A-Za-z]{34})\b", 40),
        NamedPattern("npm_token", r"\b(npm_[A-Za-z0-9]{36})\b", 40),
        NamedPattern("pypi_token", r"\b(pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,200})", 224),
        NamedPattern("sendgrid_key", r"\b(SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})(?:$|[^0-9A-Za-z_-])", 70),
        NamedPattern("twilio_key", r"\b(SK[0-9a-f]{32})\b", 34),
        NamedPattern("telegram_token", r"\b([0-9]{8,10}:AA[A-Za-z0-9_-]{33})(?:$|[^0-9A-Za-z_-])", 48),
        NamedPattern("jwt", r"\b(eyJ[A-Za-z0-9_-]{10,512}\.eyJ[A-Za-z0-9_-]{10,1000}\.[A-Za-z0-9_-]{10,700})(?:$|[^0-9A-Za-z_-])", 2_220),
        NamedPattern("private_key", f"({_PEM_BEGIN}{_PEM_LINES}(?:{_LINE_END}{_PEM_END})?)", 8_200),
        NamedPattern("url_password", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"']{1,64}:([^\s:/@\"']{4,128})@[A-Za-z0-9.-]{1,253}", 480, _is_no_placeholder),
        NamedPattern(
            "assigned_secret",
            r"(?i:(?:api|access|auth|secret|private|client|encryption|signing|app|account)?[_-]?(?:key|token|secret|passwd|password|pwd|credential)s?[\"']?\s{0,3}(?:[:=]|=>|:=|is)\s{0,3}[\"'`]?)"
            r"([A-Za-z0-9_+/=.~!@#$%^&*-]{16,200})",
            260,
            is_disordered,
        ),
    ]  # fmt: skip


@cache
def built_in() -> Patterns:
    """Return them compiled, once in a process."""
    return Patterns(patterns())


def is_disordered(value: str) -> bool:
    """Say whether a value looks generated: digits and letters, no placeholder, more disorder than words have."""
    if not _is_no_placeholder(value) or not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
        return False
    count = len(value)
    bits = -sum(times / count * math.log2(times / count) for times in Counter(value).values())
    return bits >= _LEAST_BITS


def _begins_disordered(value: str) -> bool:
    """Say so of what a value begins with: nothing that is put behind a key makes it none."""
    return is_disordered(value[:_TELLING_CHARS])


def _is_no_placeholder(value: str) -> bool:
    lower = value.lower()
    return not any(word in lower for word in _PLACEHOLDERS) and len(set(value)) > 3
