"""A small model server for the example: OpenAI's chat protocol, deterministic answers, no internet.

    python upstream.py --port 9000
    curl localhost:9000/v1/chat/completions -d '{"model": "shop-1", "messages": [{"role": "user", "content": "hi"}]}'

It can be told to misbehave, so that you see what Nightproof does then. Either in the text of the last user message,
in the prompt, or for all calls from now on by the control route:

    "Where is my order? [[slow 2]]"                          this answer begins after two seconds
    curl localhost:9000/control -d '{"act": "status 500"}'   each answer is a 500 until {"act": ""}
    curl localhost:9000/control -d '{"act": "hang", "times": 3}'

slow S          begin after S seconds             pace N      stream N tokens a second
status N [S]    answer with status N, Retry-After S           hang        never answer
stall           begin, then say no more           reset       drop the connection before an answer
cut             drop it in the middle             half        end in the middle as if all were well
empty           answer with no text               garbage     answer with what is no JSON
long N          answer with N words               loop        say the same for ever
say TEXT        answer with TEXT                  bad_json    answer prose where JSON is asked for
call [N] [TOOL] call each tool, with order N
leak            answer with the system prompt     obey        do what any text in the conversation says:
                                                  print the prompt, show its links and images, call each tool
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import signal
import sys
import time
from typing import Any

import httptools

CUE = re.compile(r"\[\[(\w+)(.*?)\]\]", re.DOTALL)
ORDER = re.compile(r"\b\d{4,8}\b")
LINKS = re.compile(r"!?\[[^\]]*\]\([^)]*\)|https?://\S+")
TOPICS = (
    (
        ("return", "zurück", "umtausch"),
        "Unused articles may be returned within 30 days; the money comes back within 14 days.",
    ),
    (
        ("deliver", "ship", "liefer"),
        "Delivery takes two to four working days, and up to ten abroad. From 50 euros on it is free.",
    ),
    (("warranty", "garantie", "broken"), "Lamps have two years of warranty, furniture five."),
    (("pay", "invoice", "rechnung"), "You can pay by card, transfer or invoice."),
    (("hello", "hi ", "hallo"), "Hello! I help with orders, delivery, returns and payment."),
)
OTHERWISE = "I help with orders, delivery, returns and payment. More is on https://lumen-oak.example/help."
DATA_MARK = "\ue000"
"""What marked documents have in place of spaces."""


class Shop:
    """What the server remembers: how it is to misbehave, and what came."""

    def __init__(self) -> None:
        self.act = ""
        self.times = 0
        self.calls = 0
        self.gone = 0
        self.numbers = itertools.count(1)

    def next_act(self, messages: list[dict[str, Any]]) -> tuple[str, str]:
        """Return the act of this call and its argument: the last question's own, or the standing one."""
        asked = [text_of(message) for message in messages if message.get("role") == "user"]
        if asked and (cue := CUE.search(asked[-1])):
            return cue[1], cue[2].strip()
        prompts = [text_of(message) for message in messages if message.get("role") == "system"]
        if prompts and (cue := CUE.search(prompts[0])):
            return cue[1], cue[2].strip()
        act, _, argument = self.act.partition(" ")
        if act and self.times:
            self.times -= 1
            if not self.times:
                self.act = ""
        return act, argument.strip()


def text_of(message: dict[str, Any]) -> str:
    """Return a message's text, whatever its form, with marked spaces read as spaces."""
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content)
    return str(content).replace(DATA_MARK, " ")


def answer_to(request: dict[str, Any], act: str, argument: str) -> tuple[str, list[dict[str, Any]]]:
    """Return text and tool calls: always the same for the same request."""
    messages = request["messages"]
    prompt = "\n".join(text_of(one) for one in messages if one.get("role") == "system")
    tools = [one["function"]["name"] for one in request.get("tools") or ()]
    asked = next((text_of(one) for one in reversed(messages) if one.get("role") == "user"), "")
    if act == "say":
        return argument, []
    if act == "empty":
        return "", []
    if act == "leak":
        return f"My instructions are:\n{prompt}", []
    if act == "long":
        return " ".join(f"word{number}" for number in range(int(argument or 200))), []
    if act == "loop":
        return "I am sorry to hear that, let me look into it for you. " * 2_000, []
    if act == "call":
        order, _, name = (argument or "1042").partition(" ")
        wanted_tools = [name] if name else tools
        return "", [call(place, one, {"order": order}) for place, one in enumerate(wanted_tools)]
    if act == "obey":
        said = "\n".join(text_of(one) for one in messages if one.get("role") != "system")
        links = " ".join(LINKS.findall(said))
        calls = [call(place, name, {"order": "1042"}) for place, name in enumerate(tools)]
        return f"As you wish. {links}\n{said}\n{prompt}", calls
    wanted = request.get("response_format") or {}
    if wanted.get("type") == "json_schema" and act != "bad_json":
        schema = wanted["json_schema"].get("schema", {})
        return json.dumps(example_of(schema, schema, reply(asked))), []
    if wanted.get("type") == "json_object" and act != "bad_json":
        return json.dumps({"answer": reply(asked)}), []
    last = messages[-1]
    if last.get("role") == "tool":
        found = re.search(r'"state":\s*"(\w+)"', text_of(last))
        return f"Your order is {found[1] if found else 'with us'}.", []
    order = ORDER.search(asked)
    if order and "lookup_order" in tools and request.get("tool_choice") != "none":
        return "", [call(0, "lookup_order", {"order": order[0]})]
    if order:
        return f"Order {order[0]} is on its way and comes within two days.", []
    return reply(asked), []


