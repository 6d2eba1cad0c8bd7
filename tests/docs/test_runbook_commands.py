"""Every command that a runbook says to look with is run, on a server in that very state, as the filled page prints it.

Which states can be made here stands in `MADE`, which cannot and why in `NOT_MADE`; together they are the catalogue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from nightproof.base.failures import CATALOGUE
from nightproof.drills.stage import SHIM
from tests.callers import offer
from tests.docs import pages
from tests.releases import folder_of, release_folder, release_of
from tests.serving import (
    ROOT,
    SERVICES,
    Served,
    free_port,
    make_key,
    run_nightproof,
    serving,
    wait_until,
    warm,
)
from tests.warm import NAMED_BY

WARM_BIN = ROOT / "tests" / "material" / "warm"
RUNBOOKS = ROOT / "src" / "nightproof" / "runbooks"
# Of `witness_refused`, `content_unreadable`, `watch_blind`, `shutting_down`, `canary_worse`, `canary_undecided`,
# `release_unsigned`, `release_damaged`, `release_incompatible` and what ends the server (`audit_outcome_unknown`,
# `audit_rolled_back`, `audit_tampered`, `vault_locked`), and of what needs a chat service (`unprompted`), the commands
# are run on a server, or a state folder, to which this has not happened: what makes them is in tests of their own.
MADE = {
    "misused": [
        "malformed_request", "unauthenticated", "forbidden", "unknown_service", "slow_request",
        "idempotency_conflict", "oversized_request", "unsupported_media_type", "invalid_input", "stale_input",
        "headers_too_large", "caller_gone", "deadline_exceeded", "model_timeout", "model_crash",
        "model_out_of_memory", "model_error", "invalid_output", "unsafe_output", "low_confidence", "poison_input",
        "availability_burning", "latency_burning", "delivery_failing", "watch_blind", "unclean_stop", "disk_low",
        "witness_late", "content_unreadable", "shutting_down", "overloaded", "history_not_kept",
    ],
    "greedy": ["quota_exceeded"],
    "dead": ["model_unavailable", "workers_exhausted", "golden_case_failed", "no_way_back"],
    "taken_back": [
        "release_rolled_back", "promotion_refused", "canary_worse", "canary_undecided", "release_refused",
        "release_unsigned", "release_damaged", "release_incompatible",
    ],
    "shaken": ["audit_writer_lost", "clock_jumped", "loop_lagging", "telemetry_failing"],
    "full": ["audit_unavailable", "spilling", "spill_full"],
    "old_certificate": ["certificate_expiring", "certificate_reload_failed"],
    "witnessed": ["witness_refused"],
    "drifting": ["drift_detected", "feedback_poisoned"],
    "unprompted": [
        "injection_suspected", "hidden_text", "personal_data", "check_failed", "budget_exceeded",
        "upstream_unreachable", "upstream_timeout", "upstream_limited", "upstream_error", "upstream_broken",
        "upstream_rejected", "tool_denied", "upstream_down", "upstream_command_failed", "check_bypassed",
    ],
    "stopped": ["audit_tampered", "audit_rolled_back", "vault_locked", "audit_outcome_unknown"],
}  # fmt: skip
NOT_MADE = {
    "internal_error": "no way from outside is known that ends in a fault of ours",
}
NOT_OF_THIS_MACHINE = frozenset({"journalctl", "systemctl", "timedatectl", "last", "dmesg"})
"""They ask systemd, which does not run our servers here, or the kernel, which does not answer everybody."""
PLACES_OF_THEIRS = ("/etc/nightproof", "/mnt/witness", "ca.pem", "FILE.npb")
"""Files that the operator has where these pages say, and we have not."""
FINDS_NOTHING = {
    ("model_out_of_memory", "memory_growth"),
}
MAY_SAY_BAD = re.compile(r"nightproof (status|alerts|drift|feedback|replay|audit (verify|reconcile)|check)\b")
"""Verbs whose exit code 1 is an answer: the thing asked about is bad."""


_begun_cold: set[str] = set()


@dataclass
class Made:
    """A server, or what is left of one, in a state that runbooks are about."""

    state: Path
    service: str
    served: Served | None
    env: dict[str, str] = field(default_factory=dict)
    record: str = ""
    """A record that is there, for the one whose id a page has as its example."""
    folder: Path | None = None
    """The folder that a release was made of."""
    stand_in: str = ""
    """A record to be shown where a page's own search finds none, since nothing of the kind has happened."""


