"""A stage: a folder of its own, with a server, its state, its callers' keys and the receiver of its alerts.

Everything is on loopback and under one temporary folder, needs no root, and is undone at the end: by `close`, also on
Ctrl-C and SIGTERM, and by a watchdog where the drill itself is killed. The user's folder and state are not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError
from nightproof.declare.chat_description import ChatDescription
from nightproof.drills import watchdog
from nightproof.drills.folders import make_folder, set_cue
from nightproof.drills.load import Place
from nightproof.drills.lookout import Lookout, Samples, read_metrics
from nightproof.drills.receiver import Receiver
from nightproof.drills.supervised import Supervised
from nightproof.drills.upstreams import StageUpstreams
from nightproof.storage import proc
from nightproof.storage.statefolder import StateFolder

_READY_WITHIN_S = 120.0
_LOOK_AGAIN_S = 0.05
_VERB_WITHIN_S = 120.0
_NOT_INHERITED = ("NIGHTPROOF_", "OTEL_", "FAILING_", "JUMPING_")
SHIM = Path(__file__).parent / "shim"
STAGE_SETTINGS = {
    "ledger.reserve_bytes": "65536",
    "ledger.summary_every_s": "1",
    "workers.restarts": "100",
    "drift.watch": "false",
    "notify.failing_after_s": "5",
    "notify.heartbeat_every_s": "1",
}
"""What every stage sets otherwise than a server does by default: told in the report."""


class StageFailed(NightproofError):
    """The stage could not be set up, so nothing was tried on it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a stage is like, where it is not the usual one."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    declares: Mapping[str, Any] = field(default_factory=dict)
    """What the service declares otherwise here."""
    env: Mapping[str, str] = field(default_factory=dict)
    has_shim: bool = False
    """The disk and the clock of its server can be made to fail, by a module that Python finds first."""
    has_tls: bool = False
    certificate_days: float = 365.0
    watermark_under_free_bytes: int = 0
    """Let the disk count as nearly full once that much more of it is used; 0: as the server does."""
    cue: Mapping[str, Any] | None = None
    """What the model does here on a good day: slower than it is, to fill it with what this machine can send."""


