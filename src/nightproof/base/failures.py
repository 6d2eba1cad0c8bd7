"""The catalogue of failure modes, as in an FMEA: every way a request can end badly has one name.

An ending carries its HTTP status (only `gateway/problems.py` reads it); a condition of the server has
none. Each entry has a runbook page, an alert and a drill; a test refuses an entry that lacks one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["page", "ticket", "none"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure mode: what it means and what belongs to it."""

    code: str
    title: str
    meaning: str
    statuses: tuple[int, ...]
    """HTTP statuses of an ending, the usual one first; empty for a condition of the server."""
    retryable: bool
    """Whether the same request may succeed later without being changed."""
    alert: str
    severity: Severity
    drill: str
    shed: bool = False
    """Ended before admission and cheap to send in masses: recorded as summaries, not one by one."""

    @property
    def runbook(self) -> str:
        """Name the runbook page: `runbooks/<code>.md`."""
        return self.code


def _alert_name(code: str) -> str:
    return "Nightproof" + "".join(part.capitalize() for part in code.split("_"))


def _ending(
    code: str,
    status: int | tuple[int, ...],
    title: str,
    meaning: str,
    *,
    retry: bool = False,
    severity: Severity = "ticket",
    drill: str,
    shed: bool = False,
) -> Failure:
    statuses = status if isinstance(status, tuple) else (status,)
    return Failure(
        code=code,
        title=title,
        meaning=meaning,
        statuses=statuses,
        retryable=retry,
        alert=_alert_name(code),
        severity=severity,
        drill=drill,
        shed=shed,
    )


def _condition(code: str, title: str, meaning: str, *, severity: Severity = "ticket", drill: str) -> Failure:
    return Failure(
        code=code,
        title=title,
        meaning=meaning,
        statuses=(),
        retryable=False,
        alert=_alert_name(code),
        severity=severity,
        drill=drill,
    )


