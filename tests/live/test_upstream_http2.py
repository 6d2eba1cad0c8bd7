"""HTTP/2 to an upstream, against a real server of it: many calls on one connection, and a stream is dropped alone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trustme

from nightproof.base.deadlines import Deadlines
from nightproof.declare.chat_description import ChatDescription
from nightproof.pipeline.upstreams import Chain, Upstreams, transports
from tests.chains import call_of, declared, event, fault_of, whole, whole_of

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


class Server(asyncio.Protocol):
    """An upstream that speaks HTTP/2 only: what it does with a call stands in the call's model."""

    connections = 0
    resets = 0
    inside = 0
    most_inside = 0

    def __init__(self) -> None:
        self.speaks = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.bodies: dict[int, bytes] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: Any) -> None:
        Server.connections += 1
        self.transport = transport
        self.speaks.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.tasks.values():
            task.cancel()

    def flush(self) -> None:
        self.transport.write(self.speaks.data_to_send())

    def data_received(self, data: bytes) -> None:
        for told in self.speaks.receive_data(data):
            if isinstance(told, h2.events.RequestReceived):
                self.bodies[told.stream_id] = b""
            elif isinstance(told, h2.events.DataReceived):
                self.bodies[told.stream_id] += told.data
                self.speaks.acknowledge_received_data(told.flow_controlled_length, told.stream_id)
            elif isinstance(told, h2.events.StreamEnded):
                self.tasks[told.stream_id] = asyncio.ensure_future(self.answer(told.stream_id))
            elif isinstance(told, h2.events.StreamReset):
                Server.resets += 1
                self.tasks[told.stream_id].cancel()
        self.flush()

    async def answer(self, stream: int) -> None:
        Server.inside += 1
        Server.most_inside = max(Server.most_inside, Server.inside)
        try:
            await self.say(stream, self.bodies[stream])
        finally:
            Server.inside -= 1

    async def say(self, stream: int, body: bytes) -> None:
        kind = "text/event-stream" if b'"stream":true' in body else "application/json"
        self.speaks.send_headers(stream, [(":status", "200"), ("content-type", kind)])
        if b'"model":"hang"' in body:
            self.speaks.send_data(stream, event('{"content":"hi"}'))
            self.flush()
            await asyncio.sleep(60)
        await asyncio.sleep(0.1)
        if b'"model":"reset"' in body:
            self.speaks.send_data(stream, event('{"content":"hi"}'))
            self.speaks.reset_stream(stream)
        elif kind == "application/json":
            self.speaks.send_data(stream, b"".join(whole()[2]), end_stream=True)
        else:
            for word in ("one ", "two "):
                self.speaks.send_data(stream, event('{"content":"%s"}' % word))  # noqa: UP031
                self.flush()
                await asyncio.sleep(0.01)
            self.speaks.send_data(stream, event("{}", '"stop"') + b"data: [DONE]\n\n", end_stream=True)
        self.flush()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """Make the TLS of a server that speaks HTTP/2, and of a client that trusts it."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    serving.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return serving, trusting


def with_server(contexts: Contexts, work: Callable[[Chain], Awaitable[Any]], model: str, **over: Any) -> Any:
    """Run work with a chain of one upstream that speaks HTTP/2; afterwards nothing is left of it."""
    serving, trusting = contexts

    async def all_of_it() -> Any:
        Server.connections = Server.resets = Server.inside = Server.most_inside = 0
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, ssl=serving)
        port = server.sockets[0].getsockname()[1]
        house = Upstreams(Deadlines(), transport=transports(trusting))
        one = declared(f"https://127.0.0.1:{port}/v1", model, http2=True, **over)
        chain = house.chain(ChatDescription(prompt="", upstreams=[one], retries_share=0.0))
        try:
            done = await work(chain)
            assert chain.snapshot()[0].in_flight == 0
            return done
        finally:
            await chain.aclose()
            server.close()
            async with asyncio.timeout(5):
                while Server.inside or len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(0.01)

    return asyncio.run(all_of_it())


def test_many_calls_share_one_connection(contexts: Contexts):
    async def work(chain: Chain) -> set[str]:
        await chain.complete(call_of())
        whole_ones = await asyncio.gather(*[chain.complete(call_of()) for _ in range(8)])
        streams = await asyncio.gather(*[chain.stream(call_of()) for _ in range(8)])
        read = await asyncio.gather(*[whole_of(stream) for stream in streams])
        return {one.text for one in whole_ones} | {f"{text}{end}" for text, end in read}

    assert with_server(contexts, work, "ok") == {"hi", "one two stop"}
    assert Server.connections == 1
    assert Server.most_inside == 8


def test_a_caller_who_leaves_resets_his_stream_alone(contexts: Contexts):
    async def work(chain: Chain) -> int:
        async def reads() -> None:
            async for _ in await chain.stream(call_of()):
                begun.set()

        begun = asyncio.Event()
        caller = asyncio.ensure_future(reads())
        await begun.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        async with asyncio.timeout(5):
            while not Server.resets:
                await asyncio.sleep(0.01)
        dropped = await chain.stream(call_of())
        await dropped.aclose()
        return Server.connections

    assert with_server(contexts, work, "hang") == 1


@pytest.mark.parametrize(("model", "failure"), [("hang", "upstream_timeout"), ("reset", "upstream_broken")])
def test_a_stream_that_stalls_or_is_reset_never_looks_complete(contexts: Contexts, model: str, failure: str):
    async def work(chain: Chain) -> tuple[str, bool]:
        fault = await fault_of(whole_of(await chain.stream(call_of())))
        return fault.failure, fault.has_begun

    assert with_server(contexts, work, model, idle_ms=200) == (failure, True)


def test_a_call_that_is_cancelled_before_its_answer_leaves_the_connection_to_others(contexts: Contexts):
    async def work(chain: Chain) -> tuple[str, int]:
        await chain.complete(call_of())
        for pause_s in (0.0, 0.001, 0.02, 0.05):
            leaving = asyncio.ensure_future(chain.complete(call_of()))
            await asyncio.sleep(pause_s)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        async with asyncio.timeout(5):
            while Server.resets < 2:  # those that had been sent
                await asyncio.sleep(0.01)
        return (await chain.complete(call_of())).text, Server.connections

    assert with_server(contexts, work, "ok") == ("hi", 1)
