"""Ask a chat service's upstreams in order, until one answers or there is no way left.

Called by the conductors of chat requests. `Upstreams` belongs to the house and holds what is known of each upstream
and model; a `Chain` belongs to one loaded release. Promises: nobody waits beyond the call's deadline; an upstream
that fails is passed over before the first token and never after it; retries and hedges stay within their budget; a
caller who leaves closes the upstream's connection at once; places are given back exactly once.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.deadlines import Deadlines
from nightproof.base.errors import DeclarationError
from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.limits.retry_budget import RetryBudget
from nightproof.pipeline.upstream_choice import Option, line_time, next_step, time_for
from nightproof.pipeline.upstream_gate import Gate, Kind, Ticket, UpstreamSnapshot
from nightproof.storage.secrets import Secret
from nightproof.workers.upstream.addresses import is_public_name
from nightproof.workers.upstream.client import Client, ClientStream
from nightproof.workers.upstream.transport import Transport
from nightproof.workers.upstream.values import (
    Attempt,
    Completion,
    Delta,
    StreamedAnswer,
    UpstreamCall,
    UpstreamFault,
)

_Key = tuple[str, ...]
TransportMaker = Callable[[UpstreamDescription], Transport]


class _Shared(msgspec.Struct, eq=False):
    """What releases that name the same upstream and model have in common."""

    key: _Key
    gate: Gate
    transport: Transport
    users: int = 0


class Upstreams:
    """All upstream states of the server. Used on the event loop's thread only."""

    def __init__(
        self,
        deadlines: Deadlines,
        *,
        environ: Mapping[str, str] = os.environ,
        transport: TransportMaker | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._deadlines = deadlines
        self._environ = environ
        self._transport_of = transport or transports()
        self._chance = chance
        self._shared: dict[_Key, _Shared] = {}

    def chain(self, description: ChatDescription, addresses: Mapping[str, str] = {}) -> Chain:
        """Return the chain of a release that is to be served. Raises DeclarationError where it cannot be asked.

        `addresses` has the base URL of each upstream that is a command, while its program is up; it is looked into
        at each call.
        """
        if not description.upstreams:
            raise DeclarationError("A chat service has no upstream.", hint="Name one in upstreams=[...].")
        secrets = []
        for declared in description.upstreams:
            _check(declared)
            secrets.append(Secret(declared.secret, self._environ) if declared.secret else None)
        clients: list[tuple[Client, _Shared, Secret | None]] = []
        for declared, secret in zip(description.upstreams, secrets, strict=True):
            shared = self._shared_by(declared)
            client = Client(
                declared,
                transport=shared.transport,
                secret=secret.value if secret is not None else str,
                deadlines=self._deadlines,
            )
            shared.users += 1
            clients.append((client, shared, secret))
        return Chain(description, clients, self, addresses, self._chance)

    def _shared_by(self, declared: UpstreamDescription) -> _Shared:
        key = (
            *((declared.name, *declared.command) if declared.command else (declared.base_url.rstrip("/"),)),
            declared.model,
            declared.secret,
            declared.proxy,
            str((declared.http2, declared.private)),
        )
        shared = self._shared.get(key)
        if shared is None:
            gate = Gate(self._deadlines, most=declared.max_in_flight, chance=self._chance)
            shared = self._shared[key] = _Shared(key, gate, self._transport_of(declared))
        shared.gate.hold_to(declared.max_in_flight)
        return shared

    async def _let_go(self, shared: _Shared) -> None:
        shared.users -= 1
        if not shared.users:
            self._shared.pop(shared.key, None)  # at the server's stop it is gone already
            await shared.transport.aclose()

    async def close(self) -> None:
        """Close all connections, at the server's stop."""
        shared = list(self._shared.values())
        self._shared.clear()
        for one in shared:
            await one.transport.aclose()

    def __repr__(self) -> str:
        return f"<Upstreams {len(self._shared)}>"


class Chain:
    """The upstreams of one release, in order of preference."""

    def __init__(
        self,
        description: ChatDescription,
        clients: list[tuple[Client, _Shared, Secret | None]],
        upstreams: Upstreams,
        addresses: Mapping[str, str],
        chance: Callable[[], float],
    ) -> None:
        self._hedge_s = description.hedge_ms / 1e3
        self._budget = RetryBudget(description.retries_share)
        self._clients = [client for client, _, _ in clients]
        self._gates = [shared.gate for _, shared, _ in clients]
        self._shared = [shared for _, shared, _ in clients]
        self._secrets = [secret for _, _, secret in clients]
        self._upstreams = upstreams
        self._addresses = addresses
        self._chance = chance

    async def complete(self, call: UpstreamCall) -> Completion:
        """Return the first whole answer. Raises UpstreamFault when none answered; `call.attempts` tells of each."""
        answer = await self._first_answer(call, "whole")
        if isinstance(answer, _Streamed):  # not to happen: a whole answer was asked for
            await answer.aclose()
            raise UpstreamFault("upstream_broken", "a stream where a whole answer was asked for")
        return answer

    async def stream(self, call: UpstreamCall) -> StreamedAnswer:
        """Return the first answer that has begun. Raises UpstreamFault when none did.

        Its own attempt is added to `call.attempts` when it ends.
        """
        answer = await self._first_answer(call, "streamed")
        if isinstance(answer, Completion):  # not to happen: a stream was asked for
            raise UpstreamFault("upstream_broken", "a whole answer where a stream was asked for")
        return answer

    def snapshot(self) -> list[UpstreamSnapshot]:
        """Return a frozen picture of each upstream, in order of preference."""
        now = monotonic_s()
        return [
            gate.snapshot(
                name=client.description.name,
                model=client.description.model,
                now=now,
                warning=secret.warning if secret is not None else "",
            )
            for client, gate, secret in zip(self._clients, self._gates, self._secrets, strict=True)
        ]

    async def aclose(self) -> None:
        """Let go of the upstreams, when the release is not served any more; the last one closes connections."""
        shared, self._shared = self._shared, []
        for one in shared:
            await self._upstreams._let_go(one)

    async def _first_answer(self, call: UpstreamCall, kind: Kind) -> Completion | _Streamed:
        self._budget.earn()
        told = _Told(len(self._clients))
        while True:
            now = monotonic_s()
            options = self._options(told, now)
            step = next_step(
                options,
                remaining_s=call.deadline_s - now,
                may_retry=self._budget.has_room(now=now),
                chance=self._chance(),
            )
            if step is None or (step.is_retry and not self._budget.spend(now=now)):
                raise self._no_way_left(call, told, options)
            if step.after_s > 0:
                await asyncio.sleep(step.after_s)
            others = sum(
                not option.tries and option.closed_for_s <= 0 and place != step.place
                for place, option in enumerate(options)
            )
            told.tries[step.place] += 1
            try:
                return await self._ask(step.place, call, kind, others=others, told=told)
            except UpstreamFault as fault:
                if fault.failure == "upstream_rejected":
                    raise

    def _options(self, told: _Told, now: float) -> list[Option]:
        options = []
        for place, gate in enumerate(self._gates):
            closed_for_s, why = gate.closed_for_s(now)
            if not self._address(place):
                closed_for_s, why = 1.0, "breaker"
            fault = told.faults[place]
            options.append(
                Option(
                    closed_for_s=closed_for_s,
                    why=why,
                    tries=told.tries[place],
                    may_help=fault is None or _may_help(fault),
                )
            )
        return options

    def _address(self, place: int) -> str:
        declared = self._clients[place].description
        if declared.command:
            return self._addresses.get(declared.name, "").rstrip("/")
        return self._addresses.get(declared.name, declared.base_url).rstrip("/")

    async def _ask(
        self, place: int, call: UpstreamCall, kind: Kind, *, others: int, told: _Told
    ) -> Completion | _Streamed:
        """Ask one upstream, when it has a place, and another one beside it if it is declared to be hedged."""
        now = monotonic_s()
        ticket = self._gates[place].enter_at_once(now)
        if ticket is None:
            until_s = now + line_time(remaining_s=call.deadline_s - now, others=others)
            ticket = await self._gates[place].enter(now=now, until_s=until_s, clock=monotonic_s)
            now = monotonic_s()
            if ticket is None:
                raise self._no_place(place, call, told, now)
        if self._hedge_s > 0 and others:
            return await self._ask_two(place, ticket, call, kind, told)
        until_s = now + time_for(remaining_s=call.deadline_s - now, others=others)
        return await self._try(place, ticket, call, kind, until_s=until_s, told=told)

    async def _try(
        self, place: int, ticket: Ticket, call: UpstreamCall, kind: Kind, *, until_s: float, told: _Told
    ) -> Completion | _Streamed:
        """Make one attempt, and tell the gate and the call how it ended."""
        client = self._clients[place]
        began_s = monotonic_s()
        attempt = _Attempting(client.description, ticket, call, kind, began_s)
        try:
            if kind == "whole":
                whole = await client.complete(call, base_url=self._address(place), until_s=until_s)
                attempt.ended(None, monotonic_s())
                return whole
            begun = await client.stream(call, base_url=self._address(place), until_s=until_s)
            return _Streamed(begun, attempt, monotonic_s())
        except UpstreamFault as fault:
            told.faults[place] = told.last = fault
            attempt.ended(fault, monotonic_s())
            raise
        except BaseException:
            attempt.given_up(monotonic_s())
            raise

    async def _ask_two(
        self, place: int, ticket: Ticket, call: UpstreamCall, kind: Kind, told: _Told
    ) -> Completion | _Streamed:
        """Ask a second upstream when the first has said nothing for a while; the first answer wins."""
        tries = {
            asyncio.create_task(
                self._try(place, ticket, call, kind, until_s=call.deadline_s, told=told)
            ): ticket
        }
        won: Completion | _Streamed | None = None
        fault: UpstreamFault | None = None
        try:
            done, pending = await asyncio.wait(tries, timeout=self._hedge_s)
            if not done and (second := self._hedge(told)) is not None:
                other, ticket = second
                told.tries[other] += 1
                task = asyncio.create_task(
                    self._try(other, ticket, call, kind, until_s=call.deadline_s, told=told)
                )
                tries[task] = ticket
                pending = set(tries)
            while won is None and (done or pending):
                if not done:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        won = won or task.result()
                    except UpstreamFault as error:
                        fault = error
                done = set()
        finally:
            await self._drop(tries, won)
        if won is None:
            raise fault or UpstreamFault("upstream_broken", "no answer")
        return won

    def _hedge(self, told: _Told) -> tuple[int, Ticket] | None:
        """Return the next upstream that can be asked at once, with a ticket, if the budget allows."""
        now = monotonic_s()
        if not self._budget.has_room(now=now):
            return None
        for place, gate in enumerate(self._gates):
            if not told.tries[place] and self._address(place) and gate.closed_for_s(now)[0] <= 0:
                ticket = gate.enter_at_once(now)
                if ticket is not None:
                    self._budget.spend(now=now)
                    return place, ticket
        return None

    async def _drop(
        self, tries: Mapping[asyncio.Task[Completion | _Streamed], Ticket], won: Completion | _Streamed | None
    ) -> None:
        """End what did not win: at once, and waited for, so that nothing of it is left."""
        for task in tries:
            task.cancel()
        waiting = asyncio.gather(*tries, return_exceptions=True)
        try:
            await asyncio.shield(waiting)
        finally:
            for task, ticket in tries.items():
                is_winner = (
                    task.done() and not task.cancelled() and not task.exception() and task.result() is won
                )
                if is_winner:
                    continue
                if task.done() and not task.cancelled() and not task.exception():
                    late = task.result()
                    if isinstance(late, _Streamed):
                        late.close()
                ticket.give_up(now=monotonic_s())  # of a task that was never begun

    def _no_place(self, place: int, call: UpstreamCall, told: _Told, now: float) -> UpstreamFault:
        """Note that there was no place, or that it closed while the call stood in line."""
        declared = self._clients[place].description
        closed_for_s, why = self._gates[place].closed_for_s(now)
        if closed_for_s > 0:
            fault = _closed(why, closed_for_s)
        else:
            limit = self._gates[place].snapshot(name="", model="", now=now).limit
            fault = UpstreamFault(
                "upstream_limited", f"not asked: all {limit} places are taken", retry_after_s=1.0
            )
        told.faults[place] = told.last = fault
        call.attempts.append(
            Attempt(declared.name, declared.model, failure=fault.failure, detail=fault.detail)
        )
        return fault

    def _no_way_left(self, call: UpstreamCall, told: _Told, options: list[Option]) -> UpstreamFault:
        """Return the fault that the call ends with, and note the upstreams that it did not ask."""
        for place, option in enumerate(options):
            if not option.tries and option.closed_for_s > 0:
                declared = self._clients[place].description
                if not self._address(place):
                    fault = UpstreamFault("upstream_unreachable", "not asked: its program is not up")
                else:
                    fault = _closed(option.why, option.closed_for_s)
                told.last = told.last or fault
                call.attempts.append(
                    Attempt(declared.name, declared.model, failure=fault.failure, detail=fault.detail)
                )
        fault = told.last or UpstreamFault("upstream_timeout", "no time was left to ask", was_cut=True)
        waits_s = [option.closed_for_s for option in options if option.closed_for_s > 0]
        if waits_s and len(waits_s) == len(options):
            fault.retry_after_s = max(fault.retry_after_s, min(waits_s))
        return fault

    def __repr__(self) -> str:
        return f"<Chain {' → '.join(client.description.name for client in self._clients)}>"


class _Told:
    """What one call has learned so far, of each upstream."""

    __slots__ = ("faults", "last", "tries")

    def __init__(self, count: int) -> None:
        self.tries = [0] * count
        self.faults: list[UpstreamFault | None] = [None] * count
        self.last: UpstreamFault | None = None


class _Attempting:
    """One attempt on its way: it ends once, and then the gate and the call are told."""

    __slots__ = ("_began_s", "_call", "_declared", "_first_s", "_is_over", "_kind", "_ticket")

    def __init__(
        self, declared: UpstreamDescription, ticket: Ticket, call: UpstreamCall, kind: Kind, began_s: float
    ) -> None:
        self._declared = declared
        self._ticket = ticket
        self._call = call
        self._kind = kind
        self._began_s = began_s
        self._first_s = 0.0
        self._is_over = False

    def first_token(self, now: float) -> None:
        """See the first piece come."""
        self._first_s = now
        self._ticket.begun()

    def ended(self, fault: UpstreamFault | None, now: float) -> None:
        """See it end: None, it answered."""
        if not self._is_over:
            waited_s = (self._first_s or now) - self._began_s
            self._ticket.leave(fault, now=now, waited_s=waited_s, kind=self._kind)
            self._note(now, fault=fault)

    def given_up(self, now: float) -> None:
        """See it dropped, by its caller or for another one's sake."""
        if not self._is_over:
            self._ticket.give_up(now=now)
            self._note(now, is_given_up=True)

    def _note(self, now: float, *, fault: UpstreamFault | None = None, is_given_up: bool = False) -> None:
        self._is_over = True
        began_s = self._began_s
        self._call.attempts.append(
            Attempt(
                self._declared.name,
                self._declared.model,
                failure=fault.failure if fault is not None else "",
                detail=fault.detail if fault is not None else "",
                duration_us=int((now - began_s) * 1e6),
                first_token_us=int((self._first_s - began_s) * 1e6) if self._first_s else 0,
                is_given_up=is_given_up,
            )
        )


class _Streamed:
    """An answer that has begun: holds its place at the upstream until it ends or is dropped."""

    __slots__ = ("_attempt", "_stream")

    def __init__(self, stream: ClientStream, attempt: _Attempting, now: float) -> None:
        self._stream = stream
        self._attempt = attempt
        attempt.first_token(now)

    @property
    def upstream(self) -> str:
        """Who answers."""
        return self._stream.upstream

    @property
    def model(self) -> str:
        """The model as the upstream names it."""
        return self._stream.model

    def __aiter__(self) -> _Streamed:
        return self

    async def __anext__(self) -> Delta:
        """Return the next piece. Raises UpstreamFault where it breaks or stalls."""
        try:
            delta = await anext(self._stream)
        except StopAsyncIteration:
            self._attempt.given_up(monotonic_s())  # only where it was closed before its end
            raise
        except UpstreamFault as fault:
            self._attempt.ended(fault, monotonic_s())
            raise
        except BaseException:
            self._attempt.given_up(monotonic_s())
            raise
        if delta.finish_reason:
            self._attempt.ended(None, monotonic_s())
        return delta

    def close(self) -> None:
        """Drop the call; nothing happens to one that has ended."""
        self._stream.close()
        self._attempt.given_up(monotonic_s())

    async def aclose(self) -> None:
        """Drop the call: the upstream sees the connection close. Never raises."""
        self.close()


def _may_help(fault: UpstreamFault) -> bool:
    """Say whether the same request may go better at the same upstream, soon."""
    if fault.failure == "upstream_error":
        return fault.status in (0, 409) or fault.status >= 500
    return fault.failure in (
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_limited",
        "upstream_broken",
    )


def _closed(why: str, closed_for_s: float) -> UpstreamFault:
    if why == "pause":
        return UpstreamFault(
            "upstream_limited",
            f"not asked: it wants a pause of {closed_for_s:.1f} s more",
            retry_after_s=closed_for_s,
        )
    return UpstreamFault("upstream_unreachable", "not asked: its breaker is open", retry_after_s=closed_for_s)


def transports(context: ssl.SSLContext | None = None) -> TransportMaker:
    """Return what makes the connections to an upstream: HTTP/1.1, or HTTP/2 where it is declared.

    Certificates are verified against the system's, or the context's. Read when the first upstream needs them.
    """

    def make(declared: UpstreamDescription) -> Transport:
        nonlocal context
        if context is None:
            context = ssl.create_default_context()
        try:
            if declared.http2:
                from nightproof.workers.upstream.http2 import Http2

                return Http2(context=context, private=declared.private)
            from nightproof.workers.upstream.http1 import Http1

            return Http1(context=context, private=declared.private, proxy=declared.proxy)
        except ImportError as error:
            raise DeclarationError(
                f"Chat services need {error.name}.", hint="Install the extra: pip install 'nightproof[chat]'."
            ) from None

    return make


def _check(declared: UpstreamDescription) -> None:
    """Raise DeclarationError where an upstream is declared in a way that is not to be asked."""
    try:
        parts = urlsplit(declared.base_url.replace("{port}", "1"))
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        is_good = is_good and parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:  # a port that is none, a bracket that is not closed
        is_good = False
    if not is_good:
        raise DeclarationError(
            f"The base_url of upstream {declared.name!r} is no http(s) URL with a host and without a user.",
            hint="For example https://api.example.com/v1.",
        )
    if parts.scheme == "http" and declared.secret and is_public_name(parts.netloc):
        raise DeclarationError(
            f"Upstream {declared.name!r} would be sent its key over plain HTTP.", hint="Use https://."
        )
    if declared.proxy and declared.http2:
        raise DeclarationError(
            f"Upstream {declared.name!r} has a proxy and http2, which do not go together.",
            hint="Leave one out.",
        )