def block_commands(page: str, section: str) -> list[str]:
    """Return the lines of the shell blocks in one section of a page."""
    part = page.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return pages.shell_lines(part)


def run(command: str, made: Made) -> subprocess.CompletedProcess[str]:
    """Run a line as somebody pastes it into a shell: each verb once as it is, then on the warm command line."""
    verb = " ".join(word for word in command.split()[:3] if word.isalpha())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    path = f"{WARM_BIN}:{path}" if verb in _begun_cold else path
    _begun_cold.add(verb)
    env = {**os.environ, "PATH": path, NAMED_BY: warm(), "NIGHTPROOF_STATE": str(made.state), **made.env}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, timeout=60, env=env, cwd=made.state.parent, check=False,
    )  # fmt: skip


def look(failure: str, made: Made) -> list[str]:
    """Run every command under Look here; return what went wrong, and nothing if all went well."""
    filled = run_nightproof(
        "runbook", failure, "--state", str(made.state), *(["--service", made.service] if made.served else [])
    )
    assert filled.returncode == 0, filled.stderr
    if made.served is not None:
        assert "## Now\n" in filled.stdout
        assert "localhost:8000" not in filled.stdout
    wrong, found_id = [], ""
    for command in block_commands(filled.stdout, "Look here"):
        first = command.split()[0]
        if first in NOT_OF_THIS_MACHINE or any(place in command for place in PLACES_OF_THEIRS):
            continue
        command = re.sub(r"[0-9a-f]{11}-[0-9a-f]{20}", made.record, command) if made.record else command
        command = re.sub(r"\bID\b", found_id or made.stand_in or "ID", command)
        if made.served is not None:
            command = re.sub(r"\bPID\b", str(made.served.process.pid), command)
        if made.folder is not None:
            command = re.sub(r"\bFOLDER\b", str(made.folder), command)
        done = run(command, made)
        ids = re.findall(r"[0-9a-f]{11}-[0-9a-f]{20}", done.stdout)
        found_id = ids[0] if ids else found_id
        is_answer = done.returncode == 1 and MAY_SAY_BAD.match(command)
        is_cut = done.returncode == 141  # `head` had enough
        if (done.returncode != 0 and not is_answer and not is_cut) or not (done.stdout + done.stderr).strip():
            wrong.append(
                f"{failure}: {command}\n  exit {done.returncode}: {done.stdout[-300:]}{done.stderr[-500:]}"
            )
    return wrong


# -- the states -------------------------------------------------------------------------------


def cut_off(served: Served, request: bytes) -> None:
    """Send some bytes on a connection of its own, and leave."""
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(request)
        wait_until(lambda: served.status()["in_flight"] > 0 or True)


