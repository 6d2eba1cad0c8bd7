"""What the person on call sees first: each service's rate, p99, endings, workers; and the rooms' state."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nightproof.audit.ledger import LedgerSnapshot
from nightproof.base.ids import RUN_ID
from nightproof.limits.limiter import LimiterSnapshot
from nightproof.steer.shown import PartShown
from nightproof.watch.chat_meters import ChatRecent
from nightproof.watch.drift.watcher import DriftStatus
from nightproof.watch.health import Component
from nightproof.watch.meters import MetersSnapshot, RecentService
from nightproof.watch.upstreams import UpstreamPicture
from nightproof.workers.engine import EngineSnapshot


class DriftBrief(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a service's data still is what its release was made for; `nightproof drift` has the rest."""

    state: str
    since: str
    features: list[str]
    why: str


class UpstreamShown(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream of a chat service."""

    name: str
    model: str
    state: str
    in_flight: int
    limit: int
    pause_s: float
    trouble: str
    last_failure: str


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service."""

    name: str
    release: str
    standby: str
    ready: bool
    workers: dict[str, int]
    pids: list[int]
    queued: int
    restarts: int
    trouble: str
    quarantined: int
    parts: list[PartShown]
    """Every loaded release with the part it plays."""
    recent: RecentService | None
    drift: DriftBrief | None
    chat: ChatRecent | None = None
    """Of a chat service that has been asked."""
    upstreams: list[UpstreamShown] = []
    """Of a chat service, in order of preference."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server."""

    version: str
    run: str
    """Id of this run; each of its records carries it."""
    pid: int
    up_s: float
    address: str
    ready: bool
    why: list[str]
    services: list[ServiceStatus]
    components: list[Component]
    arrivals: int
    endings: dict[str, int]
    failures: dict[str, int]
    in_flight: int
    ledger: LedgerSnapshot
    memory_bytes: int
    disk_free_bytes: int


def service_status(
    name: str,
    engine: EngineSnapshot,
    *,
    ready: bool,
    standby: str,
    quarantined: int,
    parts: Sequence[PartShown],
    meters: MetersSnapshot,
    drift: DriftStatus | None = None,
    chat: ChatRecent | None = None,
    upstreams: Sequence[UpstreamPicture] = (),
) -> ServiceStatus:
    """Gather one service's status from its rooms' snapshots."""
    return ServiceStatus(
        name=name,
        release=engine.release,
        standby=standby,
        ready=ready,
        workers=engine.workers,
        pids=engine.pids,
        queued=engine.queued,
        restarts=engine.restarts,
        trouble=engine.trouble,
        quarantined=quarantined,
        parts=list(parts),
        recent=meters.services.get(name),
        drift=None
        if drift is None
        else DriftBrief(state=drift.state, since=drift.since, features=drift.features, why=drift.why),
        chat=chat,
        upstreams=[
            UpstreamShown(
                name=one.name,
                model=one.model,
                state=one.state,
                in_flight=one.in_flight,
                limit=one.limit,
                pause_s=one.pause_s,
                trouble=one.trouble,
                last_failure=one.last_failure,
            )
            for one in upstreams
        ],
    )


def status(
    *,
    version: str,
    pid: int,
    up_s: float,
    address: str,
    readiness: tuple[bool, list[str]],
    services: Sequence[ServiceStatus],
    components: Sequence[Component],
    meters: MetersSnapshot,
    limiter: LimiterSnapshot,
    ledger: LedgerSnapshot,
    memory_bytes: int,
    disk_free_bytes: int,
) -> Status:
    """Gather the server's status."""
    return Status(
        version=version,
        run=RUN_ID,
        pid=pid,
        up_s=up_s,
        address=address,
        ready=readiness[0],
        why=readiness[1],
        services=list(services),
        components=list(components),
        arrivals=meters.arrivals,
        endings=meters.endings,
        failures=meters.failures,
        in_flight=limiter.in_flight,
        ledger=ledger,
        memory_bytes=memory_bytes,
        disk_free_bytes=disk_free_bytes,
    )
