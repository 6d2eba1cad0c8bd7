"""Witnesses: what they are given, what they refuse, and what a server does when they hold more than its log."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nightproof.audit.seal import Verifier, parse_checkpoint
from nightproof.audit.tree import check_consistency
from nightproof.base.errors import StateError
from nightproof.storage.witness_folder import WitnessConflict, WitnessFolder
from tests.serving import SERVICES, Served, run_nightproof, serving

OFTEN = {"NIGHTPROOF_WITNESS_EVERY_S": "0.2", "NIGHTPROOF_LEDGER_SEAL_EVERY_S": "0.1"}
ODD_ANSWERS = {
    "error": (500, b"no"),
    "redirect": (302, b""),
    "nonsense": (409, b"many"),
    "endless": (200, b"x" * 200_000),
}


@dataclass
class Told:
    """One checkpoint that the witness was given."""

    old_size: int
    proof: list[bytes]
    note: bytes


@dataclass
class Notary:
    """A tlog-witness on loopback that keeps what it saw, and answers oddly on cue."""

    url: str
    seen: list[Told] = field(default_factory=list)
    size: int = 0
    odd: str = ""
    claims: int | None = None
    """The size that it says it has seen, whatever it is told."""


@pytest.fixture
def notary() -> Iterator[Notary]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a checkpoint (C2SP tlog-witness, add-checkpoint)."""
            body = self.rfile.read(int(self.headers["content-length"]))
            head, _, note = body.partition(b"\n\n")
            first, *proof = head.decode().split("\n")
            told = Told(int(first.removeprefix("old ")), [_decoded(line) for line in proof], note)
            if one.odd:
                self._say(*ODD_ANSWERS[one.odd])
                return
            if one.claims is not None or told.old_size != one.size:
                self._say(409, str(one.claims if one.claims is not None else one.size).encode() + b"\n")
                return
            one.seen.append(told)
            one.size = int(note.split(b"\n")[1])
            self._say(200, b"")

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if status == 302:
                self.send_header("location", one.url + "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one = Notary(f"http://127.0.0.1:{server.server_address[1]}/add-checkpoint")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield one
    server.shutdown()
    server.server_close()
    thread.join()


def _decoded(line: str) -> bytes:
    import base64

    return base64.b64decode(line, validate=True)


def witnessed_by(notary: Notary, **more: str) -> dict[str, str]:
    """Return the environment of a server with this witness."""
    return {**OFTEN, "NIGHTPROOF_WITNESS_URL": notary.url, **more}


def part_of(served: Served, name: str) -> dict[str, object]:
    """Return one component's health as status tells it."""
    return next(part for part in served.status()["components"] if part["name"] == name)


def test_the_checkpoint_that_is_signed_at_the_stop_reaches_the_witness(notary: Notary, state: Path):
    """The log's writer signs it after the server has said that nothing more comes."""
    env = witnessed_by(notary, NIGHTPROOF_LEDGER_SEAL_EVERY_S="60")
    with serving("ward", state, env=env) as served:
        assert [served.predict({"x": number}).status_code for number in range(5)] == [200] * 5
        assert served.stop() == 0
    vkey = (state / "ledger.vkey").read_text()

    assert (
        parse_checkpoint(notary.seen[-1].note, [Verifier(vkey)]).size
        == json.loads(_verified(state))["records"]
    )


def test_each_checkpoint_that_a_witness_gets_continues_the_one_before(notary: Notary, state: Path):
    with serving("ward", state, env=witnessed_by(notary)) as served:
        for number in range(5):
            held = len(notary.seen)
            assert served.predict({"x": number}).status_code == 200
            served.wait_until(lambda held=held: len(notary.seen) > held)
        served.wait_until(lambda: part_of(served, "witness")["ok"])
        assert served.stop() == 0
    vkey = (state / "ledger.vkey").read_text()

    checkpoints = [parse_checkpoint(told.note, [Verifier(vkey)]) for told in notary.seen]

    assert checkpoints[-1].size == json.loads(_verified(state))["records"], (
        "the last one, at the stop, covers all"
    )
    for told, before, after in zip(notary.seen[1:], checkpoints, checkpoints[1:], strict=False):
        assert told.old_size == before.size < after.size
        assert check_consistency(before.size, before.root, after.size, after.root, told.proof)


def _verified(state: Path) -> str:
    done = run_nightproof("audit", "verify", "--state", str(state), "--json")
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("odd", list(ODD_ANSWERS))
def test_a_witness_that_answers_oddly_holds_up_nobody_and_shows_as_late(
    notary: Notary, state: Path, odd: str
):
    notary.odd = odd
    with serving("ward", state, env=witnessed_by(notary, NIGHTPROOF_WITNESS_LATE_AFTER_S="1")) as served:
        assert served.predict({"x": 1}).status_code == 200
        served.wait_until(lambda: not part_of(served, "witness")["ok"])
        assert served.predict({"x": 2}).status_code == 200
        assert served.client.get("/readyz").status_code == 200

        notary.odd = ""
        served.wait_until(lambda: part_of(served, "witness")["ok"], within_s=30)
        assert "nightproof_witness_refused 0.0" in served.metrics()
        assert served.stop() == 0


def test_a_witness_that_has_seen_more_than_our_log_is_heard(notary: Notary, state: Path):
    notary.claims = 1_000_000
    with serving("ward", state, env=witnessed_by(notary)) as served:
        assert served.predict({"x": 1}).status_code == 200
        served.wait_until(lambda: "nightproof_witness_refused 1.0" in served.metrics())

        assert not part_of(served, "witness")["ok"]
        assert "1000000 entries" in str(part_of(served, "witness")["why"])
        assert served.stop() == 0
    assert "witness_refused" in served.log.read_text()


def test_a_server_does_not_start_on_a_log_that_is_older_than_its_witness(tmp_path: Path, state: Path):
    folder = tmp_path / "elsewhere"
    env = {**OFTEN, "NIGHTPROOF_WITNESS_FOLDER": str(folder)}
    with serving("ward", state, env=env) as served:
        assert served.predict({"x": 1}).status_code == 200
        assert served.stop() == 0
    older = (state / "ledger.db").read_bytes()
    with serving("ward", state, env=env) as served:
        assert served.predict({"x": 2}).status_code == 200
        assert served.stop() == 0
    # Whoever has this machine puts the older log back, and the note beside it away.
    for file in state.glob("ledger.db*"):
        file.unlink()
    (state / "ledger.db").write_bytes(older)
    (state / "checkpoint.note").unlink()

    done = run_nightproof("serve", str(SERVICES / "ward"), "--state", str(state), "--port", "0", env=env)

    assert done.returncode == 78, done.stderr
    assert "audit_rolled_back" in done.stderr
    assert str(folder) in done.stderr


def test_a_log_is_held_to_a_witness_that_was_mounted_after_the_start(tmp_path: Path, state: Path):
    folder = tmp_path / "elsewhere"
    with serving(
        "ward", tmp_path / "other", env={**OFTEN, "NIGHTPROOF_WITNESS_FOLDER": str(folder)}
    ) as other:
        other.predict({"x": 1})
        assert other.stop() == 0
    mounted = tmp_path / "mounted"
    mounted.write_text("not a folder yet")
    with serving("ward", state, env={**OFTEN, "NIGHTPROOF_WITNESS_FOLDER": str(mounted)}) as served:
        served.wait_until(lambda: "witness" in str(served.status()["components"]))
        mounted.unlink()
        folder.rename(mounted)
        served.predict({"x": 1})
        served.wait_until(lambda: "nightproof_witness_refused 1.0" in served.metrics(), within_s=30)
        assert served.predict({"x": 2}).status_code == 200
        assert served.stop() == 0


def test_a_log_is_held_again_to_a_witness_that_comes_back_after_it_was_away(tmp_path: Path, state: Path):
    """Somebody unmounts the witness and mounts another log's in its place."""
    elsewhere, mounted = tmp_path / "elsewhere", tmp_path / "mounted"
    with serving(
        "ward", tmp_path / "other", env={**OFTEN, "NIGHTPROOF_WITNESS_FOLDER": str(elsewhere)}
    ) as other:
        other.predict({"x": 1})
        assert other.stop() == 0
    env = {**OFTEN, "NIGHTPROOF_WITNESS_FOLDER": str(mounted), "NIGHTPROOF_WITNESS_LATE_AFTER_S": "1"}
    with serving("ward", state, env=env) as served:
        served.predict({"x": 1})
        served.wait_until(lambda: mounted.is_dir() and any(mounted.iterdir()))
        mounted.rename(tmp_path / "aside")
        mounted.write_text("not a folder any more")
        served.predict({"x": 2})
        served.wait_until(lambda: "witness_late" in served.metrics(), within_s=30)
        mounted.unlink()
        elsewhere.rename(mounted)
        served.predict({"x": 3})
        served.wait_until(lambda: "nightproof_witness_refused 1.0" in served.metrics(), within_s=30)
        assert served.stop() == 0


def test_a_folder_does_not_take_two_checkpoints_of_one_size(tmp_path: Path):
    folder = WitnessFolder(tmp_path)
    folder.keep(5, b"one")
    folder.keep(5, b"one")

    with pytest.raises(WitnessConflict):
        folder.keep(5, b"another")

    assert folder.notes() == [b"one"]
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be written"):
        WitnessFolder(tmp_path / "file" / "below").keep(1, b"note")


@pytest.mark.parametrize("url", ["http://example.com/x", "ftp://127.0.0.1/", "https://", "127.0.0.1:80"])
def test_a_witness_over_an_open_line_is_refused(state: Path, url: str):
    done = run_nightproof(
        "serve",
        str(SERVICES / "ward"),
        "--state",
        str(state),
        "--port",
        "0",
        env={"NIGHTPROOF_WITNESS_URL": url},
    )

    assert done.returncode != 0
    assert "https://" in done.stderr