def misuse(served: Served) -> None:
    """Have the service fail, and be misused, in every way that shows in an ending."""
    ask, post = served.predict, served.client.post
    path = f"/services/{served.service}/predict"
    for act in ("hang", "hang", "raise", "raise", "nan", "unsafe", "unsure", "allocate", "exit"):
        ask({"x": 1, "act": act})
    ask({"x": "no number"})
    ask({"x": 1, "as_of": (datetime.now(UTC) - timedelta(days=400)).isoformat()})
    served.predict_bytes(b"{not json")
    post(path, json={"x": 1}, headers={"authorization": "Bearer nobody"})
    post("/services/nothing/predict", json={"x": 1})
    served.client.get("/v2/models/nothing")
    served.predict_bytes(b"x" * (1 << 20 | 1))
    served.predict_bytes(b"{}", content_encoding="gzip")
    post(path, json={"x": 1}, headers={"x-large": "x" * 9_000})
    ask({"x": 1}, idempotency_key="one")
    ask({"x": 2}, idempotency_key="one")
    ask({"x": 1, "ms": 300}, x_request_timeout_ms="60")
    narrow = make_key(served.state, services=["elsewhere"])
    for _ in range(2):
        post(path, json={"x": 1}, headers={"authorization": f"Bearer {narrow}"})
    body = json.dumps({"x": 1, "ms": 350}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {served.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    gone = lambda: 'ending="abandoned"' in served.metrics()  # noqa: E731
    while not gone():
        with socket.create_connection(("127.0.0.1", served.port)) as leaver:
            leaver.sendall(head.encode() + body)
            wait_until(lambda: served.status()["in_flight"] > 0)
        with contextlib.suppress(AssertionError):
            wait_until(gone, within_s=2)
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(f"POST {path} HTTP/1.1\r\nhost: he".encode())
        wait_until(lambda: 'failure="slow_request"' in served.metrics())
    asyncio.run(offer(served, rate_per_s=150, for_s=1.0))


@contextmanager
def misused(folder: Path) -> Iterator[Made]:
    """Serve after a kill, with a receiver that is down, a witness that takes nothing, little disk; and misuse it."""
    state = folder / "state"
    with serving("faulty", state) as served:
        lost = served.predict({"x": 1}).headers["x-request-id"]
        served.stop(signal.SIGKILL)
    flags = (
        "--set", f"notify.webhook=http://127.0.0.1:{free_port()}/", "--set", "notify.failing_after_s=0.5",
        "--set", "alerts.scale=0.1", "--set", "ledger.disk_low_bytes=1000000000000", "--set", "receiving.headers_s=0.5",
        "--set", f"witness.folder={folder / 'nowhere' / 'witness'}", "--set", "witness.late_after_s=1",
        "--set", "witness.every_s=0.2", "--set", "ledger.summary_every_s=0.2",
    )  # fmt: skip
    (folder / "nowhere").write_text("a file where a folder should be")
    with serving("faulty", state, *flags) as served:
        misuse(served)
        wait_until(lambda: served.operate("GET", "/admin/alerts").json()["firing"] > 0)
        wait_until(lambda: len(served.metrics().split('event="message_failed"')) > 1)
        wait_until(
            lambda: {"history_not_kept", "disk_low", "witness_late"} <= conditions(served), within_s=30
        )
        run_nightproof("audit", "erase", "--subject", "nobody", "--yes", "--state", str(state))
        run_nightproof("audit", "expire", "--state", str(state))
        yield Made(state, "faulty", served, record=lost)


@contextmanager
def greedy(folder: Path) -> Iterator[Made]:
    """Serve a caller who asks for more than his quota."""
    flags = (
        "--set",
        "limits.quota_per_s=1",
        "--set",
        "limits.quota_burst=1",
        "--set",
        "ledger.summary_every_s=0.2",
    )
    with serving("mirror", folder / "state", *flags) as served:
        for _ in range(5):
            served.predict({"text": "a"})
        wait_until(lambda: 'failure="quota_exceeded"' in served.metrics())
        wait_until(
            lambda: (
                run(
                    "nightproof audit search --kind summary --json", Made(served.state, "", None)
                ).stdout.count("summary")
                > 0
            )
        )
        yield Made(served.state, "mirror", served)


@contextmanager
def dead(folder: Path) -> Iterator[Made]:
    """Serve a model that answers its golden cases wrongly, until nothing is left."""
    place = folder / "tmp"
    place.mkdir()
    flags = ("--set", "workers.golden_every_s=0.5", "--set", "workers.backoff_most_s=0.3")
    with serving("moody", folder / "state", *flags, env={"TMPDIR": str(place)}) as served:
        (place / "mood").write_text("wrong")
        wait_until(lambda: served.client.get("/readyz").status_code == 503, within_s=30)
        wait_until(lambda: 'event="workers_exhausted"' in served.metrics(), within_s=60)
        wait_until(lambda: 'event="no_way_back"' in served.metrics())
        yield Made(served.state, "moody", served, {"TMPDIR": str(place)})


@contextmanager
def taken_back(folder: Path) -> Iterator[Made]:
    """Serve a release before another one that went back by itself, and refuse what is asked of that one."""
    state, turned = folder / "state", folder / "turned"
    release_of(state, "1.0", live=True)
    release_of(state, "1.1", turned_by=str(turned))
    flags = ("--set", "workers.golden_every_s=0.5")
    with serving(folder_of(state, "1.0"), state, *flags, service="steps") as served:
        promote = ("POST", "/admin/releases/steps/promote", {"version": "1.1"})
        assert served.operate(*promote).status_code == 200
        for number in range(20):
            served.predict({"x": number})
        turned.touch()
        wait_until(lambda: 'event="release_rolled_back"' in served.metrics(), within_s=30)
        turned.unlink()
        assert served.operate(*promote).status_code == 409
        bad = folder_of(state, "1.2")
        shutil.copytree(folder_of(state, "1.0"), bad)
        (bad / "golden.jsonl").write_text('{"input": {"x": 3}, "expect": {"y": 7.0}}\n')
        refused = run_nightproof("release", str(bad), "--version", "1.2", "--state", str(state))
        assert refused.returncode != 0
        assert {"release_rolled_back", "release_refused"} <= conditions(served)
        yield Made(state, "steps", served, folder=folder_of(state, "1.0"))


@contextmanager
def shaken(folder: Path) -> Iterator[Made]:
    """Serve while the clock jumps, the log's writer is killed, the server stands still, and no collector is there."""
    ahead = folder / "ahead"
    paths = f"{SHIM}:{os.environ.get('PYTHONPATH', '')}"
    env = {
        "NIGHTPROOF_RETENTION_EVERY_S": "0.2", "JUMPING_CLOCK": str(ahead), "PYTHONPATH": paths.rstrip(":"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }  # fmt: skip
    with serving("mirror", folder / "state", env=env) as served:
        served.predict({"text": "a"})
        first = served.status()["ledger"]["writer_pid"]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: served.status()["ledger"]["writer_pid"] not in {0, first})
        ahead.write_text(str(2 * 86_400))
        served.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{served.process.pid}/stat").read_text().split()[2] == "T")
        began_s = time.monotonic()
        wait_until(lambda: time.monotonic() - began_s > 1.5)
        served.process.send_signal(signal.SIGCONT)
        wanted = {"audit_writer_lost", "clock_jumped", "loop_lagging", "telemetry_failing"}
        wait_until(lambda: wanted <= conditions(served), within_s=30)
        yield Made(served.state, "mirror", served)


def conditions(served: Served) -> set[str]:
    """Return what is wrong now, as the server says."""
    return set(re.findall(r'^nightproof_condition\{failure="(\w+)"', served.metrics(), re.MULTILINE))


@contextmanager
def full(folder: Path) -> Iterator[Made]:
    """Serve a service that spills, on a disk that is full."""
    failing = f"{SHIM}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    env = {"PYTHONPATH": failing, "FAILING_DISK": str(folder)}
    with serving("ward", folder / "state", env=env) as served:
        served.predict({"x": 1})
        (folder / "fault").write_text("full")
        assert served.predict({"x": 2}).status_code == 200
        (folder / "state" / "spill").mkdir(exist_ok=True)
        yield Made(served.state, "ward", served)
        (folder / "fault").unlink()


@contextmanager
def old_certificate(folder: Path) -> Iterator[Made]:
    """Serve with a certificate that ends soon, and refuse a new one."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1", not_after=datetime.now(UTC) + timedelta(days=3))
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    with ExitStack() as stack:
        served = stack.enter_context(
            serving(
                "mirror", folder / "state", "--tls-cert", str(cert), "--tls-key", str(key), scheme="https",
                client_options={"verify": False},
            )
        )  # fmt: skip
        key.write_bytes(authority.issue_cert("localhost").private_key_pem.bytes())
        served.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "certificate_reload_failed" in served.metrics())
        yield Made(served.state, "mirror", served)


@contextmanager
def witnessed(folder: Path) -> Iterator[Made]:
    """Serve with a folder as witness."""
    flags = ("--set", f"witness.folder={folder / 'witness'}", "--set", "witness.every_s=0.2")
    with serving("mirror", folder / "state", *flags) as served:
        served.predict({"text": "a"})
        wait_until(lambda: "nightproof_witness_refused" in served.metrics())
        yield Made(served.state, "mirror", served)


@contextmanager
def drifting(folder: Path) -> Iterator[Made]:
    """Serve the example with another currency in one field, and labels."""
    flags = ("--set", "drift.window_s=0.2", "--set", "drift.rows_per_s=4000")
    with serving(ROOT / "examples" / "credit", folder / "state", *flags, service="credit") as served:
        drift = lambda: served.operate("GET", "/admin/drift/credit").json().get("state", "unknown")  # noqa: E731
        wait_until(lambda: drift() not in ("preparing", "unknown"), within_s=60)
        rich = [{**served.example, "credit-amount": 90_000 + place} for place in range(50)]
        wait_until(lambda: served.predict(rich).status_code == 200 and drift() == "drifting", within_s=60)
        told = served.predict(served.example).json()
        label = {"id": told["id"], "label": {"approve": told["output"]["approve"]}}
        assert served.client.post("/services/credit/feedback", json=label).status_code == 200
        yield Made(served.state, "credit", served)


@contextmanager
def unprompted(folder: Path) -> Iterator[Made]:
    """Serve a model: what has to happen to a chat service has not happened."""
    with serving("mirror", folder / "state", "--set", "ledger.summary_every_s=0.2") as served:
        told = served.predict({"text": "a"})
        served.client.post(
            "/services/mirror/predict", json={"text": "a"}, headers={"authorization": "Bearer nobody"}
        )
        summaries = "nightproof audit search --kind summary --json"
        wait_until(lambda: '"summary"' in run(summaries, Made(served.state, "", None)).stdout)
        yield Made(served.state, "mirror", served, stand_in=told.headers["x-request-id"])


@contextmanager
def stopped(folder: Path) -> Iterator[Made]:
    """Leave a state folder behind without a server."""
    with serving("mirror", folder / "state") as served:
        served.predict({"text": "a"})
        assert served.stop() == 0
    yield Made(folder / "state", "mirror", None)


STATES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Made]]] = {
    "misused": misused,
    "greedy": greedy,
    "dead": dead,
    "taken_back": taken_back,
    "shaken": shaken,
    "full": full,
    "old_certificate": old_certificate,
    "witnessed": witnessed,
    "drifting": drifting,
    "unprompted": unprompted,
    "stopped": stopped,
}


def test_every_runbook_is_tried_in_a_state_or_says_why_not():
    tried = [one for made in MADE.values() for one in made]

    assert sorted([*tried, *NOT_MADE]) == sorted(CATALOGUE)


@pytest.mark.timeout(280)
@pytest.mark.parametrize("name", sorted(STATES))
def test_the_commands_of_the_pages_show_the_state_that_they_are_about(name: str, tmp_path: Path):
    with STATES[name](tmp_path) as made:
        wrong = [one for failure in MADE[name] for one in look(failure, made)]

    assert wrong == [], "\n".join(wrong)


def test_a_service_that_times_out_is_mended_by_the_command_on_its_page(tmp_path: Path):
    """A release that hangs is live, and its probation is over: the page's command goes back to the one before."""
    state, good, hanging = tmp_path / "state", tmp_path / "slow-good", tmp_path / "slow-2.0-folder"
    for folder in (good, hanging):
        shutil.copytree(SERVICES / "slow", folder)
        text = (folder / "service.py").read_text()
        patient = text.replace("deadline_ms=500", "deadline_ms=8_000, predict_timeout_ms=300")
        (folder / "service.py").write_text(patient.replace("spares=1", "spares=3"))
    (hanging / "golden.jsonl").unlink()  # a release that nobody tried
    text = (hanging / "service.py").read_text()
    (hanging / "service.py").write_text(re.sub(r"time\.sleep\(.*\)", "time.sleep(30)", text))
    alone = run_nightproof("rollback", "slow", "--state", str(state))
    with serving(good, state, "--set", "promotion.probation_s=0", service="slow") as served:
        assert served.predict(served.example).status_code == 200
        first = run_nightproof("rollback", "slow", "--state", str(state))
        release_folder(hanging, state, "2.0")
        promoted = run_nightproof("promote", "slow", "2.0", "--now", "--state", str(state))
        assert promoted.returncode == 0, promoted.stderr
        failures = []
        for _ in range(3):
            wait_until(lambda: served.client.get("/readyz").status_code == 200, within_s=30)
            failures.append(served.predict(served.example).json().get("failure"))
        wait_until(lambda: served.operate("GET", "/admin/alerts").json()["firing"] > 0)
        page = run_nightproof("runbook", "model_timeout", "--state", str(state)).stdout
        status = served.status()["services"][0]
        (mending,) = [line for line in block_commands(page, "Do this") if "rollback" in line]
        mended = run(mending, Made(state, "slow", served))
        answer = served.predict(served.example)
        live = served.status()["services"][0]["release"]

    assert (alone.returncode, first.returncode) == (1, 1), "there is nothing to go back to"
    assert failures == ["model_timeout"] * 3
    facts = dict(
        re.findall(r"^(\w[\w ]*\w)  +(.+)$", page.partition("## Now")[2].partition("\n## ")[0], re.MULTILINE)
    )
    assert facts["release"] == status["release"] == "2.0"
    assert facts["alert"].startswith("firing since ")
    assert facts["model_timeout"].startswith("3 of 4 requests in the last ")
    assert int(facts["restarts"]) <= status["restarts"]
    assert facts["restarts"] in {str(number) for number in range(3, status["restarts"] + 1)}
    assert f'reason="model_timeout",service="slow"}} {float(facts["restarts"])}' in page
    assert mended.returncode == 0, mended.stderr
    assert answer.status_code == 200
    assert live == facts["release before"] != "2.0"
