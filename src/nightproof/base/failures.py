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
    # chat services: what is asked, what answers, what may leave
    _ending(
        "hidden_text",
        422,
        "The text hides characters that nobody can see",
        "Tag characters, stripped controls or too many invisible ones: text for the model, not for people.",
        drill="hidden_text",
    ),
    _ending(
        "personal_data",
        422,
        "The input holds personal data or a secret",
        "A check of the service that refuses these found one; the record names its kind, not its value.",
        drill="personal_data",
    ),
    _ending(
        "check_failed",
        503,
        "A check gave no verdict",
        "An input or output check raised, or ran over its time, and the service says that this is a no.",
        retry=True,
        severity="page",
        drill="check_fails",
    ),
    _ending(
        "budget_exceeded",
        429,
        "The token or cost budget is used up",
        "The key, or the service as a whole, has used what its budget allows for this minute or day.",
        retry=True,
        drill="token_budget",
        shed=True,
    ),
    _ending(
        "upstream_unreachable",
        502,
        "The upstream cannot be reached",
        "No connection: refused, no such name, a certificate that does not hold, or its breaker is open.",
        retry=True,
        severity="page",
        drill="upstream_refused",
    ),
    _ending(
        "upstream_timeout",
        504,
        "The upstream did not answer in its time",
        "It ran over one of its clocks: connect, first token, idle between tokens, or total.",
        retry=True,
        severity="page",
        drill="upstream_hangs",
    ),
    _ending(
        "upstream_limited",
        503,
        "The upstream limits us",
        "It answered 429, or its limit of calls at once is reached; Retry-After is honoured.",
        retry=True,
        drill="upstream_429",
    ),
    _ending(
        "upstream_error",
        502,
        "The upstream answered with an error",
        "A 5xx, or a 4xx that is ours to mend: its key, its model's name, its address.",
        retry=True,
        severity="page",
        drill="upstream_500",
    ),
    _ending(
        "upstream_broken",
        502,
        "The upstream's answer is broken",
        "It was reset, cut short, malformed, too large, or of another type than asked for.",
        retry=True,
        severity="page",
        drill="upstream_reset",
    ),
    _ending(
        "upstream_rejected",
        400,
        "The upstream does not take this request",
        "It answered that the request itself is wrong: a parameter, a schema, or more text than fits.",
        drill="upstream_rejects",
    ),
    _ending(
        "tool_denied",
        422,
        "A tool call was held back",
        "The model called a tool that is not declared, with wrong arguments, or after reading untrusted content.",
        drill="tool_denied",
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
    # an operator's act
    _ending(
        "promotion_refused",
        (409, 422),
        "A release may not take this part",
        "The release does not load, was taken back before, or somebody else changed the service meanwhile.",
        severity="none",
        drill="two_operators_at_once",
    ),
    # conditions of the server: no request ends by these names
    _condition(
        "release_rolled_back",
        "The live release was rolled back by itself",
        "It broke its objectives within its probation, or all its workers fail golden cases; the one before is live.",
        severity="page",
        drill="bad_release_promoted",
    ),
    _condition(
        "canary_worse",
        "A canary is worse than the live release and was taken back",
        "A sequential test found it worse in a metric, or its golden cases fail; live stayed, it is latched.",
        drill="bad_release_as_canary",
    ),
    _condition(
        "canary_undecided",
        "A canary was taken back for want of data",
        "In the longest time that a step may take there were too few requests to judge the canary by.",
        drill="canary_without_traffic",
    ),
    _condition(
        "no_way_back",
        "The live release should go back and nothing stands behind it",
        "There is no release before it to roll back to, or the one before does not load.",
        severity="page",
        drill="bad_release_without_history",
    ),
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
        "upstream_down",
        "An upstream's breaker is open",
        "So many calls failed that it is not asked for a while; the next upstreams and fallbacks answer.",
        severity="page",
        drill="upstream_refused",
    ),
    _condition(
        "upstream_command_failed",
        "The program that serves a model does not stay up",
        "A command of the service's upstreams ended, or answers no health question, and its restarts did not help.",
        severity="page",
        drill="upstream_command_killed",
    ),
    _condition(
        "check_bypassed",
        "A check let requests pass without a verdict",
        "A check whose policy is open gave no verdict in its time; what it should have seen went on unseen.",
        severity="page",
        drill="check_fails",
    ),
    _condition(
        "unclean_stop",
        "The server ended without saying goodbye",
        "The last run was killed or lost power; recovery recorded the gap at this start.",
        drill="server_killed",
    ),
    _condition(
        "audit_writer_lost",
        "The log's writer was ended",
        "The process that writes the log ended by itself or was killed; another one took over what it held.",
        drill="audit_writer_killed",
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
        "clock_jumped",
        "The clock jumped ahead",
        "The wall clock moved an hour or more further than time passed; nothing is destroyed by time until looked at.",
        drill="clock_jump",
    ),
    _condition(
        "release_unsigned",
        "A release without a signature that counts",
        "It carries no signature, one by a key that is not trusted here, or one that does not hold.",
        drill="release_by_a_stranger",
    ),
    _condition(
        "release_damaged",
        "A release's bytes are not those that were signed",
        "A file of it was changed, is missing or does not belong there; none of it is loaded.",
        severity="page",
        drill="release_byte_flipped",
    ),
    _condition(
        "release_incompatible",
        "A release was made with another Python or framework",
        "The versions under its signature are not those at hand, so it is not loaded here.",
        severity="page",
        drill="release_on_another_framework",
    ),
    _condition(
        "release_refused",
        "The gate refused a release",
        "A file's format, the types, a golden case, the memory or the version's name spoke against it.",
        drill="release_worse_than_it_says",
    ),
    _condition(
        "history_not_kept",
        "What was is not remembered",
        "The meters' history cannot be written to watch.db; answers and the audit log are not touched by it.",
        drill="history_disk_full",
    ),
    _condition(
        "telemetry_failing",
        "Traces and metrics do not reach the collector",
        "The OpenTelemetry collector takes nothing, or its exporter is not installed; traces are dropped.",
        drill="collector_unreachable",
    ),
    _condition(
        "loop_lagging",
        "The server's event loop is held up",
        "For longer than health.loop_lag_s the server process did nothing else; every caller waited that long.",
        drill="server_held_up",
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
    _condition(
        "availability_burning",
        "The service fails more often than it promises",
        "Requests fail so fast that the objective's error budget of 30 days is used up long before they are over.",
        severity="page",
        drill="error_budget_burn",
    ),
    _condition(
        "latency_burning",
        "The service is slower than it promises",
        "More requests than the objective allows take longer than latency_p99_ms, for long enough to matter.",
        severity="page",
        drill="slow_budget_burn",
    ),
    _condition(
        "delivery_failing",
        "Alerts do not reach a receiver",
        "A receiver of alerts, or the dead-man's heartbeat, refuses or does not answer; what it missed is kept.",
        severity="page",
        drill="receiver_down",
    ),
    _condition(
        "watch_blind",
        "Something that is watched gives no figures",
        "A part of the server could not be asked for its state; whether it is well is not known.",
        severity="page",
        drill="reading_fails",
    ),
)

CATALOGUE: dict[str, Failure] = {failure.code: failure for failure in _ALL}
"""Every failure mode by its code."""
