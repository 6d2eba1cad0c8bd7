"""Write `/openapi.json`: what callers may send and will get, with the services' own schemas.

Called by the gateway whenever its set of live releases changes. Promises a valid OpenAPI 3.1 document in
which every reference resolves, and words that say what the catalogue of failures says. Pure: never does
I/O, never changes the descriptions it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nightproof.base.failures import CATALOGUE
from nightproof.declare.describe import Description
from nightproof.gateway.oip import HEADER_LENGTH
from nightproof.gateway.openapi_chat import chat_paths, chat_schemas
from nightproof.gateway.openapi_parts import (
    COMPONENTS,
    ON_EVERY_REPLY,
    Json,
    header_refs,
    open_get,
    problem_responses,
    response_headers,
    shared_schemas,
)
from nightproof.gateway.tensors import TensorSpec, tensors_of

_OUTSIDE_COMPONENT_NAMES = re.compile(r"[^A-Za-z0-9._-]")

# Where a JSON Schema holds other schemas; everything else in it is data and is left alone.
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLES = frozenset(
    {
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)


def document(
    services: Sequence[tuple[Description, str]], *, public_url: str = "", version: str
) -> dict[str, Any]:
    """Return the document for these services, each with the label of its live release."""
    paths: Json = {}
    schemas = shared_schemas()
    of_records = [one for one in services if one[0].chat is None or one[0].chat.is_typed]
    for description, release in of_records:
        schemas |= _service_schemas(description)
        paths[f"/services/{description.service}/predict"] = {"post": _predict(description, release)}
        paths[f"/services/{description.service}/feedback"] = {"post": _feedback(description)}
    paths |= _v2_server_paths()
    for description, _ in of_records:
        paths |= _v2_model_paths(description)
    chats = [
        (description.service, description.chat)
        for description, _ in services
        if description.chat and not description.chat.is_typed
    ]
    tags = [
        {"name": "services", "description": "One record or a list of them in, answers out."},
        {"name": "v2", "description": "Open Inference Protocol v2, with the binary tensor extension."},
        {"name": "health", "description": "For probes and monitoring."},
    ]
    if chats:
        paths |= chat_paths(chats)
        schemas |= chat_schemas()
        tags.append({"name": "v1", "description": "Chats, as the OpenAI API."})
    paths |= _probe_paths() | _page_paths()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightproof",
            "version": version,
            "summary": "Predictions that hold at three in the morning.",
            "description": "Errors of native routes are problem details (RFC 9457); `/problems/{failure}` "
            "explains each failure. Routes under `/v2` speak Open Inference Protocol v2.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url.rstrip("/") or "/"}],
        "security": [{"key": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": problem_responses(),
            "headers": response_headers(),
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, made with `nightproof keys create`.",
                }
            },
        },
    }


# ---- schemas


def _service_schemas(description: Description) -> Json:
    """Move both schemas of a service, and all that they define, under names of its own."""
    name = description.service
    schemas = _moved(description.input_schema, f"{name}.input") | _moved(
        description.output_schema, f"{name}.output"
    )
    answer = {
        "output": {"$ref": f"{COMPONENTS}{name}.output"},
        "degraded": {"anyOf": [{"type": "null"}, {"$ref": f"{COMPONENTS}Degraded"}]},
    }
    head = {
        "id": {"type": "string", "description": "The id of this request's record in the audit log."},
        "service": {"const": name},
        "release": {"type": "string", "description": "The release that was live for this request."},
    }
    schemas[f"{name}.answer"] = {
        "title": "Answer to one record",
        "type": "object",
        "properties": head | answer,
        "required": [*head, *answer],
    }
    item = {
        "title": "An answered record",
        "type": "object",
        "properties": answer,
        "required": [*answer],
    }
    schemas[f"{name}.answers"] = {
        "title": "Answer to a list",
        "type": "object",
        "properties": head
        | {
            "items": {
                "type": "array",
                "description": "One item per record, in their order.",
                "minItems": 1,
                "maxItems": description.max_items,
                "items": {"oneOf": [item, {"$ref": f"{COMPONENTS}RefusedItem"}]},
            }
        },
        "required": [*head, "items"],
    }
    return schemas


def _moved(schema: Json, home: str) -> Json:
    """Return the schema and its definitions as components, with every reference led to its new place."""
    names = {
        old: f"{home}.{_OUTSIDE_COMPONENT_NAMES.sub('_', old)}" for old in sorted(schema.get("$defs", {}))
    }

    def lead(reference: str) -> str:
        if not reference.startswith("#"):
            return reference
        steps = reference[1:].split("/")[1:]
        if len(steps) >= 2 and steps[0] == "$defs":
            old = steps[1].replace("~1", "/").replace("~0", "~")
            return COMPONENTS + "/".join([names.get(old, old), *steps[2:]])
        return COMPONENTS + "/".join([home, *steps])

    moved = {
        home: _led(
            {key: part for key, part in schema.items() if key not in ("$defs", "$schema", "$id")}, lead
        )
    }
    for old, new in names.items():
        moved[new] = _led(schema["$defs"][old], lead)
    return moved


def _led(schema: Any, lead: Callable[[str], str]) -> Any:
    """Copy a schema with each reference in it led elsewhere; constants and examples stay as they are."""
    if not isinstance(schema, dict):
        return schema
    copied: Json = {}
    for key, part in schema.items():
        if key == "$ref" and isinstance(part, str):
            copied[key] = lead(part)
        elif key in _MAPS and isinstance(part, dict):
            copied[key] = {name: _led(inner, lead) for name, inner in part.items()}
        elif key in _LISTS and isinstance(part, list):
            copied[key] = [_led(inner, lead) for inner in part]
        elif key in _SINGLES:
            copied[key] = _led(part, lead)
        elif key == "discriminator" and isinstance(part, dict) and "mapping" in part:
            copied[key] = part | {"mapping": {tag: lead(target) for tag, target in part["mapping"].items()}}
        else:
            copied[key] = part
    return copied


# ---- native route


def _predict(description: Description, release: str) -> Json:
    name = description.service
    record = {"$ref": f"{COMPONENTS}{name}.input"}
    many = {"type": "array", "items": record, "minItems": 1, "maxItems": description.max_items}
    replies = [{"$ref": f"{COMPONENTS}{name}.answer"}, {"$ref": f"{COMPONENTS}{name}.answers"}]
    return {
        "operationId": f"predict_{name}",
        "tags": ["services"],
        "summary": f"Ask {name}",
        "description": f"The live release is `{release}`, the deadline {description.deadline_ms} ms. "
        f"A list holds at most {description.max_items} records and is answered item by item.",
        "parameters": [
            {
                "name": "x-request-timeout-ms",
                "in": "header",
                "description": "The caller's own deadline; it can only shorten the service's.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
            },
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The same key with the same body gives the recorded answer again.",
                "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"anyOf": [record, many]}}},
        },
        "responses": {
            "200": {
                "description": "Answered, perhaps by a fallback; then `degraded` says why and by which.",
                "headers": header_refs([*ON_EVERY_REPLY, "nightproof-degraded"]),
                "content": {"application/json": {"schema": {"oneOf": replies}}},
            },
            **{
                key.removeprefix("problem-"): {"$ref": f"#/components/responses/{key}"}
                for key in problem_responses()
            },
        },
    }


def _feedback(description: Description) -> Json:
    name = description.service
    label = {
        "type": "object",
        "required": ["id", "label"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "description": "The answer's id, which is its x-request-id."},
            "item": {"type": "integer", "minimum": 0, "description": "The record's place in a list; 0 else."},
            "label": {
                "type": "object",
                "minProperties": 1,
                "description": "Fields of the output with their right values, not the confidence.",
            },
        },
    }
    became = {
        "type": "object",
        "required": ["request", "item", "label"],
        "properties": {
            "request": {"type": "string"},
            "item": {"type": "integer"},
            "label": {"enum": ["counted", "held", "duplicate"]},
        },
    }
    reply = {
        "type": "object",
        "required": ["id", "service", "release"],
        "properties": {
            "id": {"type": "string"},
            "service": {"type": "string"},
            "release": {"type": "string"},
            "output": became,
            "degraded": {"type": "null"},
            "items": {"type": "array", "items": {"type": "object"}},
        },
    }
    return {
        "operationId": f"feedback_{name}",
        "tags": ["services"],
        "summary": f"Say what {name} should have answered",
        "description": "Labels by request id, late or not, one for each prediction; the same label again does no"
        " harm. A key labels what it asked itself, unless its role is operate or admin.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "anyOf": [label, {"type": "array", "items": label, "minItems": 1, "maxItems": 1_000}]
                    }
                }
            },
        },
        "responses": {
            "200": {
                "description": "Taken in. Of a list each label has its own result.",
                "headers": header_refs(ON_EVERY_REPLY),
                "content": {"application/json": {"schema": reply}},
            },
            **{
                key.removeprefix("problem-"): {"$ref": f"#/components/responses/{key}"}
                for key in problem_responses()
            },
        },
    }


# ---- Open Inference Protocol v2


def _answer_of(schema_name: str, description: str, *, status: int = 200) -> Json:
    content = {"application/json": {"schema": {"$ref": COMPONENTS + schema_name}}}
    return {str(status): {"description": description, "content": content}}


def _v2_error() -> Json:
    return _answer_of("v2.Error", "Refused or failed, in the protocol's own form.")


def _v2_get(operation: str, summary: str, responses: Json) -> Json:
    (error,) = _v2_error().values()
    return open_get(operation, "v2", summary, responses | {"default": error})


def _v2_server_paths() -> Json:
    def state(*keys: str) -> Json:
        schema = {"type": "object", "properties": {key: {"type": "boolean"} for key in keys}}
        return {"content": {"application/json": {"schema": schema}}}

    live = {"200": {"description": "The server is live.", **state("live")}}
    ready = {
        "200": {"description": "Every service can answer.", **state("live", "ready")},
        "503": {"description": "Not ready.", **state("live", "ready")},
    }
    return {
        "/v2": _v2_get("v2_server", "Server metadata", _answer_of("v2.Server", "The server.")),
        "/v2/health/live": _v2_get("v2_live", "Is the server live?", live),
        "/v2/health/ready": _v2_get("v2_ready", "Is the server ready?", ready),
    }


def _v2_model_paths(description: Description) -> Json:
    """Describe the protocol's routes of one service, with and without a version in the path."""
    name = description.service
    paths: Json = {}
    version = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
    for suffix, mark, shared in (("", "", []), ("/versions/{version}", "_version", [version])):
        base = f"/v2/models/{name}{suffix}"
        model = _v2_get(f"v2_model{mark}_{name}", f"Metadata of {name}", _answer_of("v2.Model", "The model."))
        ready = _v2_get(
            f"v2_model_ready{mark}_{name}",
            f"Is {name} ready?",
            _answer_of("v2.ModelReady", "Ready.") | _answer_of("v2.ModelReady", "Not ready.", status=503),
        )
        infer = {"post": _v2_infer(description, f"v2_infer{mark}_{name}")}
        for path, item in ((base, model), (f"{base}/ready", ready), (f"{base}/infer", infer)):
            paths[path] = ({"parameters": shared} if shared else {}) | item
    return paths