_ALL = (
    # accept: what a caller can do wrong
    _ending(
        "malformed_request",
        (400, 404, 405, 414),
        "The request cannot be read",
        "The bytes are not HTTP, not JSON, or not the protocol's form.",
        drill="malformed_corpus",
    ),
    _ending(
        "unauthenticated",
        401,
        "No valid key",
        "The request carries no key, or one that is unknown, expired or revoked.",
        drill="stolen_key",
        shed=True,
    ),
    _ending(
        "forbidden",
        403,
        "The key may not do this",
        "The key is valid, but its role or its service does not cover the request.",
        drill="role_overreach",
    ),
    _ending(
        "unknown_service",
        404,
        "No such service",
        "No service, model or route of this name is served here.",
        drill="unknown_service",
    ),
    _ending(
        "slow_request",
        408,
        "The request took too long to arrive",
        "Headers or body came slower than the receiving limits allow.",
        retry=True,
        drill="slow_loris",
        shed=True,
    ),
    _ending(
        "idempotency_conflict",
        (409, 422),
        "The idempotency key is taken",
        "409: the first request with this key still runs. 422: it had another body.",
        retry=True,
        severity="none",
        drill="idempotency_conflict",
    ),
    _ending(
        "oversized_request",
        413,
        "The request is too large",
        "The body, or its number of records, is beyond the service's limit.",
        drill="oversized_body",
    ),
    _ending(
        "unsupported_media_type",
        415,
        "Wrong content type, charset or encoding",
        "The service reads JSON in UTF-8, not compressed.",
        drill="wrong_content_type",
    ),
    _ending(
        "invalid_input",
        422,
        "The input does not fit the schema",
        "A field is missing, unknown, of the wrong type, or outside what the service declares.",
        drill="invalid_input",
    ),
    _ending(
        "stale_input",
        422,
        "The input is too old, or from the future",
        "A field declared Fresh carries a time outside its window.",
        drill="stale_input",
    ),
    _ending(
        "poison_input",
        422,
        "This input kills the model",
        "This very record ended two fresh workers alone; it is in quarantine and not tried again.",
        severity="page",
        drill="poison_record",
    ),
    _ending(
        "injection_suspected",
        422,
        "The input looks like an attack",
        "An input check of the service found instructions where data belongs.",
        drill="prompt_injection",
    ),
    _ending(
        "headers_too_large",
        431,
        "The headers are too large",
        "One header, all headers together, or their number is beyond the receiving limits.",
        drill="large_headers",
        shed=True,
    ),
    # admit
    _ending(
        "quota_exceeded",
        429,
        "The key's quota is used up",
        "This key sends more requests than its quota allows; others are served.",
        retry=True,
        drill="greedy_caller",
        shed=True,
    ),
    _ending(
        "overloaded",
        503,
        "Too much work is waiting",
        "What is already queued would outlast this request's deadline, so it is refused at once.",
        retry=True,
        severity="page",
        drill="overload_10x",
        shed=True,
    ),
    _ending(
        "deadline_exceeded",
        504,
        "The deadline passed",
        "The caller's or the service's deadline passed before an answer was ready.",
        retry=True,
        drill="slow_model",
    ),
    _ending(
        "shutting_down",
        503,
        "The server is stopping",
        "The server drains: it finishes what it admitted and takes no more.",
        retry=True,
        severity="none",
        drill="sigterm_under_load",
        shed=True,
    ),
    # call
    _ending(
        "model_timeout",
        504,
        "The model ran over its time",
        "predict did not return within predict_timeout_ms; its worker was killed and replaced.",
        retry=True,
        severity="page",
        drill="slow_model",
    ),
    _ending(
        "model_crash",
        502,
        "The model ended its worker",
        "The worker process died while it held this request, and a retry did not help.",
        retry=True,
        severity="page",
        drill="worker_killed",
    ),
    _ending(
        "model_out_of_memory",
        502,
        "The model ran out of memory",
        "The worker reached its memory limit while it held this request.",
        retry=True,
        severity="page",
        drill="worker_out_of_memory",
    ),
    _ending(
        "model_error",
        502,
        "The model raised an exception",
        "predict, or a check of the service, raised an exception for this input.",
        severity="page",
        drill="model_raises",
    ),
    _ending(
        "model_unavailable",
        503,
        "No worker can answer",
        "No worker of the live release is ready: still loading, failing its golden cases, or out of restarts.",
        retry=True,
        severity="page",
        drill="golden_cases_wrong",
    ),
    # check
    _ending(
        "invalid_output",
        502,
        "The model's answer does not fit the schema",
        "The answer has a wrong type, NaN or infinity, a wrong length, or breaks a declared constraint.",
        severity="page",
        drill="model_answers_garbage",
    ),
    _ending(
        "unsafe_output",
        502,
        "An output check refused the answer",
        "A declared output check found something in the model's answer.",
        severity="page",
        drill="output_check_fails",
    ),
    _ending(
        "low_confidence",
        502,
        "The model is not sure enough",
        "The answer's confidence is under the service's floor and no fallback was left.",
        drill="low_confidence",
    ),
    # record
    _ending(
        "audit_unavailable",
        503,
        "The answer cannot be recorded",
        "The audit log cannot be written (full, read-only or locked), so no answer goes out.",
        retry=True,
        severity="page",
        drill="disk_full",
    ),
    _ending(
        "audit_outcome_unknown",
        503,
        "Whether this was recorded is not known",
        "The disk failed while the record was made durable; retry with the same Idempotency-Key.",
        retry=True,
        severity="page",
        drill="failing_fsync",
    ),
    # anywhere
    _ending(
        "internal_error",
        500,
        "A fault in Nightproof",
        "An exception that nobody expected; it is logged with its place, and it pages.",
        retry=True,
        severity="page",
        drill="internal_error",
    ),
    _ending(
        "caller_gone",
        499,
        "The caller left",
        "The connection closed before the answer was ready; the work was dropped. Nobody sees the status.",
        severity="none",
        drill="client_gone",
    ),
    # conditions of the server: no request ends by these names
    _condition(
        "workers_exhausted",
        "Workers die faster than the restart budget allows",
        "The pool stopped restarting for a while, since each restart failed.",
        severity="page",
        drill="load_never_ends",
    ),
    _condition(
        "golden_case_failed",
        "A worker answers a golden case wrongly",
        "A worker gave another answer than golden.jsonl expects and was taken out.",
        severity="page",
        drill="golden_cases_wrong",
    ),
    _condition(
        "unclean_stop",
        "The server ended without saying goodbye",
        "The last run was killed or lost power; recovery recorded the gap at this start.",
        drill="server_killed",
    ),
    _condition(
        "disk_low",
        "The state folder's disk is nearly full",
        "Less space is left than the watermark; when it is gone, no answer can be recorded.",
        severity="page",
        drill="disk_full",
    ),
    _condition(
        "spilling",
        "Records go to the side file",
        "The audit log cannot be written; services that declare spill are answered and recorded to spill.log.",
        severity="page",
        drill="spill_and_merge",
    ),
    _condition(
        "spill_full",
        "The side file takes no more records",
        "The spill reached its size or its time, or its disk fails too, so its services refuse like the others.",
        severity="page",
        drill="spill_to_the_brim",
    ),
    _condition(
        "witness_late",
        "Checkpoints do not reach the witness",
        "The last checkpoint that the witness took is too old; records since then could be rewritten unseen.",
        drill="witness_unreachable",
    ),
    _condition(
        "witness_refused",
        "The witness refuses our checkpoints",
        "The witness does not know this log, or says that it does not continue what the witness saw of it.",
        severity="page",
        drill="witness_sees_two_logs",
    ),
    _condition(
        "audit_rolled_back",
        "The audit log is not the one that was signed",
        "The log is shorter or another than a checkpoint held outside it, so nothing starts on it (exit 78).",
        severity="page",
        drill="older_ledger_restored",
    ),
    _condition(
        "audit_tampered",
        "Verification found a bad record",
        "A record was changed, deleted, inserted or moved after it was signed for; verify names the first one.",
        severity="page",
        drill="ledger_byte_flipped",
    ),
    _condition(
        "vault_locked",
        "The master key is missing or wrong",
        "Without the key that the vault was made with nothing can be sealed or opened: no start (exit 78).",
        severity="page",
        drill="master_key_lost",
    ),
    _condition(
        "content_unreadable",
        "A record's content does not open",
        "Its key is gone from the vault without an erasure, or key or content is damaged; the record stands.",
        drill="older_vault_restored",
    ),
    _condition(
        "drift_detected",
        "The data is not what the release was made for",
        "Inputs or answers moved away from the release's reference by more than chance and tolerance explain.",
        drill="data_drifts",
    ),
    _condition(
        "feedback_poisoned",
        "Labels look poisoned",
        "One source's labels contradict the model or the other sources far more than usual, or come as a flood.",
        drill="labels_poisoned",
    ),
    _condition(
        "certificate_expiring",
        "The TLS certificate ends soon",
        "The certificate that the server presents ends within its warning time.",
        drill="certificate_near_end",
    ),
    _condition(
        "certificate_reload_failed",
        "A new TLS certificate was refused",
        "SIGHUP asked for a reload and the new pair does not hold; the old one stays in use.",
        severity="page",
        drill="certificate_bad_reload",
    ),
)

CATALOGUE: dict[str, Failure] = {failure.code: failure for failure in _ALL}
"""Every failure mode by its code."""