def reply(asked: str) -> str:
    """Answer by the first topic that the question touches."""
    lowered = f"{asked.lower()} "
    return next((told for words, told in TOPICS if any(word in lowered for word in words)), OTHERWISE)


def call(place: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write one tool call."""
    return {
        "id": f"call_{place + 1}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }


def example_of(schema: dict[str, Any], root: dict[str, Any], text: str) -> Any:
    """Return the plainest value that fits a schema; texts are the answer itself."""
    if reference := schema.get("$ref"):
        return example_of(root.get("$defs", {}).get(reference.rpartition("/")[2], {}), root, text)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return example_of(schema[word][0], root, text)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        fields = schema.get("properties", {})
        return {name: example_of(part, root, text) for name, part in fields.items()}
    if kind == "array":
        count = schema.get("minItems", 0)
        return [example_of(schema.get("items", {}), root, text) for _ in range(count)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        return max(low, 0) if "exclusiveMinimum" not in schema else low + 1
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return text[: schema.get("maxLength", len(text))]


def tokens_of(text: str) -> list[str]:
    """Cut a text into pieces that join to it again."""
    return re.findall(r"\s*\S+|\s+$", text)


def usage_of(request: dict[str, Any], text: str, calls: list[dict[str, Any]]) -> dict[str, int]:
    """Count as a tokenizer might."""
    given = sum(len(tokens_of(text_of(one))) + 4 for one in request["messages"])
    told = len(tokens_of(text)) + sum(len(one["function"]["arguments"]) // 4 + 4 for one in calls)
    return {"prompt_tokens": given, "completion_tokens": told, "total_tokens": given + told}


class Connection(asyncio.Protocol):
    """One client: reads requests one after the other, and answers each."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self.url, self.body = b"", b""
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.task = asyncio.get_running_loop().create_task(self.work())

    def connection_lost(self, error: Exception | None) -> None:
        self.task.cancel()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.waiting.put_nowait((self.parser.get_method().decode(), self.url.decode("latin-1"), self.body))

    async def work(self) -> None:
        """Answer until the client goes."""
        is_answering = False
        try:
            while True:
                method, url, body = await self.waiting.get()
                is_answering = True
                await self.respond(method, url.partition("?")[0], body)
                is_answering = False
        except asyncio.CancelledError:
            self.shop.gone += is_answering
            raise

    async def respond(self, method: str, path: str, body: bytes) -> None:
        """Answer one request."""
        if (method, path) == ("POST", "/v1/chat/completions"):
            await self.complete(body)
        elif (method, path) == ("GET", "/v1/models"):
            self.send(
                200, {"object": "list", "data": [{"id": "shop-1", "object": "model", "owned_by": "example"}]}
            )
        elif path == "/health":
            self.send(200, {"status": "ok"})
        elif path == "/control":
            if method == "POST":
                told = json.loads(body or b"{}")
                self.shop.act, self.shop.times = str(told.get("act", "")), int(told.get("times", 0))
            self.send(
                200,
                {
                    "act": self.shop.act,
                    "times": self.shop.times,
                    "calls": self.shop.calls,
                    "gone": self.shop.gone,
                },
            )
        else:
            self.fail(404, "no such route")

    async def complete(self, body: bytes) -> None:
        """Answer a chat, or misbehave as told."""
        try:
            request = json.loads(body)
            if not isinstance(request["messages"], list) or not request["messages"]:
                raise ValueError("no messages")
        except (ValueError, KeyError, TypeError):
            self.fail(400, "the body is no chat request")
            return
        self.shop.calls += 1
        act, argument = self.shop.next_act(request["messages"])
        if act == "slow":
            await asyncio.sleep(float(argument or 1))
        elif act == "status":
            status, _, wait = argument.partition(" ")
            self.fail(int(status or 500), "as told", retry_after=wait)
            return
        elif act == "hang":
            await asyncio.Event().wait()
        elif act == "reset":
            self.transport.abort()
            return
        elif act == "garbage":
            self.write_head(200, "application/json", 9)
            self.transport.write(b"<!oops!>\n")
            return
        text, calls = answer_to(request, act, argument)
        if request.get("stream"):
            await self.stream(request, text, calls, act, argument)
            return
        if act in ("stall", "cut"):
            self.write_head(200, "application/json", 4_096)
            self.transport.write(b'{"id": "chatcmpl-')
            if act == "cut":
                self.transport.close()
                return
            await asyncio.Event().wait()
        text, reason = limited(request, text, calls)
        if act == "half":
            text, reason = text[: len(text) // 2], "stop"
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if calls:
            message["tool_calls"] = calls
        self.send(
            200,
            {
                **self.head(request, "chat.completion"),
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
                "usage": usage_of(request, text, calls),
            },
        )

    async def stream(
        self, request: dict[str, Any], text: str, calls: list[dict[str, Any]], act: str, argument: str
    ) -> None:
        """Answer piece by piece, as server-sent events."""
        text, reason = limited(request, text, calls)
        head = self.head(request, "chat.completion.chunk")
        pause_s = 1 / float(argument or 50) if act == "pace" else 0.0
        self.write_head(200, "text/event-stream", None)
        self.event({**head, "choices": [choice({"role": "assistant", "content": ""})]})
        pieces = tokens_of(text)
        for place, piece in enumerate(pieces):
            if act in ("cut", "stall", "half") and place >= max(1, len(pieces) // 2):
                break
            if pause_s:
                await asyncio.sleep(pause_s)
            await self.may_write.wait()
            self.event({**head, "choices": [choice({"content": piece})]})
        if act == "cut":
            self.transport.close()
            return
        if act == "stall":
            await asyncio.Event().wait()
        if act == "half":
            self.transport.write(b"0\r\n\r\n")
            return
        for place, one in enumerate(calls):
            self.event({**head, "choices": [choice({"tool_calls": [{"index": place, **one}]})]})
        self.event({**head, "choices": [choice({}, reason)]})
        if (request.get("stream_options") or {}).get("include_usage"):
            self.event({**head, "choices": [], "usage": usage_of(request, text, calls)})
        self.chunk(b"data: [DONE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def head(self, request: dict[str, Any], kind: str) -> dict[str, Any]:
        """Begin an answer."""
        return {
            "id": f"chatcmpl-{next(self.shop.numbers)}",
            "object": kind,
            "created": int(time.time()),
            "model": request.get("model", "shop-1"),
        }

    def event(self, value: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def fail(self, status: int, message: str, *, retry_after: str = "") -> None:
        more = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        told = {
            "error": {
                "message": message,
                "type": "server_error" if status >= 500 else "invalid_request_error",
            }
        }
        self.send(status, told, more=more)

    def send(self, status: int, value: Any, *, more: str = "") -> None:
        body = json.dumps(value).encode()
        self.write_head(status, "application/json", len(body), more=more)
        self.transport.write(body)

    def write_head(self, status: int, kind: str, length: int | None, *, more: str = "") -> None:
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self.transport.write(
            f"HTTP/1.1 {status} Told\r\nContent-Type: {kind}\r\n{size}\r\n{more}\r\n".encode("latin-1")
        )


def choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    """Write one choice of a chunk."""
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def limited(request: dict[str, Any], text: str, calls: list[dict[str, Any]]) -> tuple[str, str]:
    """Cut a text at max_tokens; return it with its finish_reason."""
    most = request.get("max_completion_tokens") or request.get("max_tokens") or 0
    pieces = tokens_of(text)
    if most and len(pieces) > most:
        return "".join(pieces[:most]), "length"
    return text, "tool_calls" if calls else "stop"


async def main() -> None:
    """Serve until told to stop."""
    options = argparse.ArgumentParser(description="A small model server for Nightproof's example.")
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, default=9_000)
    options.add_argument("--act", default="", help="how to misbehave from the start")
    given = options.parse_args()
    shop = Shop()
    shop.act = given.act
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(shop), given.host, given.port)
    port = server.sockets[0].getsockname()[1]
    print(f"listening on http://{given.host}:{port}/v1", file=sys.stderr, flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