def _v2_infer(description: Description, operation: str) -> Json:
    inputs = tensors_of(description.input_schema)
    outputs = tensors_of(description.output_schema)
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    (error,) = _v2_error().values()
    return {
        "operationId": operation,
        "tags": ["v2"],
        "summary": f"Ask {description.service} with tensors",
        "description": "Every input tensor holds one value per record, `[n]` or `[n, 1]`. "
        "Services whose fields are all numbers also take one matrix `[n, fields]` under any name.",
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "description": "The size of the JSON part in bytes, where binary data follow it.",
                "schema": {"type": "integer", "minimum": 1},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _v2_request(inputs, outputs)}} | binary,
        },
        "responses": {
            "200": {
                "description": "Answered; `parameters.degraded` says whether a fallback did.",
                "headers": header_refs([*ON_EVERY_REPLY, "nightproof-degraded", HEADER_LENGTH]),
                "content": {"application/json": {"schema": {"$ref": f"{COMPONENTS}v2.Answer"}}} | binary,
            },
            "default": error
            | {"headers": header_refs([*ON_EVERY_REPLY, "nightproof-failure", "Retry-After"])},
        },
    }


def _v2_request(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Json:
    forms: list[Json] = [
        {"properties": {"name": {"const": spec.name}, "datatype": {"enum": spec.accepts}}} for spec in inputs
    ]
    if all(spec.kind in ("number", "integer") for spec in inputs):
        forms.append({"title": "One matrix of all fields", "properties": {"shape": {"minItems": 2}}})
    wanted = {
        "type": "object",
        "properties": {
            "name": {"enum": [spec.name for spec in outputs]},
            "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
        },
        "required": ["name"],
    }
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "parameters": {"$ref": f"{COMPONENTS}v2.Parameters"},
            "inputs": {
                "type": "array",
                "minItems": 1,
                "items": {"allOf": [{"$ref": f"{COMPONENTS}v2.Tensor"}, {"anyOf": forms}]},
            },
            "outputs": {"type": "array", "items": wanted},
        },
        "required": ["inputs"],
    }


