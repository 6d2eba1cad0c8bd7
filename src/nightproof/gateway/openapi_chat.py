"""The part of `/openapi.json` that is about chat services: the OpenAI routes, as far as they are served here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nightproof.declare.chat_description import ChatDescription
from nightproof.gateway.openapi_parts import ON_EVERY_REPLY, Json, header_refs

_ERRORS = {
    "400": "A parameter or a message has the wrong form, or the upstream does not take the request.",
    "401": "No valid key.",
    "403": "The key may not call this service.",
    "404": "No chat service of this name.",
    "408": "The request took too long to arrive.",
    "409": "The first request with this Idempotency-Key still runs.",
    "413": "The request is too large.",
    "415": "Not JSON.",
    "422": "A check refused the input, or a tool call was held back.",
    "429": "The key's quota or token budget is used up.",
    "499": "The caller left; nobody sees it.",
    "500": "A fault in Nightproof.",
    "502": "The upstream failed, or its answer may not leave.",
    "503": "Overloaded, not ready, limited by the upstream, or the answer cannot be recorded.",
    "504": "The deadline passed.",
}


def chat_schemas() -> Json:
    """Return the schemas that the routes refer to."""
    return {
        "ChatError": {
            "title": "Error in the form of the OpenAI API",
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": "string", "description": "The failure: see /problems/{failure}."},
                    },
                    "required": ["message", "type", "param", "code"],
                }
            },
            "required": ["error"],
        },
        "ChatCompletion": {
            "title": "A whole answer",
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "chat.completion"},
                "created": {"type": "integer"},
                "model": {"type": "string"},
                "choices": {"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": 1},
                "usage": {"type": "object"},
                "system_fingerprint": {"type": "string", "description": "The release that answered."},
                "nightproof": {"type": "object"},
            },
            "required": ["id", "object", "created", "model", "choices", "usage"],
        },
        "ModelList": {
            "title": "Chat services that the key may use",
            "type": "object",
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
            },
            "required": ["object", "data"],
        },
        "Model": {
            "title": "A chat service",
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "object": {"const": "model"},
                "created": {"type": "integer"},
                "owned_by": {"type": "string"},
            },
            "required": ["id", "object", "created", "owned_by"],
        },
    }


def chat_paths(chats: Sequence[tuple[str, ChatDescription]]) -> Json:
    """Return the routes for these chat services."""
    names = [name for name, _ in chats]
    parameters = sorted({one for _, chat in chats for one in chat.caller_parameters})
    return {
        "/v1/chat/completions": {
            "post": {
                "operationId": "chat",
                "tags": ["v1"],
                "summary": "Answer a chat, whole or as server-sent events",
                "description": "As the OpenAI API; `model` is a service's name, or `name@release`. A stream that "
                "breaks ends with an error and without `[DONE]`.",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": _request(names, parameters)}},
                },
                "responses": {
                    "200": {
                        "description": "The answer.",
                        "headers": header_refs(ON_EVERY_REPLY),
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletion"}},
                            "text/event-stream": {"schema": {"type": "string"}},
                        },
                    },
                    **_errors(_ERRORS),
                },
            }
        },
        "/v1/models": {"get": _get("listModels", "List the chat services", "ModelList", {})},
        "/v1/models/{model}": {
            "get": _get("showModel", "Show one chat service", "Model", {"404": _ERRORS["404"]}),
            "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
        },
    }


def _get(operation: str, summary: str, schema: str, more: dict[str, str]) -> Json:
    return {
        "operationId": operation,
        "tags": ["v1"],
        "summary": summary,
        "responses": {
            "200": {
                "description": "As the OpenAI API.",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
            },
            **_errors({"401": _ERRORS["401"], **more}),
        },
    }


def _request(names: list[str], parameters: list[str]) -> dict[str, Any]:
    message = {
        "type": "object",
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "object"}},
                    {"type": "null"},
                ]
            },
        },
        "required": ["role"],
    }
    return {
        "type": "object",
        "properties": {
            "model": {"type": "string", "examples": names},
            "messages": {"type": "array", "minItems": 1, "items": message},
            "stream": {"type": "boolean"},
            "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
            "user": {"type": "string", "description": "Whom the conversation is with; erased by this name."},
            **{name: {} for name in parameters},
        },
        "required": ["model", "messages"],
        "additionalProperties": False,
    }


def _errors(told: dict[str, str]) -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ChatError"}}}
    return {status: {"description": text, "content": content} for status, text in told.items()}
