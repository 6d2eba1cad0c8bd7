"""The places that answer for a chat service, in order of preference: `upstream.openai(…)`, `upstream.command([…])`.

Both speak OpenAI's protocol: hosted ones, vLLM, Ollama, llama.cpp. A key is named by where it is, never written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from nightproof.base.errors import DeclarationError
from nightproof.declare.chat_description import UpstreamDescription

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_FILE = re.compile(r"file:/.+")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]+")
_PROXY = re.compile(r"http://[A-Za-z0-9.\[\]:_-]+:[0-9]{1,5}/?")
_ROUTE = "/chat/completions"
PORT_MARK = "{port}"
NOT_PARAMETERS = frozenset(("messages", "model", "stream", "stream_options", "n"))
"""Words of a request that are made for each call, and so belong in no declaration."""


def openai(
    name: str,
    *,
    base_url: str,
    model: str,
    secret: str = "",
    connect_ms: int = 2_000,
    first_token_ms: int = 10_000,
    idle_ms: int = 15_000,
    total_ms: int = 60_000,
    http2: bool = False,
    proxy: str = "",
    private: bool = False,
    max_in_flight: int = 256,
    input_price: float = 0.0,
    output_price: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
) -> UpstreamDescription:
    """Ask an OpenAI-compatible API, hosted or your own: `base_url` ends where `/chat/completions` would begin.

    `secret` says where its key is, `env:NAME` or `file:/PATH`; the key itself is never part of a service. Prices are
    per million tokens; `parameters` are sent to this upstream only, over the service's own. `proxy` is
    `http://host:port`, for calls of HTTP/1.1; with `private` its name may come to an address of a private network.
    """
    _refuse_bad_name(name)
    if proxy and (not isinstance(proxy, str) or not _PROXY.fullmatch(proxy) or http2):
        # Not quoted: it may hold a password.
        raise _wrong(name, "proxy cannot be used", "Give http://host:port without credentials, and no http2.")
    return _made(
        name,
        base_url=_url(name, base_url),
        model=model,
        secret=_reference(name, secret),
        connect_ms=connect_ms,
        first_token_ms=first_token_ms,
        idle_ms=idle_ms,
        total_ms=total_ms,
        http2=http2,
        proxy=proxy,
        private=private,
        max_in_flight=max_in_flight,
        input_price=input_price,
        output_price=output_price,
        parameters=parameters,
    )


def command(
    words: Sequence[str],
    *,
    model: str,
    name: str = "command",
    path: str = "/v1",
    connect_ms: int = 2_000,
    first_token_ms: int = 10_000,
    idle_ms: int = 15_000,
    total_ms: int = 60_000,
    max_in_flight: int = 256,
    input_price: float = 0.0,
    output_price: float = 0.0,
    parameters: Mapping[str, Any] | None = None,
) -> UpstreamDescription:
    """Ask a program that `serve` starts, supervises and ends: `upstream.command(["python", "upstream.py", "{port}"])`.

    It runs in the service's folder and listens on `127.0.0.1`, on the port that stands for `{port}`, serving OpenAI's
    protocol below `path`. The word `python` first is the interpreter that runs the service.
    """
    _refuse_bad_name(name)
    words = [words] if isinstance(words, str) else list(words)
    if not words or not all(isinstance(word, str) and word for word in words):
        raise _wrong(
            name,
            f"the command is {words!r}",
            'Give program and arguments: ["python", "upstream.py", "{port}"].',
        )
    if not any(PORT_MARK in word for word in words):
        raise _wrong(
            name,
            "the command has no {port}",
            "Put {port} where the program takes the port to listen on, for example --port {port}.",
        )
    if not isinstance(path, str) or not path.startswith("/"):
        raise _wrong(name, f"path is {path!r}", "Give the path before /chat/completions, for example /v1.")
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    return _made(
        name,
        base_url=f"http://127.0.0.1:{PORT_MARK}{path.rstrip('/')}",
        model=model,
        command=words,
        connect_ms=connect_ms,
        first_token_ms=first_token_ms,
        idle_ms=idle_ms,
        total_ms=total_ms,
        max_in_flight=max_in_flight,
        input_price=input_price,
        output_price=output_price,
        parameters=parameters,
    )


def _made(name: str, *, model: str, parameters: Mapping[str, Any] | None, **rest: Any) -> UpstreamDescription:
    if not isinstance(model, str) or not model.strip() or len(model) > 200 or not model.isprintable():
        raise _wrong(name, f"model is {model!r}", "Give the model's name as the upstream knows it.")
    for word, low, high in (
        ("connect_ms", 1, 60_000),
        ("first_token_ms", 1, 600_000),
        ("idle_ms", 1, 600_000),
        ("total_ms", 1, 600_000),
        ("max_in_flight", 1, 100_000),
        ("input_price", 0, 1e6),
        ("output_price", 0, 1e6),
    ):
        value = rest[word]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise _wrong(name, f"{word} is {value!r}", f"Give a number from {low:g} to {high:g}.")
    given = dict(parameters or {})
    if strange := sorted(NOT_PARAMETERS & given.keys()):
        raise _wrong(
            name, f"parameters holds {', '.join(strange)}", "These are made for each call; take them out."
        )
    return UpstreamDescription(name=name, model=model, parameters=given, **rest)


def _refuse_bad_name(name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DeclarationError(
            f"Upstream name {name!r} cannot be a metric's label.",
            hint="Use lower-case letters, digits, '.', '-' and '_', at most 63 in all.",
        )


def _url(name: str, base_url: Any) -> str:
    hint = "Give http(s)://host[:port]/path, for example http://127.0.0.1:11434/v1."
    if not isinstance(base_url, str):
        raise _wrong(name, f"base_url is {type(base_url).__name__}", hint)
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        raise _wrong(name, "base_url is no address", hint) from error
    if parts.username is not None or parts.password is not None:
        # Not quoted: it may hold a password.
        raise _wrong(name, "base_url holds credentials", 'Take them out; give secret="env:NAME".')
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise _wrong(name, f"base_url is {base_url!r}", hint)
    if parts.query or parts.fragment or not _HOST.fullmatch(parts.netloc) or not base_url.isprintable():
        raise _wrong(name, "base_url has more than host, port and path", hint)
    path = parts.path.rstrip("/")
    if path.endswith(_ROUTE):
        raise _wrong(name, f"base_url ends with {_ROUTE}", "Leave that out: it is added to each call.")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _reference(name: str, secret: Any) -> str:
    if secret == "":
        return ""
    if not isinstance(secret, str) or not (_ENV.fullmatch(secret) or _FILE.fullmatch(secret)):
        # Never quoted: what stands here by mistake is the key.
        raise _wrong(
            name,
            "secret is no reference, and may be the key itself",
            "Write where the key is: env:OPENAI_API_KEY or file:/run/secrets/openai. If it was the key, change it now.",
        )
    return secret


def _wrong(name: str, what: str, hint: str) -> DeclarationError:
    return DeclarationError(f"Upstream {name!r}: {what}.", hint=hint)