@dataclass
class Ran:
    """How a verb of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON; None where it is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            return None


class Stage:
    """One stage. `open` sets it up, `close` undoes all of it; both from the main thread."""

    def __init__(
        self,
        source: Path,
        setting: Setting,
        *,
        chat: ChatDescription | None = None,
        says: str = "",
        own_settings: Mapping[str, str] = {},
        seed: int = 0,
        keep: bool = False,
    ) -> None:
        self.source = source
        self.chat = chat
        """Of a chat service; its upstreams are lying ones here, and say `says` while they behave."""
        self.setting = setting
        self.seed = seed
        self._own_settings = own_settings
        self._keep = keep
        self.root = Path(tempfile.mkdtemp(prefix="nightproof-drill-"))
        (self.root / watchdog.MARK).touch()
        self._watchdog = _start_watchdog(self.root)
        self.state = self.root / "state"
        self.cue_file = self.root / "cue.json"
        self.fault_file = self.root / "fault"
        self.ahead_file = self.root / "ahead"
        self.log = self.root / "server.log"
        self.port = _free_port()
        self.receiver = Receiver()
        self.server: Supervised | None = None
        self.folder = self.root / "service"
        self.service = ""
        self.key = ""
        self.tls: ssl.SSLContext | None = None
        self.lookout: Lookout | None = None
        self.upstreams: StageUpstreams | None = None
        self._says = says
        self._urls: list[str] = []
        self._is_closed = False
        (self.root / "tmp").mkdir()
        free = os.statvfs(self.root)
        self.watermark_bytes = max(1, free.f_bavail * free.f_frsize - setting.watermark_under_free_bytes)

    # -- set up and undo ----------------------------------------------------------------------

    def open(self, service: str) -> None:
        """Make the folder, start the server, and wait until it is ready. Raises StageFailed."""
        self.service = service
        if self.chat is not None:
            self.upstreams = StageUpstreams(self.chat, self._says, self.env())
            self._urls = self.upstreams.start()
        make_folder(self.source, self.folder, cue_file=self.cue_file, declares=self._declares())
        self.cue(None)
        self.receiver.start()
        self.key = self.make_key("predict")
        self._write_certificate()
        self.server = Supervised(self.command(), env=self.env(), cwd=self.root, log=self.log)
        self.server.start()
        self.lookout = Lookout(self.port, tls=self.tls, memory_of=self._pid_and_memory)
        if not self.wait_until(self.is_ready, within_s=_READY_WITHIN_S):
            raise StageFailed(
                f"The stage {self.setting.name!r} did not become ready.",
                hint=_last_lines(self.log.read_text("utf-8")),
            )
        self.lookout.start()

    def command(self, folder: Path | None = None) -> list[str]:
        """Return the command line that serves this stage, as a user would type it."""
        chosen = {
            **self._own_settings,
            **STAGE_SETTINGS,
            "notify.webhook": self.receiver.url,
            "notify.heartbeat": f"http://127.0.0.1:{self.receiver.port}/beat",
            **{name: self._filled(value) for name, value in self.setting.settings.items()},
        }
        if self.setting.watermark_under_free_bytes:
            chosen["ledger.disk_low_bytes"] = str(self.watermark_bytes)
        flags = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
        if self.setting.has_tls:
            flags += ["--tls-cert", str(self.root / "cert.pem"), "--tls-key", str(self.root / "key.pem")]
        return [
            sys.executable, "-m", "nightproof", "serve", str(folder or self.folder),
            "--state", str(self.state), "--port", str(self.port), *flags,
        ]  # fmt: skip

    def env(self) -> dict[str, str]:
        """Return the environment of everything that runs here: the user's, without what would steer another server."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        kept |= {watchdog.VARIABLE: str(self.root), "TMPDIR": str(self.root / "tmp")}
        kept |= {name: self._filled(value) for name, value in self.setting.env.items()}
        if self.setting.has_shim:
            paths = [str(SHIM), *filter(None, [kept.get("PYTHONPATH", "")])]
            kept |= {
                "PYTHONPATH": ":".join(paths),
                "FAILING_DISK": str(self.root),
                "JUMPING_CLOCK": str(self.ahead_file),
            }
        return kept

    def _filled(self, text: str) -> str:
        """Write this stage's own places into a setting."""
        return text.replace("{root}", str(self.root)).replace(
            "{receiver}", f"http://127.0.0.1:{self.receiver.port}"
        )

    def close(self) -> None:
        """Undo everything. Twice is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self.lookout is not None:
                self.lookout.stop()
            if self.server is not None:
                self.server.stop()
            if self.upstreams is not None:
                self.upstreams.stop()
            with contextlib.suppress(OSError):
                self.receiver.stop()
        finally:
            if not self._keep:
                watchdog.clear(self.root)
            _dismiss(self._watchdog)

    # -- what an operator does ----------------------------------------------------------------

    def run(self, *verb: str, within_s: float = _VERB_WITHIN_S, state: Path | None = None) -> Ran:
        """Run a verb of the command line on this stage, to its end."""
        return self.run_command(
            [sys.executable, "-m", "nightproof", *verb, "--state", str(state or self.state)],
            within_s=within_s,
        )

    def run_command(self, command: Sequence[str], *, within_s: float) -> Ran:
        """Run a program in the stage's environment, to its end."""
        try:
            done = subprocess.run(
                command,
                capture_output=True, text=True, timeout=within_s, env=self.env(), cwd=self.root, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Ran(-1, "", f"it did not end within {within_s:g} s")
        return Ran(done.returncode, done.stdout, done.stderr)

    def make_key(self, role: str, *more: str) -> str:
        """Make an API key and return its token."""
        made = self.run("keys", "create", "--role", role, "--json", *more)
        if made.code != 0:
            raise StageFailed("No key could be made for the stage.", hint=_last_lines(made.err))
        return str(made.json["key"])

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server as operators' verbs do, over its socket; None where it does not answer."""
        try:
            transport = httpx.HTTPTransport(uds=str(StateFolder.open(self.state, create=False).socket))
            with httpx.Client(transport=transport, base_url="http://nightproof", timeout=10) as client:
                return client.request(method, path, json=body).json()
        except (httpx.TransportError, ValueError, NightproofError):
            return None

    def status(self) -> dict[str, Any]:
        """Return what `nightproof status --json` shows; empty where no server answers."""
        told = self.operate("GET", "/admin/status")
        return told if isinstance(told, dict) and "services" in told else {}

    def worker_pids(self) -> list[int]:
        """Return the processes of the live release's workers, the spares among them."""
        services = self.status().get("services") or [{}]
        return [int(pid) for pid in services[0].get("pids", [])]

    def cue(self, cue: Mapping[str, Any] | None) -> None:
        """Tell the model what to do from now on; None: what it does here on a good day."""
        set_cue(self.cue_file, cue if cue is not None else self.setting.cue)

    def make_folder(self, version: str, **declares: Any) -> tuple[Path, Path]:
        """Make another folder of the service, with a cue file of its own; return both."""
        folder, cue_file = self.root / f"service-{version}", self.root / f"cue-{version}.json"
        changed = {**self._declares(), **declares}
        make_folder(self.source, folder, cue_file=cue_file, declares=changed, note=version)
        return folder, cue_file

    def _declares(self) -> dict[str, Any]:
        """Return what the service declares otherwise here: what the setting says, and whom a chat service asks."""
        return {**self.setting.declares, **({"upstream_urls": self._urls} if self._urls else {})}

    def release(self, folder: Path, version: str) -> Ran:
        """Make a release of a folder, as an operator does."""
        return self.run("release", str(folder), "--version", version, "--json")

    def live(self) -> str:
        """Return the version that is live."""
        return str((self.status().get("services") or [{}])[0].get("release", ""))

    # -- what callers and watchers see --------------------------------------------------------

    @property
    def place(self) -> Place:
        """Where callers ask."""
        is_chat = self.chat is not None and not self.chat.is_typed
        return Place(port=self.port, service=self.service, key=self.key, tls=self.tls, chat=is_chat)

    def get(self, path: str, **headers: str) -> httpx.Response | None:
        """Ask for a page as anybody does; None where nobody answers."""
        scheme = "https" if self.tls else "http"
        try:
            return httpx.get(
                f"{scheme}://127.0.0.1:{self.port}{path}",
                headers=headers,
                timeout=5,
                verify=self.tls or False,
            )
        except httpx.TransportError:
            return None

    def is_ready(self) -> bool:
        """Say whether `/readyz` does."""
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def metrics(self) -> Samples:
        """Return `/metrics` as it is now; empty where nobody answers."""
        answer = self.get("/metrics")
        return read_metrics(answer.text) if answer is not None else {}

    def count(self, name: str, **labels: str) -> float:
        """Sum a metric over all label sets that have these."""
        return sum(
            value
            for found, value in self.metrics().get(name, ())
            if all(found.get(one) == labels[one] for one in labels)
        )

    def conditions(self) -> set[str]:
        """Return what the server says is wrong now."""
        return {
            labels["failure"] for labels, value in self.metrics().get("nightproof_condition", ()) if value
        }

    def memory_bytes(self) -> int:
        """Return the resident memory of the server process."""
        return proc.rss_bytes(self.server.pid) if self.server is not None and self.server.pid else 0

    def _pid_and_memory(self) -> tuple[int, int]:
        pid = self.server.pid if self.server is not None else 0
        return pid, proc.rss_bytes(pid) if pid else 0

    def wait_until(self, holds: Callable[[], object], *, within_s: float) -> bool:
        """Wait until something holds; say whether it did in time."""
        until_s = monotonic_s() + within_s
        while not holds():
            if monotonic_s() > until_s:
                return False
            pause(_LOOK_AGAIN_S)
        return True

    def _write_certificate(self) -> None:
        if self.setting.has_tls:
            from nightproof.drills.certificates import write_pair

            write_pair(self.root, days=self.setting.certificate_days)
            # Nobody vouches for a certificate of a stage; what is drilled is its end and its change.
            self.tls = ssl.create_default_context()
            self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE

    def __repr__(self) -> str:
        return f"<Stage {self.setting.name} {self.root} port={self.port}>"


def pause(seconds: float) -> None:
    """Wait: the one place where a drill does nothing."""
    import time

    time.sleep(max(0.0, seconds))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_watchdog(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nightproof.drills.watchdog", str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def _dismiss(dog: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        dog.communicate(b"done\n", timeout=10)


def _last_lines(text: str, most: int = 12) -> str:
    return "\n".join(text.strip().splitlines()[-most:])


def copy_state(state: Path, target: Path) -> Path:
    """Copy a stopped server's state folder, socket and lock left out, to do to the copy what must not be undone."""
    names: Sequence[str] = ("control.sock", "server.lock")
    shutil.copytree(state, target, ignore=lambda _, found: [name for name in found if name in names])
    return target
