"""An OpenAI-compatible upstream that lies: a real server program, in a process of its own, that misbehaves on demand.

What it does with a request stands in the request's model name: `ok`, `status 429 2`, `hang`, … (see `lie_about`), or
in what was made of that name with `Liar.behave`; of every name by `*`, of requests that hold a text by `?` and that
text. It counts what it is sent and which connections were closed on it, so that a drill or a test can see from the
other side that nobody was left hanging. It imports nothing of ours, so that it starts in a moment.

    with lying() as liar:
        liar.url            # http://127.0.0.1:PORT/v1
        liar.behave("primary", "hang")
        liar.seen("primary").requests
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ["Good ", "night, ", "die ", "Nächte ", "are ", "länger ", "🌙."]
TEXT = "".join(WORDS)
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
HANGS_S = 60.0


class Gone(Exception):
    """The other side closed the connection."""


@dataclass
class Asked:
    """One request, as it came."""

    model: str
    lie: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def send(self, data: bytes) -> None:
        """Send bytes so that they leave in a packet of their own."""
        if self.writer.is_closing():
            raise Gone
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0.002)

    async def hang(self, seconds: float = HANGS_S) -> None:
        """Say nothing, until the time is over or the other side hangs up."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(1024):
                    pass
        except TimeoutError:
            return
        raise Gone

    def reset(self) -> None:
        """Close so that the other side sees a reset."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0
        self.writer.transport.abort()
        raise Gone


def answer(asked: Asked, text: str = TEXT, **over: Any) -> dict[str, Any]:
    """Return a whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": f"{asked.model}-2026",
        "choices": [choice], "usage": USAGE, "what_nobody_knows": [1, {"a": None}],
    } | over  # fmt: skip


