"""The parts of the OpenAPI document that operations refer to: failures, headers, the protocols' forms.

Called by `gateway.openapi` only. Promises that each error status is described by the catalogue's own
words. Pure data; knows no service.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nightproof.base.failure import Failure
from nightproof.base.failures import CATALOGUE
from nightproof.gateway.oip import HEADER_LENGTH
from nightproof.gateway.tensors import DATATYPES

Json = dict[str, Any]

COMPONENTS = "#/components/schemas/"
ON_EVERY_REPLY = ("x-request-id", "traceparent", "Server-Timing", "Idempotent-Replayed")

_NOBODY_SEES = 499


def open_get(operation: str, tag: str, summary: str, responses: Json) -> Json:
    """Describe a GET that needs no key."""
    get = {
        "operationId": operation,
        "tags": [tag],
        "summary": summary,
        "security": [],
        "responses": responses,
    }
    return {"get": get}


def shared_schemas() -> Json:
    """Return the schemas that do not depend on any service."""
    scalar = {"type": ["number", "string", "boolean", "null"]}
    parameters = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    tensor = {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        "datatype": {"enum": sorted(DATATYPES)},
        "parameters": parameters,
        "data": {
            "type": "array",
            "description": "Flat or nested, row by row; not there where the tensor is binary data.",
            "items": {"anyOf": [scalar, {"type": "array", "items": scalar}]},
        },
    }
    described = {
        "name": {"type": "string"},
        "datatype": {"enum": sorted(DATATYPES)},
        "shape": {"type": "array", "items": {"type": "integer"}},
    }
    return {
        "FieldError": {
            "type": "object",
            "properties": {
                "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) to the field."},
                "detail": {"type": "string"},
            },
            "required": ["pointer", "detail"],
        },
        "Problem": {
            "title": "Problem details (RFC 9457)",
            "type": "object",
            "properties": {
                "type": {"type": "string", "format": "uri-reference"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "instance": {"type": "string", "format": "uri-reference"},
                "failure": {"enum": [failure.code for failure in _endings()]},
                "retryable": {
                    "type": "boolean",
                    "description": "Whether the same request may succeed later without being changed.",
                },
                "id": {"type": "string", "description": "The id of this request's record."},
                "hint": {"type": "string", "description": "What to do about it."},
                "errors": {"type": "array", "items": {"$ref": f"{COMPONENTS}FieldError"}},
                "items": {
                    "type": "array",
                    "description": "One per record, where a list was sent and none of it answered.",
                    "items": {"$ref": f"{COMPONENTS}RefusedItem"},
                },
            },
            "required": ["type", "title", "status", "detail", "failure", "retryable"],
        },
        "Degraded": {
            "title": "Why and by what a fallback answered",
            "type": "object",
            "properties": {
                "failure": {"enum": [failure.code for failure in _endings()]},
                "by": {"type": "string", "description": "The fallback that answered."},
            },
            "required": ["failure", "by"],
        },
        "RefusedItem": {
            "title": "A record without an answer",
            "type": "object",
            "properties": {
                "failure": {"enum": [failure.code for failure in _endings()]},
                "detail": {"type": "string"},
                "errors": {"type": "array", "items": {"$ref": f"{COMPONENTS}FieldError"}},
            },
            "required": ["failure", "errors"],
        },
        "v2.Error": {
            "title": "Error of Open Inference Protocol v2",
            "type": "object",
            "properties": {"error": {"type": "string"}},
            "required": ["error"],
        },
        "v2.Server": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "string"},
                "extensions": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["name", "version", "extensions"],
        },
        "v2.Model": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "versions": {"type": "array", "items": {"type": "string"}},
                "platform": {"type": "string"},
                "inputs": {"type": "array", "items": {"$ref": f"{COMPONENTS}v2.TensorMetadata"}},
                "outputs": {"type": "array", "items": {"$ref": f"{COMPONENTS}v2.TensorMetadata"}},
            },
            "required": ["name", "versions", "platform", "inputs", "outputs"],
        },
        "v2.ModelReady": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "ready": {"type": "boolean"}},
            "required": ["name", "ready"],
        },
        "v2.TensorMetadata": {
            "type": "object",
            "properties": described | {"parameters": parameters},
            "required": [*described],
        },
        "v2.Tensor": {
            "type": "object",
            "properties": tensor,
            "required": ["name", "shape", "datatype"],
        },
        "v2.Parameters": {
            "type": "object",
            "properties": {
                "binary_data_output": {
                    "type": "boolean",
                    "description": "All outputs as binary data unless they say otherwise.",
                },
                "timeout": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 10**12,
                    "description": "Microseconds; 0 means the service's own deadline.",
                },
                "priority": {"type": "integer", "description": "Read and not used."},
            },
        },
        "v2.Answer": {
            "title": "Inference response",
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string", "description": "The caller's own id, where one was given."},
                "parameters": {
                    "type": "object",
                    "properties": {"request_id": {"type": "string"}, "degraded": {"type": "boolean"}},
                    "required": ["request_id"],
                },
                "outputs": {"type": "array", "items": {"$ref": f"{COMPONENTS}v2.Tensor"}},
            },
            "required": ["model_name", "outputs"],
        },
    }


# ---- failures and headers


def _endings() -> list[Failure]:
    """Return the failures that a caller can be told of."""
    return [
        failure for failure in CATALOGUE.values() if failure.statuses and _NOBODY_SEES not in failure.statuses
    ]


def problem_responses() -> Json:
    """Describe each error status once, with the failures that end with it."""
    by_status: dict[int, list[Failure]] = {}
    for failure in _endings():
        for status in failure.statuses:
            by_status.setdefault(status, []).append(failure)
    responses = {}
    for status, failures in sorted(by_status.items()):
        names = [*ON_EVERY_REPLY]
        if any(failure.retryable for failure in failures):
            names.append("Retry-After")
        if status == 401:
            names.append("WWW-Authenticate")
        told = {"status": {"const": status}, "failure": {"enum": [failure.code for failure in failures]}}
        schema = {"allOf": [{"$ref": f"{COMPONENTS}Problem"}, {"properties": told}]}
        responses[f"problem-{status}"] = {
            "description": "\n".join(f"- `{failure.code}`: {failure.meaning}" for failure in failures),
            "headers": header_refs(names),
            "content": {"application/problem+json": {"schema": schema}},
        }
    return responses


def response_headers() -> Json:
    """Describe each header of a response once."""

    def text(description: str) -> Json:
        return {"description": description, "schema": {"type": "string"}}

    return {
        "x-request-id": text("The id of this request's record; name it when you ask the operator."),
        "Server-Timing": text("Milliseconds per stage, as browsers show them."),
        "traceparent": text("W3C trace context: the caller's trace where it sent one."),
        "nightproof-degraded": text("Where a fallback answered: `{failure}; by={fallback}`."),
        "nightproof-failure": text("The failure's name in the catalogue."),
        "Idempotent-Replayed": text("`true` where this is the recorded answer to an earlier request."),
        "Retry-After": {
            "description": "Seconds to wait before the same request may succeed.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "WWW-Authenticate": text("The scheme to authenticate with."),
        HEADER_LENGTH: {
            "description": "The size of the JSON part in bytes, where binary data follow it.",
            "schema": {"type": "integer", "minimum": 1},
        },
    }


def header_refs(names: Iterable[str]) -> Json:
    """Refer to headers of `response_headers`."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
