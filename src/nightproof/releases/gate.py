"""Decide whether a release is accepted, from what was found of it. Findings are data; the decision is pure.

Called by `steer.releasing`, which gathers the findings. A kind of finding either always refuses, or refuses unless
the policy allows it, or is told and never decides. Evidence never decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Kind = Literal[
    "unsigned", "untrusted_key", "wrong_signature", "malformed", "wrong_service", "damaged", "version_taken",
    "pickle", "native_code", "unknown_format", "disguised", "not_looked_at", "evidence",
    "schema_breaking", "schema_additive", "chat_breaking", "chat_changed", "schema_lies", "versions_differ",
    "load_failed", "golden_failed", "out_of_memory", "no_golden_cases", "useless_fallback",
]  # fmt: skip


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found of a release."""

    kind: Kind
    subject: str
    """What it is about: a file, a key, a field."""
    text: str
    hint: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator allows."""

    allow_pickle: bool = True
    """Of releases signed by a trusted key; of others nothing is accepted anyway."""
    also_allow: frozenset[str] = frozenset()
    """Endings of files of an unknown format that are taken."""
    allow_breaking: bool = False


class Decision(msgspec.Struct, frozen=True):
    """Yes, or no by the catalogue's name of why."""

    accepted: bool
    failure: str = ""
    text: str = ""
    hint: str = ""
    refusing: list[Finding] = []
    """All that refuses, the first of which is told."""


_FAILURE_OF: dict[Kind, str] = {
    "unsigned": "release_unsigned",
    "untrusted_key": "release_unsigned",
    "wrong_signature": "release_unsigned",
    "malformed": "release_damaged",
    "damaged": "release_damaged",
    "schema_lies": "release_damaged",
    "versions_differ": "release_incompatible",
}
"""Others end as `release_refused`."""
_NEVER_REFUSE: frozenset[Kind] = frozenset(
    {"evidence", "schema_additive", "chat_changed", "no_golden_cases", "useless_fallback"}
)


def decide(findings: Sequence[Finding], policy: Policy) -> Decision:
    """Say whether a release with these findings is accepted.

    >>> pickle = Finding("pickle", "artifacts/model.joblib", "It is a pickle.")
    >>> decide([pickle], Policy()).accepted, decide([pickle], Policy(allow_pickle=False)).failure
    (True, 'release_refused')
    """
    refusing = [one for one in findings if _refuses(one, policy)]
    if not refusing:
        return Decision(accepted=True)
    first = refusing[0]
    more = f" ({len(refusing) - 1} more findings refuse it.)" if len(refusing) > 1 else ""
    return Decision(
        accepted=False,
        failure=_FAILURE_OF.get(first.kind, "release_refused"),
        text=f"{first.subject}: {first.text}{more}" if first.subject else f"{first.text}{more}",
        hint=first.hint,
        refusing=refusing,
    )


def _refuses(finding: Finding, policy: Policy) -> bool:
    if finding.kind in _NEVER_REFUSE:
        return False
    if finding.kind == "pickle":
        return not policy.allow_pickle
    if finding.kind in ("schema_breaking", "chat_breaking"):
        return not policy.allow_breaking
    if finding.kind == "unknown_format":
        return not any(finding.subject.lower().endswith(ending) for ending in policy.also_allow)
    return True
