"""When a failure alerts, and what may stand behind it. Read by the alerts' rules and by who decides what is told."""

from __future__ import annotations

from nightproof.base.failure import Failure

ALERT_SHARES: dict[str, float] = {
    # One is too many: each is a fault of ours.
    "internal_error": 0.0,
    "audit_unavailable": 0.0,
    "audit_outcome_unknown": 0.0,
    # Anyone can send these; only a change of what callers do is news.
    "malformed_request": 0.3,
    "unauthenticated": 0.3,
    "forbidden": 0.2,
    "unknown_service": 0.3,
    "slow_request": 0.2,
    "oversized_request": 0.2,
    "unsupported_media_type": 0.3,
    "headers_too_large": 0.2,
    "invalid_input": 0.2,
    "stale_input": 0.2,
    "quota_exceeded": 0.2,
    "injection_suspected": 0.05,
    "hidden_text": 0.05,
    "personal_data": 0.1,
    "budget_exceeded": 0.2,
    "upstream_rejected": 0.1,
    "low_confidence": 0.1,
    # Rare by its nature, and the sign that an attack got as far as the model.
    "tool_denied": 0.02,
}
"""The share of requests that may end (or be answered by a fallback) so before it alerts, where it is not the usual."""

CAUSES: dict[str, tuple[str, ...]] = {
    "model_crash": ("poison_input", "model_out_of_memory"),
    "workers_exhausted": ("model_timeout", "model_crash", "model_out_of_memory", "golden_case_failed"),
    "model_unavailable": ("workers_exhausted", "golden_case_failed"),
    "overloaded": ("model_timeout", "model_crash", "workers_exhausted", "model_unavailable"),
    "deadline_exceeded": (
        "overloaded",
        "model_timeout",
        "workers_exhausted",
        "model_unavailable",
        "upstream_timeout",
        "upstream_down",
    ),
    "check_failed": ("overloaded", "workers_exhausted", "model_unavailable"),
    "upstream_down": ("upstream_command_failed",),
    "upstream_unreachable": ("upstream_down", "upstream_command_failed"),
    "upstream_timeout": ("upstream_down",),
    "upstream_error": ("upstream_down",),
    "upstream_broken": ("upstream_down", "upstream_command_failed"),
    "spilling": ("spill_full",),
    "witness_late": ("witness_refused",),
    "latency_burning": (
        "overloaded",
        "model_timeout",
        "workers_exhausted",
        "model_unavailable",
        "upstream_timeout",
        "upstream_limited",
        "upstream_down",
    ),
    "availability_burning": (
        "overloaded",
        "model_timeout",
        "model_crash",
        "model_out_of_memory",
        "model_error",
        "model_unavailable",
        "workers_exhausted",
        "invalid_output",
        "unsafe_output",
        "check_failed",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_limited",
        "upstream_error",
        "upstream_broken",
        "upstream_down",
        "upstream_command_failed",
        "audit_unavailable",
        "audit_outcome_unknown",
        "internal_error",
    ),
}
"""What may stand behind a failure: while such a cause is told, or about to be, its symptom is not told beside it."""

_USUAL_SHARE = {"page": 0.01, "ticket": 0.05}


def alert_share(failure: Failure) -> float | None:
    """Return the share of requests that may end by this failure before it alerts; None if endings do not alert."""
    if not failure.statuses or failure.severity == "none":
        return None
    return ALERT_SHARES.get(failure.code, _USUAL_SHARE[failure.severity])