def head(status: int = 200, kind: str = "application/json", **more: Any) -> bytes:
    """Return the head of an answer."""
    lines = [f"HTTP/1.1 {status} Because", f"content-type: {kind}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(status: int, body: bytes, kind: str = "application/json", **more: Any) -> bytes:
    """Return an answer with its length."""
    return head(status, kind, content_length=len(body), **more) + body


def said(asked: Asked, **over: Any) -> bytes:
    """Return a whole answer as bytes."""
    return whole(200, json.dumps(answer(asked, **over)).encode())


def chunk(data: bytes) -> bytes:
    """Return a chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def piece(asked: Asked, delta: dict[str, Any] | None, **over: Any) -> bytes:
    """Return one event of a stream."""
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": over.pop("finish", None)}]
    )
    made = {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": f"{asked.model}-2026",
        "choices": choices,
    } | over  # fmt: skip
    return b"data: " + json.dumps(made, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def events(asked: Asked, text: str = TEXT, *, usage: Any = USAGE, **over: Any) -> list[bytes]:
    """Return a whole stream, event by event."""
    words = WORDS if text == TEXT else re.findall(r"\s*\S+|\s+$", text)
    return [
        piece(asked, {"role": "assistant", "content": ""}, **over),
        *[piece(asked, {"content": word}, **over) for word in words],
        piece(asked, {}, finish="stop", **over),
        *([piece(asked, None, usage=usage, **over)] if usage is not None else []),
        DONE,
    ]


async def begin(asked: Asked) -> None:
    """Send the head of a stream."""
    await asked.send(head(200, "text/event-stream; charset=utf-8", transfer_encoding="chunked"))


async def stream(asked: Asked, sent: list[bytes], *, ends: bool = True) -> None:
    """Send a stream, event by event."""
    await begin(asked)
    for event in sent:
        await asked.send(chunk(event))
    if ends:
        await asked.send(b"0\r\n\r\n")


async def as_bytes(asked: Asked, sent: bytes, size: int = 1) -> None:
    """Send a stream in chunks of so many bytes."""
    await begin(asked)
    for at in range(0, len(sent), size):
        asked.write(chunk(sent[at : at + size]))
        if at % 64 == 0:
            await asked.writer.drain()
    await asked.send(b"0\r\n\r\n")


# -- what the model is given, and what it may make of it ------------------------------------------

LINKS = re.compile(r"!?\[[^\]]*\]\([^)]*\)|https?://\S+")
DATA_MARK = "\ue000"
"""What marked documents have in place of spaces."""


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text, whatever its form, with marked spaces read as spaces."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content)
    return str(content).replace(DATA_MARK, " ")


def prompt_of(asked: Asked) -> str:
    """Return what the operator says to the model."""
    return "\n".join(text_of(one) for one in asked.body["messages"] if one.get("role") == "system")


LEAKS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "spaced": lambda text: " ".join(text),
    "reversed": lambda text: text[::-1],
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
}
"""How a model that obeys may write down what it must not say."""


def obeyed(asked: Asked) -> str:
    """Do what any text in the conversation says: show its links and images, repeat it, and tell the prompt."""
    said = "\n".join(text_of(one) for one in asked.body["messages"] if one.get("role") != "system")
    return f"As you wish. {' '.join(LINKS.findall(said))}\n{said}\n"


def fitting(schema: Mapping[str, Any], root: Mapping[str, Any], text: str) -> Any:
    """Return the plainest value that fits a JSON schema; texts are the given one."""
    if reference := schema.get("$ref"):
        return fitting(root.get("$defs", {}).get(str(reference).rpartition("/")[2], {}), root, text)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return fitting(schema[word][0], root, text)
    match schema.get("type", "object" if "properties" in schema else "string"):
        case "object":
            return {name: fitting(part, root, text) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [fitting(schema.get("items", {}), root, text) for _ in range(schema.get("minItems", 0))]
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return True
        case "null":
            return None
    return text[: schema.get("maxLength", len(text))]


def calls_of(names: list[str], arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Write calls of these tools."""
    written = json.dumps(arguments)
    return [
        {"id": f"call_{at + 1}", "type": "function", "function": {"name": name, "arguments": written}}
        for at, name in enumerate(names)
    ]


async def tell(asked: Asked, text: str, calls: list[dict[str, Any]] | None = None) -> None:
    """Answer with this text and these calls of tools, as it was asked for: whole or streamed."""
    wanted = asked.body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"].get("schema", {})
        text = json.dumps(fitting(schema, schema, text))
    finish = "tool_calls" if calls else "stop"
    if not asked.body.get("stream"):
        message = {"role": "assistant", "content": text or None} | ({"tool_calls": calls} if calls else {})
        await asked.send(said(asked, choices=[{"index": 0, "message": message, "finish_reason": finish}]))
        return
    sent = events(asked, text)
    if calls:
        begun = [piece(asked, {"tool_calls": [call | {"index": at}]}) for at, call in enumerate(calls)]
        sent[-3:-2] = [*begun, piece(asked, {}, finish=finish)]
    await stream(asked, sent)


OF_WHOLE_ANSWERS = {
    "hang_mid": "hang_half", "reset_mid": "reset_half", "malformed": "not_json", "error_mid": "error_200",
    "raw_error_mid": "error_200", "close_mid": "early_end", "half_event": "early_end", "truncated": "early_json",
    "no_done": "no_finish", "empty": "early_json",
}  # fmt: skip
"""What lies about streams come to where an answer is asked for whole."""


async def lie_about(asked: Asked) -> None:
    """Do with a request what its lie says."""
    name, *words = asked.lie.split()
    streamed = bool(asked.body.get("stream"))
    if not streamed:
        name = OF_WHOLE_ANSWERS.get(name, name)
    match name:
        case "ok":
            await (stream(asked, events(asked)) if streamed else asked.send(said(asked)))
        case "say":  # this text, written as JSON
            await tell(asked, json.loads(asked.lie.partition(" ")[2]))
        case "say_after":  # milliseconds before the head, and then this text, written as JSON
            await asked.hang(float(words[0]) / 1e3)
            await tell(asked, json.loads(asked.lie.split(" ", 2)[2]))
        case "obey":
            tools = [one["function"]["name"] for one in asked.body.get("tools") or ()]
            await tell(asked, obeyed(asked), calls_of(tools, {"order": "1042"}))
        case "obey_and_tell":
            await tell(asked, obeyed(asked) + prompt_of(asked))
        case "leak":  # the prompt, in one of the forms of LEAKS
            await tell(asked, LEAKS[words[0]](prompt_of(asked)))
        case "call":  # a tool, and its arguments as JSON
            await tell(asked, "", calls_of([words[0]], json.loads(asked.lie.split(" ", 2)[2])))
        case "slow":  # milliseconds before the head
            await asked.hang(float(words[0]) / 1e3)
            await (stream(asked, events(asked)) if streamed else asked.send(said(asked)))
        case "status":  # a status, and a Retry-After: seconds, a date, or Nms
            more = {}
            if words[1:]:
                told = " ".join(words[1:])
                more = {"retry_after_ms": told[:-2]} if told.endswith("ms") else {"retry_after": told}
            error = {
                "error": {"message": "SECRET-OF-THE-UPSTREAM", "type": "x", "code": "insufficient_quota"}
            }
            await asked.send(whole(int(words[0]), json.dumps(error).encode(), **more))
        case "huge_error":
            await asked.send(head(500, "text/plain", transfer_encoding="chunked"))
            while True:
                await asked.send(chunk(b"x" * 65_536))
        case "redirect":
            await asked.send(whole(307, b"", location=words[0] if words else "http://169.254.169.254/latest"))
        case "closed":
            return
        case "reset":
            asked.reset()
        case "hang":
            await asked.hang()
        case "drip_head":
            for byte in head():
                await asked.send(bytes([byte]))
                await asked.hang(0.2)
        case "not_http":
            await asked.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        case "html":
            await asked.send(whole(200, b"<html>It works!</html>", "text/html"))
        case "no_type":
            await asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        case "wrong_type":
            await asked.send(whole(200, said(asked).partition(b"\r\n\r\n")[2], "application/octet-stream"))
        case "gzip":
            await asked.send(whole(200, b"\x1f\x8b", "application/json", content_encoding="gzip"))
        case "not_json":
            await asked.send(whole(200, b"SECRET-OF-THE-UPSTREAM"))
        case "early_json":
            await asked.send(whole(200, json.dumps(answer(asked)).encode()[:-9]))
        case "hang_half":
            await asked.send(said(asked)[:-9])
            await asked.hang()
        case "reset_half":
            await asked.send(said(asked)[:-9])
            asked.reset()
        case "early_end":
            await asked.send(said(asked)[:-9])
        case "array":
            await asked.send(whole(200, b"[]"))
        case "bad_utf8":
            if streamed:
                await stream(
                    asked, [events(asked)[1], piece(asked, {"content": "§"}).replace("§".encode(), b"\xff")]
                )
            else:
                await asked.send(whole(200, json.dumps(answer(asked)).encode().replace(b"Good", b"\xff\xfe")))
        case "gigantic":  # a chunk of a gigabyte
            kind, start = ("text/event-stream", b"data: ") if streamed else ("application/json", b'{"a":"')
            await asked.send(head(200, kind, transfer_encoding="chunked") + b"40000000\r\n" + start)
            while True:
                await asked.send(b"x" * 262_144)
        case "two_choices":
            one = answer(asked)["choices"][0]
            if streamed:
                await stream(
                    asked, [piece(asked, {"content": "a"}).replace(b'"index": 0', b'"index": 1'), DONE]
                )
            else:
                await asked.send(said(asked, choices=[one, one | {"index": 1}]))
        case "no_choice":
            await asked.send(said(asked, choices=[]))
        case "null_id":
            await (stream(asked, events(asked, id=None)) if streamed else asked.send(said(asked, id=None)))
        case "tools":  # calls of tools with these ids; `null` for none
            ids = [None if word == "null" else word for word in words]
            made = [{"id": one, "type": "function", "function": {"name": f"tool{at}", "arguments": "{}"}}
                    for at, one in enumerate(ids)]  # fmt: skip
            if streamed:
                begun = [piece(asked, {"tool_calls": [call | {"index": at}]}) for at, call in enumerate(made)]
                more_of = [piece(asked, {"tool_calls": [{"index": at, "function": {"arguments": " "}}]})
                           for at in range(len(made))]  # fmt: skip
                await stream(asked, [*begun, *more_of, piece(asked, {}, finish="tool_calls"), DONE])
            else:
                message = {"role": "assistant", "content": None, "tool_calls": made}
                await asked.send(
                    said(asked, choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
                )
        case "usage":  # none, or the numbers of tokens in and out
            usage = None if words == ["none"] else {
                "prompt_tokens": json.loads(words[0]), "completion_tokens": json.loads(words[1])}  # fmt: skip
            await (
                stream(asked, events(asked, usage=usage))
                if streamed
                else asked.send(said(asked, usage=usage))
            )
        case "no_finish":
            one = answer(asked)["choices"][0] | {"finish_reason": None}
            sent = [event for event in events(asked) if b'"stop"' not in event]
            await (stream(asked, sent) if streamed else asked.send(said(asked, choices=[one])))
        case "odd_finish":
            one = answer(asked)["choices"][0] | {"finish_reason": "error"}
            await (
                stream(asked, [*events(asked)[:3], piece(asked, {}, finish="error"), DONE])
                if streamed
                else asked.send(said(asked, choices=[one]))
            )
        case "error_200":
            error = {"error": {"message": "SECRET-OF-THE-UPSTREAM", "code": "server_error"}}
            line = b"data: " + json.dumps(error).encode() + b"\n\n"
            await (
                stream(asked, [line, DONE])
                if streamed
                else asked.send(whole(200, json.dumps(error).encode()))
            )
        # of streams only
        case "error_mid":
            error = {"error": {"message": "SECRET-OF-THE-UPSTREAM", "type": "server_error"}}
            await stream(asked, [*events(asked)[:4], b"data: " + json.dumps(error).encode() + b"\n\n", DONE])
        case "raw_error_mid":
            await stream(asked, [*events(asked)[:4], b'{"error": "out of memory"}\n\n'])
        case "hang_mid":
            await stream(asked, events(asked)[:4], ends=False)
            await asked.hang()
        case "comments_mid":  # it lives, and says nothing for so many milliseconds
            await stream(asked, events(asked)[:4], ends=False)
            for _ in range(int(words[0]) // 50):
                await asked.hang(0.05)
                await asked.send(chunk(b": still here\n\n"))
            for event in events(asked)[4:]:
                await asked.send(chunk(event))
            await asked.send(b"0\r\n\r\n")
        case "comments_only":
            await begin(asked)
            while True:
                await asked.send(chunk(b": still here\n\n"))
                await asked.hang(0.05)
        case "role_only":
            await stream(asked, events(asked)[:1], ends=False)
            await asked.hang()
        case "reset_mid":
            await stream(asked, events(asked)[:4], ends=False)
            asked.reset()
        case "close_mid":
            await stream(asked, events(asked)[:4], ends=False)
        case "half_event":
            await stream(asked, [*events(asked)[:4], events(asked)[4][:20]])
        case "truncated":  # a clean end of HTTP, as if that were all
            await stream(asked, events(asked)[:4])
        case "no_done":
            await stream(asked, events(asked)[:-1])
        case "empty":
            await stream(asked, [])
        case "malformed":
            await stream(asked, [*events(asked)[:3], b"data: {not json\n\n", *events(asked)[3:]])
        case "after_finish":
            await stream(asked, [*events(asked)[:-1], piece(asked, {"content": "more"}), DONE])
        case "lingers":
            await stream(asked, events(asked), ends=False)
            await asked.hang()
        case "no_blank_after_done":
            await stream(asked, [*events(asked)[:-1], b"data: [DONE]\n"])
        case "bytewise":  # each byte a chunk, so each character is cut
            await as_bytes(asked, b"".join(events(asked)))
        case "dressed":  # BOM, comments, other fields, CRLF or CR as the lines' ends
            end = {"crlf": b"\r\n", "cr": b"\r", "lf": b"\n"}[words[0]]
            plain = b"\xef\xbb\xbf: hello\nretry: 10\n\n" + b"".join(
                b"event: message\nid: 7\n" + event for event in events(asked)
            )
            await as_bytes(asked, plain.replace(b"\n", end), 7)
        case "long_line":
            await begin(asked)
            while True:
                await asked.send(chunk(b"data: " if words else b"x" * 65_536))
                words = []
        case "flood":  # so many pieces, as fast as they are read
            await begin(asked)
            for at in range(int(words[0])):
                asked.write(chunk(piece(asked, {"content": f"w{at} "})))
                await asked.writer.drain()
            for event in [piece(asked, {}, finish="stop"), piece(asked, None, usage=USAGE), DONE]:
                await asked.send(chunk(event))
            await asked.send(b"0\r\n\r\n")
        case "tokens":  # so many pieces, so many milliseconds apart
            await begin(asked)
            for at in range(int(words[0])):
                await asked.send(chunk(piece(asked, {"content": f"w{at} "})))
                await asyncio.sleep(float(words[1]) / 1e3)
            for event in [piece(asked, {}, finish="stop"), piece(asked, None, usage=USAGE), DONE]:
                await asked.send(chunk(event))
            await asked.send(b"0\r\n\r\n")
        case _:
            await asked.send(whole(400, b'{"error": {"message": "no such lie"}}'))


CLOSES = frozenset({"closed", "early_end", "close_mid", "not_http", "lingers"})


class Lies:
    """The server: what it is to do, and what it was sent."""

    def __init__(self) -> None:
        self.behaves: dict[str, str] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.open = 0
        self.idle: set[asyncio.StreamWriter] = set()
        """Connections between two requests."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it closes."""
        self.open += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, Gone, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.idle.add(writer)
        try:
            received = await reader.readuntil(b"\r\n\r\n")
        finally:
            self.idle.discard(writer)
        first, *lines = received.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
        }
        sent = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        if path.startswith("/control"):
            writer.write(whole(200, json.dumps(self._control(json.loads(sent or b"{}"))).encode()))
            await writer.drain()
            return True
        if method == "GET":
            writer.write(whole(200, b'{"object": "list", "data": []}'))
            await writer.drain()
            return True
        body = json.loads(sent or b"{}")
        if not isinstance(body, dict) or "model" not in body:
            writer.write(whole(400, b'{"error": {"message": "this is no chat"}}'))
            await writer.drain()
            return True
        model = body["model"]
        seen = self.seen.setdefault(model, {"requests": 0, "gone": 0, "inside": 0, "most_inside": 0})
        seen["requests"] += 1
        seen["inside"] += 1
        seen["most_inside"] = max(seen["most_inside"], seen["inside"])
        seen["headers"], seen["body"], seen["path"] = headers, body, path
        lie = self._lie_about(model, body)
        try:
            await lie_about(Asked(model, lie, headers, body, reader, writer))
        except (Gone, ConnectionError):
            seen["gone"] += 1
            raise
        finally:
            seen["inside"] -= 1
        name = lie.split()[0]
        name = name if body.get("stream") else OF_WHOLE_ANSWERS.get(name, name)
        return name not in CLOSES

    def _lie_about(self, model: str, body: dict[str, Any]) -> str:
        """Say what to do: as told of a text that the request holds, of its model, or of all."""
        marks = [mark for mark in self.behaves if mark.startswith("?")]
        if marks:
            told = json.dumps(body["messages"], ensure_ascii=False)
            for mark in marks:
                if self.behaves[mark] and mark[1:] in told:
                    return self.behaves[mark]
        return self.behaves.get(model) or self.behaves.get("*") or model

    def _control(self, told: dict[str, str]) -> dict[str, Any]:
        if told.pop("hang up", ""):
            for writer in self.idle:
                writer.close()
        self.behaves.update(told)
        return {"seen": self.seen, "open": self.open - 1}


async def main(tls: str, port: int, behaves: dict[str, str]) -> None:
    """Listen on loopback, say where, and lie until killed."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
    lies = Lies()
    lies.behaves |= behaves
    server = await asyncio.start_server(lies.serve, "127.0.0.1", port, ssl=context, limit=1 << 26)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@dataclass
class Seen:
    """What the liar was sent under one model's name."""

    requests: int = 0
    gone: int = 0
    """Of them, those whose connection the other side closed before the end."""
    inside: int = 0
    most_inside: int = 0
    headers: dict[str, str] | None = None
    body: dict[str, Any] | None = None
    path: str = ""


@dataclass
class Liar:
    """A running liar."""

    port: int
    pid: int
    is_tls: bool = False

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http{'s' if self.is_tls else ''}://127.0.0.1:{self.port}/v1"

    def behave(self, model: str, lie: str) -> None:
        """Do so from now on when this model is asked for."""
        self._control({model: lie})

    def seen(self, model: str) -> Seen:
        """Return what came for this model."""
        return Seen(**self._control({})["seen"].get(model, {}))

    def all_seen(self) -> Seen:
        """Return what came in all, whatever model was asked for."""
        every = [Seen(**one) for one in self._control({})["seen"].values()]
        return Seen(
            requests=sum(one.requests for one in every),
            gone=sum(one.gone for one in every),
            inside=sum(one.inside for one in every),
            most_inside=max((one.most_inside for one in every), default=0),
        )

    def open_connections(self) -> int:
        """Count the connections that are open to it now."""
        return int(self._control({})["open"])

    def hang_up(self) -> None:
        """Close all connections that wait for their next request."""
        self._control({"hang up": "now"})

    def _control(self, told: dict[str, str]) -> dict[str, Any]:
        import httpx

        answered = httpx.post(f"http://127.0.0.1:{self.port}/control", json=told, timeout=10, trust_env=False)
        return dict(answered.json())


def start(
    *, port: int = 0, tls: str = "", behaves: Mapping[str, str] = {}, env: Mapping[str, str] | None = None
) -> tuple[Liar, subprocess.Popen[bytes]]:
    """Start a liar; its process is the caller's to end. Raises OSError if it does not come up."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--port", str(port), "--tls", tls, "--behaves", json.dumps(dict(behaves))],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=None if env is None else dict(env),
    )
    line = process.stdout.readline() if process.stdout is not None else b""
    if not line.strip().isdigit():
        end(process)
        raise OSError("the lying upstream did not start")
    return Liar(int(line), process.pid, is_tls=bool(tls)), process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a liar at once."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def lying(tls: Path | None = None) -> Iterator[Liar]:
    """Run a liar until the block ends; with TLS, by a PEM file of key and certificate."""
    liar, process = start(tls=str(tls) if tls else "")
    try:
        yield liar
    finally:
        end(process)


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--tls", default="")
    options.add_argument("--behaves", type=json.loads, default={})
    given = options.parse_args()
    asyncio.run(main(given.tls, given.port, given.behaves))
