"""The upstreams of chat services as they are now: what is wrong with them, how each is, and their gauges. Pure.

Made of pictures that whoever holds the upstreams takes when asked. An upstream is somebody else's: that it is down
is told, and makes no server unready, since every other server that asks it is in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from prometheus_client import Metric

from nightproof.base.conditions import Condition
from nightproof.declare.chat_description import ChatDescription
from nightproof.watch.families import gauge
from nightproof.watch.genai import endpoint_of
from nightproof.watch.health import Component, Health

State = Literal["closed", "half_open", "open"]
STATES: tuple[State, ...] = ("closed", "half_open", "open")


class UpstreamSeen(Protocol):
    """What whoever asks an upstream tells of it."""

    @property
    def name(self) -> str:
        """As declared."""

    @property
    def model(self) -> str:
        """Which model is asked for."""

    @property
    def breaker(self) -> State:
        """Whether it is asked."""

    @property
    def open_since_s(self) -> float:
        """Since when not, on the monotonic clock; 0 where it is."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""

    @property
    def in_line(self) -> int:
        """Calls that wait for a place."""

    @property
    def limit(self) -> int:
        """Places."""

    @property
    def pause_s(self) -> float:
        """For how long it asked not to be asked."""

    @property
    def last_failure(self) -> str:
        """Of the catalogue; empty where it never failed."""

    @property
    def last_detail(self) -> str:
        """Kinds and numbers of it."""

    @property
    def warning(self) -> str:
        """What an operator should look at in its declaration."""


class UpstreamPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream of a live release as it is now."""

    name: str
    model: str
    provider: str = ""
    """By OpenTelemetry's list; empty where nobody said."""
    address: str = ""
    port: int = 0
    state: State = "closed"
    open_since_s: float = 0.0
    """On the monotonic clock; 0: it is asked."""
    in_flight: int = 0
    in_line: int = 0
    limit: int = 0
    """How many calls it gets at once now."""
    pause_s: float = 0.0
    """How long it has asked not to be asked, from now on."""
    last_failure: str = ""
    """In our own words: a failure's name, a status, a kind of error."""
    command_trouble: str = ""
    """Why the program that serves it does not stay up; empty where it does, or is none of ours."""
    warning: str = ""
    """What an operator should look at in its declaration."""

    @property
    def trouble(self) -> str:
        """Say why it does not answer, or soon will not; empty where all is well as far as is known."""
        if self.command_trouble:
            return self.command_trouble
        if self.state == "closed":
            return self.warning
        said = "its breaker is open" if self.state == "open" else "not seen to answer again yet"
        return f"{said}: {self.last_failure}" if self.last_failure else said


Pictures = Mapping[str, Sequence[UpstreamPicture]]
"""By service, in order of preference."""


def pictures_of(
    chat: ChatDescription, seen: Sequence[UpstreamSeen], command_troubles: Mapping[str, str]
) -> list[UpstreamPicture]:
    """Take the pictures of a release's upstreams. `command_troubles` has what is wrong with programs, by upstream."""
    declared = {one.name: one for one in chat.upstreams}
    made = []
    for one in seen:
        address = declared[one.name].base_url if one.name in declared else ""
        endpoint = endpoint_of(address)
        words = [word for word in (one.last_failure, one.last_detail) if word]
        made.append(
            UpstreamPicture(
                name=one.name,
                model=one.model,
                provider=endpoint.provider,
                address=endpoint.address,
                port=endpoint.port,
                state=one.breaker,
                open_since_s=one.open_since_s,
                in_flight=one.in_flight,
                in_line=one.in_line,
                limit=one.limit,
                pause_s=one.pause_s,
                last_failure=", ".join(words),
                command_trouble=command_troubles.get(one.name, ""),
                warning=one.warning,
            )
        )
    return made


def upstream_conditions(pictures: Pictures) -> Iterator[Condition]:
    """Return what is wrong with the upstreams of each service, all of a kind in one.

    An upstream is down until it answered again: that its breaker's pause is over shows nothing yet.
    """
    for service, upstreams in pictures.items():
        down = [one for one in upstreams if one.state != "closed"]
        failed = [one for one in upstreams if one.command_trouble]
        if down:
            since_s = min(one.open_since_s for one in down)
            detail = _told(down, upstreams)
            yield Condition(failure="upstream_down", service=service, since_s=since_s, detail=detail)
        if failed:
            yield Condition(
                failure="upstream_command_failed", service=service, detail=_told(failed, upstreams)
            )


def _told(some: Sequence[UpstreamPicture], upstreams: Sequence[UpstreamPicture]) -> str:
    named = "; ".join(f"{one.name}: {one.trouble}" for one in some)
    return f"{len(some)} of {len(upstreams)}: {named}"


def upstream_components(pictures: Pictures, health: Health) -> list[Component]:
    """Return how each upstream is, for `/healthz`."""
    return [
        health.see(f"upstream:{service}/{one.name}", ok=not one.trouble, why=one.trouble, needed=False)
        for service, upstreams in pictures.items()
        for one in upstreams
    ]


def upstream_gauges(pictures: Pictures) -> Iterator[Metric]:
    """Return the present values of every service's upstreams for `/metrics`."""
    each = [(service, one) for service, upstreams in pictures.items() for one in upstreams]
    labels = ["service", "upstream"]
    yield gauge(
        "nightproof_upstream_state",
        "The state of an upstream's breaker.",
        {(service, one.name, state): float(one.state == state) for service, one in each for state in STATES},
        [*labels, "state"],
    )
    values_of: tuple[tuple[str, str, Callable[[UpstreamPicture], float]], ...] = (
        ("in_flight", "Calls under way.", lambda one: float(one.in_flight)),
        ("in_line", "Calls that wait for a place.", lambda one: float(one.in_line)),
        ("limit", "Calls that it gets at once.", lambda one: float(one.limit)),
        ("pause_seconds", "How long it is not asked, as it wished.", lambda one: one.pause_s),
    )
    for name, meaning, value in values_of:
        values = {(service, one.name): value(one) for service, one in each}
        yield gauge(f"nightproof_upstream_{name}", meaning, values, labels)
    yield gauge(
        "nightproof_upstream_info",
        "Which model an upstream serves, and where.",
        {
            (service, one.name, one.model, one.provider, one.address, str(one.port or "")): 1.0
            for service, one in each
        },
        [*labels, "model", "provider", "address", "port"],
    )