# ---- probes and pages


def _json(properties: Json) -> Json:
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {"application/json": {"schema": schema}}


def _probe_paths() -> Json:
    boolean: Json = {"type": "boolean"}
    text: Json = {"type": "string"}
    plain: Json = {"text/plain": {"schema": text}}

    def states(yes: str, no: str, content: Json) -> Json:
        return {
            "200": {"description": yes, "content": content},
            "503": {"description": no, "content": content},
        }

    component = _json({"name": text, "ok": boolean, "why": text})["application/json"]["schema"]
    health = _json({"ok": boolean, "components": {"type": "array", "items": component}})
    ready = open_get(
        "readyz", "health", "Can it answer?", states("It can.", "Not now.", _json({"ready": boolean}) | plain)
    )
    ready["get"]["parameters"] = [
        {
            "name": "verbose",
            "in": "query",
            "description": "Tell each component on a line.",
            "allowEmptyValue": True,
            "schema": {"const": ""},
        }
    ]
    live = {"200": {"description": "It lives.", "content": _json({"live": boolean})}}
    started = states("It has.", "Not yet.", _json({"started": boolean}))
    numbers = {
        "200": {"description": "Now.", "content": plain | {"application/openmetrics-text": {"schema": text}}}
    }
    return {
        "/livez": open_get("livez", "health", "Does the server live?", live),
        "/readyz": ready,
        "/startupz": open_get("startupz", "health", "Has it started?", started),
        "/healthz": open_get(
            "healthz", "health", "How is each component?", states("Well.", "Something is wrong.", health)
        ),
        "/metrics": open_get("metrics", "health", "Metrics for Prometheus", numbers),
    }


def _page_paths() -> Json:
    """Describe the pages that explain failures, which every problem document links to."""
    failure = {"name": "failure", "in": "path", "required": True, "schema": {"enum": sorted(CATALOGUE)}}
    unknown = {"404": {"$ref": "#/components/responses/problem-404"}}
    meaning = _json(
        {"failure": {"type": "string"}, "title": {"type": "string"}, "meaning": {"type": "string"}}
    )
    runbook: Json = {"text/markdown": {"schema": {"type": "string"}}}
    paths: Json = {}
    for path, summary, content in (
        ("/problems/{failure}", "What does a failure mean?", meaning),
        ("/runbooks/{failure}", "What is to be done about it?", runbook),
    ):
        page = {"200": {"description": "The page.", "content": content}}
        operation = path.split("/")[1]
        paths[path] = {"parameters": [failure]} | open_get(operation, "health", summary, page | unknown)
    return paths
