"""Drills of servers that run already: Nightproof's own holds, and one that is bad in known ways is told so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.serving import SERVICES, serving


def drill(tmp_path: Path, *arguments: str, key: str = "") -> tuple[int, dict[str, Any], str]:
    """Drill a target by the command line; return exit code, report, and what was said beside it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTPROOF_")}
    done = subprocess.run(
        [sys.executable, "-m", "nightproof", "drill", "--json", *arguments],
        capture_output=True, text=True, timeout=90, cwd=tmp_path, check=False,
        env={**env, **({"NIGHTPROOF_KEY": key} if key else {})},
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


@pytest.mark.timeout(90)
def test_nightproof_holds_as_any_target_by_the_open_inference_protocol(tmp_path: Path):
    """Asked by the built-in adapter: a URL, a model's name, a good request and a key are all that is given."""
    page, body = tmp_path / "report.html", tmp_path / "body.json"
    tensors = [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]
    body.write_text(json.dumps({"inputs": tensors}), encoding="utf-8")
    with serving("last_resort", tmp_path / "state") as served:
        code, told, said = drill(
            tmp_path, "--target", served.base_url, "--model", "last_resort", "--html", str(page), "--body", str(body),
            "--only", "malformed_input", "--only", "client_gone", "--only", "hung_call", key=served.key,
        )  # fmt: skip

    assert told, said
    words = {one["name"]: (one["word"], one["why"]) for one in told["results"]}
    assert words["malformed_input"] == ("held", "")
    assert words["client_gone"] == ("held", "")
    assert words["hung_call"] == ("not applicable", "the adapter has no records.hang")
    assert (code, told["held"]) == (0, True)
    assert told["target"]["adapter"] == "oip"
    assert told["target"]["health"] == {
        "live": "/v2/health/live", "ready": "/v2/models/last_resort/ready",
    }  # fmt: skip
    assert served.key not in json.dumps(told) + page.read_text("utf-8")


class Bad(BaseHTTPRequestHandler):
    """One model behind one lock, health that is a constant, and no care for what it is sent."""

    protocol_version = "HTTP/1.1"
    model: ClassVar[threading.Lock] = threading.Lock()
    over: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self._answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            x = float(json.loads(body)["x"])
        except Exception:
            self._answer(500, {"trace": "of a stack"})
            return
        with self.model:
            if x == -1.0:
                self.over.wait(60)
        self._answer(200, {"y": x})

    def _answer(self, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: its callers break off."""


class Server(ThreadingHTTPServer):
    """Threads that do not outlive the test, and no word about callers who are gone."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@pytest.fixture
def bad_server() -> Iterator[str]:
    """Run the bad server; yield its URL."""
    server = Server(("127.0.0.1", 0), Bad)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        Bad.over.set()
        server.shutdown()
        server.server_close()


ADAPTER = """
name = "bad"
recover_within_s = 0.5

[request]
path = "/predict"
good = [ { x = 1.0 }, { x = 2.0 } ]

[answer]
has = ["/y"]

[health]
live = ["/health"]
ready = ["/health"]
ready_honest_within_s = 1.0
live_honest_within_s = 2.0

[deadline]
ms = 200

[records]
hang = [ { x = -1.0 } ]
"""


@pytest.mark.timeout(90)
def test_a_server_that_lies_hangs_and_blames_itself_is_told_all_three(tmp_path: Path, bad_server: str):
    """The negative control: each verdict is lost on a server that deserves it."""
    adapter = tmp_path / "bad.toml"
    adapter.write_text(ADAPTER, encoding="utf-8")

    code, told, said = drill(
        tmp_path,
        "--target",
        bad_server,
        "--adapter",
        str(adapter),
        "--only",
        "malformed_input",
        "--only",
        "hung_call",
    )

    assert told, said
    malformed, hung = told["results"]
    seen = {one["aspect"]: (one["word"], one["seen"]) for one in malformed["verdicts"]}
    assert seen["contained"][0] == "fell short"
    assert "an open brace → 500" in seen["contained"][1] or "nothing → 500" in seen["contained"][1]
    assert seen["recovered"][0] == "held"

    seen = {one["aspect"]: (one["word"], one["seen"]) for one in hung["verdicts"]}
    assert {aspect: word for aspect, (word, _) in seen.items()} == {
        "contained": "fell short",
        "recorded": "not applicable",
        "alerted": "fell short",
        "recovered": "not restored",
    }
    assert "never answered" in seen["contained"][1]
    assert "the hung call is ended after: not seen" in seen["contained"][1]
    assert seen["alerted"][1].count("(/health) says yes while nobody is answered") == 2
    assert (code, told["held"]) == (1, False)
    assert told["results"][1]["runbook"] == ""


@pytest.mark.timeout(60)
def test_a_target_that_is_not_there_is_told_at_once(tmp_path: Path):
    adapter = tmp_path / "bad.toml"
    adapter.write_text(ADAPTER, encoding="utf-8")

    for more in (
        ["--adapter", str(adapter)],
        ["--adapter", "oip", "--model", "m"],
        ["--adapter", "none.toml"],
    ):
        code, told, said = drill(tmp_path, "--target", "http://127.0.0.1:9", *more)

        assert (code, told) == (2, {})
        assert "No server answers" in said or "There is no adapter" in said


def test_a_target_and_a_folder_are_not_drilled_at_once(tmp_path: Path):
    code, _, said = drill(tmp_path, str(SERVICES / "last_resort"), "--target", "http://127.0.0.1:9")

    assert code == 2
    assert "--target takes no folder" in said


def test_the_drills_of_a_target_are_listed_without_one(tmp_path: Path):
    code, listed, _ = drill(tmp_path, "--target", "http://127.0.0.1:9", "--list")

    assert code == 0
    assert "model_hung" in {one["name"] for one in listed}
