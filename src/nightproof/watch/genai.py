"""OpenTelemetry's conventions for generative AI: every name that we use of them, in one place. Pure.

Taken at the version below, where all of them are still in development: a change of theirs is a change here and
nowhere else. Never text: what was asked and answered is in the audit log, sealed, and in no span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from nightproof.watch.chat_meters import GIVEN_UP, AttemptSeen, UsageSeen, answered_by
from nightproof.watch.telemetry import AttemptTrace

VERSION = "1.40.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{VERSION}"

OPERATION = "chat"
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - a name of theirs, no secret
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
SERVICE = "nightproof.service"
UPSTREAM = "nightproof.upstream"

METRICS: dict[str, tuple[str, str]] = {
    "nightproof_upstream_attempt_duration_seconds": ("gen_ai.client.operation.duration", "s"),
    "nightproof_upstream_first_token_seconds": ("gen_ai.client.operation.time_to_first_chunk", "s"),
    "nightproof_chat_exchange_tokens": ("gen_ai.client.token.usage", "{token}"),
}
"""Our histograms that are told under their names as well: the buckets are theirs already."""

_LABELS = {
    "service": SERVICE,
    "upstream": UPSTREAM,
    "model": REQUEST_MODEL,
    "failure": ERROR_TYPE,
    "kind": TOKEN_TYPE,
}
_PROVIDERS = (
    (".openai.azure.com", "azure.ai.openai"),
    (".services.ai.azure.com", "azure.ai.inference"),
    (".models.ai.azure.com", "azure.ai.inference"),
    (".amazonaws.com", "aws.bedrock"),
    (".aiplatform.googleapis.com", "gcp.vertex_ai"),
    (".generativelanguage.googleapis.com", "gcp.gemini"),
    (".ml.cloud.ibm.com", "ibm.watsonx.ai"),
    (".openai.com", "openai"),
    (".anthropic.com", "anthropic"),
    (".mistral.ai", "mistral_ai"),
    (".cohere.com", "cohere"),
    (".cohere.ai", "cohere"),
    (".groq.com", "groq"),
    (".deepseek.com", "deepseek"),
    (".perplexity.ai", "perplexity"),
    (".x.ai", "x_ai"),
)
"""By the end of the host's name: the providers that the conventions name."""
OTHER_PROVIDER = "openai_compatible"
"""Whoever else speaks the protocol: a server of one's own, mostly. The conventions allow a name of our own."""


class Endpoint(NamedTuple):
    """Where an upstream is, as spans and metrics name it."""

    provider: str = OTHER_PROVIDER
    address: str = ""
    port: int = 0


def endpoint_of(base_url: str) -> Endpoint:
    """Read provider, host and port from an address; what else is in it, a password say, is left out."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return Endpoint()
    if port is None:
        port = {"https": 443, "http": 80}.get(parts.scheme, 0)
    provider = next((name for end, name in _PROVIDERS if f".{host}".endswith(end)), OTHER_PROVIDER)
    return Endpoint(provider, host, port)


class ExchangeTraced(Protocol):
    """What is read of an exchange that becomes a trace; `pipeline` has the facts of it in this form."""

    @property
    def attempts(self) -> Sequence[AttemptSeen]:
        """Every try."""

    @property
    def usage(self) -> UsageSeen | None:
        """What was used in all."""

    @property
    def upstream(self) -> str:
        """Which one answered."""

    @property
    def model(self) -> str:
        """As the upstream names what answered."""

    @property
    def finish_reason(self) -> str:
        """How the answer ended."""


def attempt_traces(
    exchange: ExchangeTraced,
    endpoints: Mapping[str, Endpoint],
    *,
    began_s: float,
    began_us: int,
    call_us: int,
) -> tuple[AttemptTrace, ...]:
    """Make the traces of an exchange's tries.

    `began_s` and `began_us` are the request's begin on the monotonic and on the wall clock; `call_us` is how long
    after it the upstreams were asked, for tries whose begin nobody noted: these stand one after the other. What was
    not asked, since its breaker was open, is no try.
    """
    answer = answered_by(exchange.attempts, exchange.upstream)
    made = []
    at_us = began_us + call_us
    for one in exchange.attempts:
        if not one.duration_us:
            continue
        answered = one is answer
        if one.began_s:
            at_us = began_us + int((one.began_s - began_s) * 1e6)
        usage = exchange.usage if answered else None
        made.append(
            AttemptTrace(
                upstream=one.upstream,
                endpoint=endpoints.get(one.upstream, Endpoint()),
                request_model=one.model,
                response_model=exchange.model if answered else "",
                began_us=at_us,
                duration_us=one.duration_us,
                first_token_us=one.first_token_us,
                failure=GIVEN_UP if one.is_given_up else one.failure,
                input_tokens=usage.input_tokens if usage else 0,
                output_tokens=usage.output_tokens if usage else 0,
                finish_reason=exchange.finish_reason if answered else "",
            )
        )
        at_us += one.duration_us
    return tuple(made)


def span_name(attempt: AttemptTrace) -> str:
    """Name the span of a try."""
    return f"{OPERATION} {attempt.request_model}".rstrip()


def attributes_of(attempt: AttemptTrace, service: str) -> dict[str, Any]:
    """Return what the span of a try says; the failure is added to it as to every span."""
    told: dict[str, Any] = {
        OPERATION_NAME: OPERATION,
        PROVIDER_NAME: attempt.endpoint[0],
        REQUEST_MODEL: attempt.request_model,
        SERVICE: service,
        UPSTREAM: attempt.upstream,
    }
    more: dict[str, Any] = {
        SERVER_ADDRESS: attempt.endpoint[1],
        SERVER_PORT: attempt.endpoint[2] if attempt.endpoint[1] else 0,
        RESPONSE_MODEL: attempt.response_model,
        FINISH_REASONS: (attempt.finish_reason,) if attempt.finish_reason else (),
        FIRST_CHUNK: attempt.first_token_us / 1e6,
        INPUT_TOKENS: attempt.input_tokens,
        OUTPUT_TOKENS: attempt.output_tokens,
    }
    return told | {name: value for name, value in more.items() if value}


def metric_attributes(labels: Mapping[str, str], endpoint: Endpoint) -> dict[str, Any]:
    """Say our labels by the conventions' names."""
    told: dict[str, Any] = {OPERATION_NAME: OPERATION, PROVIDER_NAME: endpoint.provider}
    told |= {_LABELS[name]: value for name, value in labels.items() if value and name in _LABELS}
    if endpoint.address:
        told |= {SERVER_ADDRESS: endpoint.address, SERVER_PORT: endpoint.port}
    return told
