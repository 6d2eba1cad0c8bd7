"""All knobs, section by section. Frozen, keyword-only, read once by `load.load`.

Each room takes its own section and nothing else. A knob that no room reads must not be here: a setting
without effect is worse than none.
"""

# ruff: noqa: RUF009 (a knob is a dataclass field; a second call would be no other)

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nightproof.base.errors import SettingError
from nightproof.settings.knob import knob

KIB = 1_024
MIB = 1_024 * KIB
GIB = 1_024 * MIB
TIB = 1_024 * GIB

LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]
Pickles = Literal["signed", "never"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where the server listens, how it stops, how it logs. These knobs need no section name."""

    host: str = knob("127.0.0.1", None, None, "address to listen on; beyond loopback only with TLS")
    port: int = knob(8_000, 0, 65_535, "port to listen on; 0 takes any free one")
    tls_cert: Path | None = knob(None, None, None, "certificate chain, PEM; read again on SIGHUP")
    tls_key: Path | None = knob(None, None, None, "the certificate's private key, PEM")
    tls_client_ca: Path | None = knob(None, None, None, "authorities of callers' certificates: mutual TLS")
    insecure: bool = knob(False, None, None, "allow listening beyond loopback without TLS")
    public_url: str = knob("", None, None, "address that callers and operators see; makes links right")
    drain_wait_s: float = knob(0.5, 0, 60, "pause from not ready to no new connections")
    stop_within_s: float = knob(30.0, 0.1, 600, "longest time for admitted requests to finish at stop")
    log_format: LogFormat = knob("auto", None, None, "auto: text on a terminal, else JSON")
    log_level: LogLevel = knob("info", None, None, "least level that is logged")
    unsafe_fs: bool = knob(False, None, None, "allow a state folder on a network or FUSE file system")


@dataclass(frozen=True, kw_only=True)
class ReceivingSettings:
    """How long and how large a request may be while it arrives."""

    first_byte_s: float = knob(5.0, 0.1, 300, "longest wait for the first byte of a new connection")
    headers_s: float = knob(10.0, 0.1, 300, "longest time for all headers to arrive")
    body_s: float = knob(30.0, 0.1, 3_600, "longest time for the body to arrive")
    min_body_bytes_per_s: int = knob(1_024, 0, GIB, "slowest body still read, after 5 s; 0: any")
    keep_alive_s: float = knob(15.0, 0, 3_600, "longest rest of a connection between two requests")
    header_bytes: int = knob(8_192, 256, 65_536, "largest single header")
    headers_bytes: int = knob(32_768, 1_024, MIB, "largest sum of all headers")
    headers_count: int = knob(64, 4, 1_000, "most headers of one request")
    request_line_bytes: int = knob(8_192, 256, 65_536, "longest request line")
    body_bytes: int = knob(MIB, 1_024, GIB, "largest body")
    connections_total: int = knob(4_096, 1, 100_000, "most open connections; more are closed at once")
    connections_per_address: int = knob(0, 0, 100_000, "most open connections of one address; 0: no limit")
    write_stalled_s: float = knob(30.0, 0.1, 3_600, "longest time for a caller to read nothing of its answer")


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """How much work may be inside, and how much of it one key may send."""

    max_in_flight: int = knob(10_000, 1, 1_000_000, "requests inside at once; expected wait refuses earlier")
    queue_bytes: int = knob(64 * MIB, 64 * KIB, 64 * GIB, "largest sum of bodies that wait")
    wait_share: float = knob(0.5, 0.01, 1, "largest share of its deadline that a request may wait")
    quota_per_s: float = knob(0.0, 0, 1_000_000, "requests per second of one key; 0 sets no quota")
    quota_burst: int = knob(10, 1, 1_000_000, "requests that a key may send at once, above its quota")


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How workers are watched and replaced."""

    ping_every_s: float = knob(1.0, 0.05, 60, "pause between two pings of an idle worker")
    ping_within_s: float = knob(1.0, 0.05, 60, "longest time for a worker to answer a ping")
    golden_every_s: float = knob(10.0, 0.5, 3_600, "pause between two golden cases through each worker")
    restarts: int = knob(10, 1, 1_000, "most restarts of a release's workers within restart_window_s")
    restart_window_s: float = knob(60.0, 1, 3_600, "window of the restart budget")
    backoff_first_s: float = knob(0.1, 0.01, 60, "pause before the second restart in a row; then it doubles")
    backoff_most_s: float = knob(10.0, 0.1, 600, "longest pause between restarts")
    recycle_growth_mb: int = knob(512, 16, 1_048_576, "growth since ready at which a worker is recycled")
    show_output: bool = knob(False, None, None, "pass on what user code prints")


@dataclass(frozen=True, kw_only=True)
class LedgerSettings:
    """Where records are kept, and how they become durable."""

    url: str = knob(
        "", None, None, "postgresql:// address of a shared ledger; empty: ledger.db in the state folder"
    )
    batch_rows: int = knob(256, 1, 4_096, "most records of one commit")
    batch_bytes: int = knob(MIB, 4_096, 256 * MIB, "most bytes of one commit")
    checkpoint_every_s: float = knob(5.0, 0.1, 600, "longest time between two moves of the log into the file")
    checkpoint_pages: int = knob(1_000, 10, 1_000_000, "pages in the log that bring the next move forward")
    commit_slow_s: float = knob(2.0, 0.01, 60, "a commit that takes longer is reported as a slow disk")
    disk_low_bytes: int = knob(64 * MIB, 0, TIB, "free space under which the disk counts as nearly full")
    summary_every_s: float = knob(10.0, 0.1, 600, "pause between two summary records of refusals")
    seal_every_s: float = knob(1.0, 0.05, 60, "longest time from a record to the signed checkpoint over it")
    reserve_bytes: int = knob(
        64 * MIB, 0, GIB, "file given up on a full disk, so that operators can still act; 0: none"
    )
    spill_folder: Path | None = knob(
        None, None, None, "folder for records of services that say spill, on another disk"
    )
    spill_bytes: int = knob(
        64 * MIB, 64 * KIB, GIB, "most bytes of spilled records; then their services refuse"
    )
    spill_within_s: float = knob(300.0, 1, 3_600, "longest time of spilling; then its services refuse")


@dataclass(frozen=True, kw_only=True)
class VaultSettings:
    """Where the master key comes from. `NIGHTPROOF_MASTER_KEY` (base64, 32 bytes) goes before both."""

    master_key_file: Path | None = knob(
        None, None, None, "file of the master key; default: master.key in the state folder"
    )
    master_key_command: str = knob("", None, None, "command that prints the master key, base64")
    rotate_days: float = knob(90.0, 0.01, 3_650, "days after which new content gets a new key of keys")


@dataclass(frozen=True, kw_only=True)
class WitnessSettings:
    """Who holds our checkpoints, so that history cannot be rewritten unseen."""

    folder: Path | None = knob(None, None, None, "folder on another machine's disk that takes checkpoints")
    url: str = knob("", None, None, "https:// address of a C2SP witness that takes checkpoints")
    vkey: str = knob("", None, None, "the witness's public key, to verify its cosignatures")
    every_s: float = knob(10.0, 0.1, 3_600, "pause between two checkpoints given to the witness")
    late_after_s: float = knob(900.0, 1, 86_400, "age of the last witnessed checkpoint that alarms")


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """When content is destroyed. How long each service's is kept, the service declares."""

    every_s: float = knob(3_600.0, 0.1, 86_400, "pause between two looks for content past its time")


@dataclass(frozen=True, kw_only=True)
class HistorySettings:
    """What is remembered of the meters, in `watch.db`: seconds, minutes and hours."""

    most_bytes: int = knob(64 * MIB, MIB, 64 * GIB, "largest size of watch.db; the oldest windows go first")
    write_every_s: float = knob(5.0, 0.5, 300, "pause between two writes; a kill loses that much")


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """When a component counts as not well."""

    ledger_write_every_s: float = knob(60.0, 0.5, 3_600, "silence after which the ledger is asked by a write")
    loop_lag_s: float = knob(0.5, 0.01, 60, "lag of the server's event loop that counts as not well")
    certificate_warn_days: float = knob(21.0, 0, 365, "days before its end that the certificate warns")


@dataclass(frozen=True, kw_only=True)
class TelemetrySettings:
    """What goes out by OpenTelemetry. `OTEL_EXPORTER_OTLP_ENDPOINT` switches it on; OTEL_* say the rest."""

    traces_per_s: int = knob(100, 0, 10_000, "most traces of a second: half for answers, half for the others")
    queue_traces: int = knob(2_000, 10, 100_000, "most traces that wait to be sent; more are dropped")


@dataclass(frozen=True, kw_only=True)
class IdempotencySettings:
    """How long a repeated request gets the recorded answer."""

    keep_h: float = knob(24.0, 0.01, 8_760, "hours that an Idempotency-Key is remembered")


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """What is accepted as a release, and how long its files are kept."""

    allow_pickle: Pickles = knob(
        "signed", None, None, "pickle and joblib files: of releases signed by a trusted key, or of none"
    )
    also_allow: str = knob("", None, None, "endings of other files that are taken, with commas: .bin,.model")
    bundle_bytes: int = knob(8 * GIB, MIB, TIB, "most bytes of one release's files")
    store: str = knob("", None, None, "fsspec URL that bundles are kept at too, such as s3://bucket/releases")
    keep_newest: int = knob(10, 1, 10_000, "releases of a service whose files stay, besides those in use")
    keep_days: float = knob(7.0, 0, 3_650, "age up to which a release's files stay in any case")


@dataclass(frozen=True, kw_only=True)
class PromotionSettings:
    """How a release goes live, and what brings it back."""

    canary_steps: str = knob(
        "5,20,50",
        None,
        None,
        "shares of a canary in percent; it begins at --canary and takes the larger ones",
    )
    canary_metrics: str = knob(
        "errors,refusals,fallbacks,output_checks,latency,confidence,outputs",
        None,
        None,
        "what a canary is judged by",
    )
    false_alarm: float = knob(
        0.01, 1e-6, 0.5, "highest probability that a canary which is not worse is called worse"
    )
    step_least_s: float = knob(30.0, 0, 86_400, "shortest step of a canary")
    step_most_s: float = knob(
        3_600.0, 1, 604_800, "longest wait for enough data in a step; then the canary is taken back"
    )
    step_least_requests: int = knob(100, 10, 1_000_000, "fewest requests of the canary in a step")
    rare_margin: float = knob(
        0.02, 0.0001, 0.5, "part of requests by which errors may be more frequent and count as not worse"
    )
    shape_margin: float = knob(
        0.1, 0.001, 0.5, "part of answers by which slow, unsure or other ones may, and count as not worse"
    )
    probation_s: float = knob(
        600.0, 0, 86_400, "time after going live in which a release is taken back by itself"
    )
    probation_false_alarm: float = knob(
        0.005, 1e-6, 0.5, "highest probability that a release which keeps its objectives is taken back"
    )
    standby_workers: int = knob(1, 1, 64, "workers kept warm of the release before the live one")
    overflow_s: float = knob(
        15.0, 0, 600, "how long the release that was live helps out while the new one starts its workers"
    )
    shadow_places: int = knob(
        16, 1, 10_000, "copies of requests that a shadow may have at once; more are not made"
    )
    examples: int = knob(
        50, 0, 1_000, "examples kept, sealed, of what a shadow or a replay answers otherwise"
    )


@dataclass(frozen=True, kw_only=True)
class DriftSettings:
    """How inputs and answers are held against the release's profile."""

    watch: bool = knob(True, None, None, "watch for drift, in a process of its own")
    promise_days: float = knob(30.0, 0.01, 3_650, "at most one false alarm per service in so many days")
    window_rows: int = knob(500, 100, 1_000_000, "least rows of a window; fewer say nothing")
    window_s: float = knob(10.0, 0.0, 86_400, "least time of a window, however many rows come")
    rows_per_s: int = knob(500, 10, 100_000, "most rows a second that are looked at, a fair sample of all")
    learn_rows: int = knob(
        2_000, 200, 100_000, "first rows a profile is learnt from where there is no reference"
    )
    answer_rows: int = knob(2_000, 0, 20_000, "reference rows that a new release answers for its profile")
    caller_rows: int = knob(0, 0, 1_000_000, "most rows of one key in a window; 0: no limit")


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """How labels that come afterwards are taken in."""

    keep_labels: int = knob(100_000, 1_000, 10_000_000, "most labels kept per service; the oldest go first")
    source_share: float = knob(
        0.5, 0.01, 1, "largest share of the counted labels that one key may have, where several give them"
    )
    burst_per_min: int = knob(
        6_000, 10, 10_000_000, "labels a minute of one key above which they are held back"
    )


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """When alerts are judged, and what they are called."""

    every_s: float = knob(1.0, 0.05, 60, "pause between two looks at everything that alerts")
    scale: float = knob(1.0, 0.0001, 1, "shortens all windows and waits of alerts, for tests")
    group_wait_s: float = knob(1.0, 0, 300, "time for alerts of one service to gather before they are told")
    repeat_s: float = knob(60.0, 1, 3_600, "pause between two posts of what fires to Alertmanager")
    instance: str = knob("", None, None, "this server's name in alerts; empty: host and port, or public_url")


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Who is told of alerts, besides Alertmanager, and how hard that is tried."""

    webhook: str = knob("", None, None, "address that alerts are posted to, signed")
    webhook_secret: str = knob(
        "", None, None, "the signature's secret: whsec_ and base64; no secret, no signature"
    )
    webhook_secret_file: Path | None = knob(None, None, None, "file of the secret, instead")
    apprise: str = knob(
        "", None, None, "addresses of Apprise, apart by spaces: mailto://, slack://, pagerduty:// …"
    )
    apprise_file: Path | None = knob(None, None, None, "file of more such addresses, one a line")
    within_s: float = knob(10.0, 0.1, 120, "longest time for a receiver to take a message")
    backoff_first_s: float = knob(0.5, 0.01, 60, "pause before the second try; then it doubles")
    backoff_most_s: float = knob(60.0, 0.1, 3_600, "longest pause between tries")
    give_up_after_h: float = knob(72.0, 0.001, 720, "hours after which a message is given up")
    failing_after_s: float = knob(60.0, 0.1, 86_400, "age of an undelivered message that alarms")
    heartbeat: str = knob("", None, None, "address posted to while alerts are judged: the dead-man's switch")
    heartbeat_every_s: float = knob(60.0, 0.1, 3_600, "pause between two heartbeats")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that was set, from defaults, file, environment and flags."""

    state: Path = knob(Path(".nightproof"), None, None, "folder of the ledger, keys, bundles and socket")
    alertmanager: str = knob(
        "", None, None, "Alertmanagers that are told of alerts: http://host:9093, apart by spaces"
    )
    server: ServerSettings = field(default_factory=ServerSettings)
    receiving: ReceivingSettings = field(default_factory=ReceivingSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    idempotency: IdempotencySettings = field(default_factory=IdempotencySettings)
    vault: VaultSettings = field(default_factory=VaultSettings)
    witness: WitnessSettings = field(default_factory=WitnessSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    releases: ReleaseSettings = field(default_factory=ReleaseSettings)
    promotion: PromotionSettings = field(default_factory=PromotionSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    notify: NotifySettings = field(default_factory=NotifySettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)


SECTIONS: dict[str, type] = {
    "server": ServerSettings,
    "receiving": ReceivingSettings,
    "limits": LimitSettings,
    "workers": WorkerSettings,
    "ledger": LedgerSettings,
    "idempotency": IdempotencySettings,
    "vault": VaultSettings,
    "witness": WitnessSettings,
    "retention": RetentionSettings,
    "releases": ReleaseSettings,
    "promotion": PromotionSettings,
    "history": HistorySettings,
    "health": HealthSettings,
    "telemetry": TelemetrySettings,
    "alerts": AlertSettings,
    "notify": NotifySettings,
    "drift": DriftSettings,
    "feedback": FeedbackSettings,
}
"""The sections of `nightproof.toml`, in the order of the docs."""


def refuse_contradictions(settings: Settings) -> None:
    """Raise SettingError where two knobs, each good alone, cannot hold together."""
    server, receiving, workers = settings.server, settings.receiving, settings.workers
    if (server.tls_cert is None) != (server.tls_key is None):
        missing = "tls_key" if server.tls_key is None else "tls_cert"
        raise SettingError(f"server.{missing} is missing.", hint="TLS needs both tls_cert and tls_key.")
    if server.tls_client_ca is not None and server.tls_cert is None:
        raise SettingError("server.tls_client_ca is set without TLS.", hint="Give tls_cert and tls_key too.")
    if receiving.header_bytes > receiving.headers_bytes:
        raise SettingError(
            f"receiving.header_bytes is above headers_bytes ({receiving.headers_bytes}).",
            hint="One header cannot be larger than all of them; raise headers_bytes.",
        )
    if workers.backoff_first_s > workers.backoff_most_s:
        raise SettingError(
            f"workers.backoff_first_s is above backoff_most_s ({workers.backoff_most_s:g}).",
            hint="Raise backoff_most_s.",
        )


def refuse_open_binding(server: ServerSettings) -> None:
    """Raise SettingError for an address beyond loopback without TLS. Asked by `serve`, not by other verbs."""
    if server.tls_cert is not None or server.insecure or is_loopback(server.host):
        return
    raise SettingError(
        f"server.host {server.host!r} is reachable from other machines, and keys would travel in the clear.",
        hint="Give --tls-cert and --tls-key, listen on 127.0.0.1, or take the risk with --insecure.",
    )


def is_loopback(host: str) -> bool:
    """Say whether an address to listen on is this machine only. An unknown name counts as beyond."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
