"""A remote detector over a real socket: what counts as its verdict, and what does not."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nightproof.checks import presidio
from nightproof.checks.inspecting import Inspection, Inspector, Untrusted
from nightproof.declare.chat_description import InputCheckDescription
from nightproof.declare.chat_words import BUILT_IN_CHECKS

OFF = dict.fromkeys(BUILT_IN_CHECKS, InputCheckDescription(action="off"))


class Guard(ThreadingHTTPServer):
    """Answers as told, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, object]] = []
        self.ended = threading.Event()

    def handle_error(self, request, client_address) -> None:
        """A caller that left is what some of these tests are about."""


class Answering(BaseHTTPRequestHandler):
    """One path per way to answer."""

    server: Guard
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, asked))
        if self.path == "/hang":
            self.server.ended.wait(20)
        if self.path == "/redirect":
            self.send_response(307)
            self.send_header("location", "/scores")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        body = {
            "/scores": json.dumps({"scores": [0.9 if "bad" in text else 0.1 for text in asked["texts"]]}),
            "/nan": '{"scores": [NaN]}',
            "/html": "<html>busy</html>",
            "/huge": '{"scores": [0.1], "x": "' + "x" * (2 << 20) + '"}',
            "/error": "{}",
        }.get(self.path, "{}").encode()
        self.send_response(500 if self.path == "/error" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.path == "/drip":
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def guard() -> Iterator[Guard]:
    server = Guard()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def ask(
    guard: Guard, path: str, text: str, when_fails: str = "closed", budget_ms: float = 5_000
) -> Inspection:
    url = f"http://127.0.0.1:{guard.server_address[1]}{path}"
    about = InputCheckDescription(action="refuse", adapter=url, budget_ms=budget_ms, when_fails=when_fails)
    inspector = Inspector(OFF | {"guard": about})
    try:
        return inspector.inspect([Untrusted(text, "user", "/messages/0/content")])
    finally:
        inspector.close()


def test_a_remote_detector_is_asked_all_texts_at_once(guard):
    """Its scores decide."""
    told = ask(guard, "/scores", "something bad")

    assert told.failure == "injection_suspected"
    assert guard.asked == [("/scores", {"texts": ["something bad"]})]
    assert ask(guard, "/scores", "something good").failure == ""


@pytest.mark.parametrize("path", ["/nan", "/html", "/huge", "/error", "/redirect", "/drip"])
def test_anything_else_is_no_verdict(guard, path):
    """Not a pass, not a finding; and a redirect is never followed."""
    assert ask(guard, path, "Hello").failure == "check_failed"
    assert ask(guard, path, "Hello", when_fails="open").bypassed == ["guard"]
    assert [asked for asked, _ in guard.asked] == [path, path]


def test_a_remote_detector_that_hangs_costs_its_budget(guard):
    """No more."""
    told = ask(guard, "/hang", "Hello", budget_ms=100)

    assert told.failure == "check_failed"
    assert told.check_us["guard"] < 5_000_000


def test_a_remote_detector_that_is_not_there_is_no_verdict(guard):
    """Nobody listens."""
    about = InputCheckDescription(action="flag", adapter="http://127.0.0.1:9/x", when_fails="open")

    assert Inspector(OFF | {"guard": about}).inspect([Untrusted("Hello", "user", "/m")]).bypassed == ["guard"]


def test_presidio_s_findings_are_redacted(tmp_path, monkeypatch):
    """With a module of its interface in its place: the real one brings a language model of its own."""
    (tmp_path / "presidio_analyzer.py").write_text(
        "class Found:\n"
        "    entity_type, score, start, end = 'PERSON', 0.85, 5, 9\n"
        "class AnalyzerEngine:\n"
        "    def analyze(self, text, language):\n"
        "        return [Found()] if 'Anna' in text else []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "presidio_analyzer", raising=False)
    presidio._analyzer.cache_clear()
    about = InputCheckDescription(action="redact", adapter="nightproof.checks.presidio:look", budget_ms=5_000)

    told = Inspector(OFF | {"personal": about}, adapters={"personal": presidio.look}).inspect(
        [Untrusted("I am Anna.", "user", "/a"), Untrusted("Hi", "user", "/b")]
    )

    monkeypatch.delitem(sys.modules, "presidio_analyzer")
    presidio._analyzer.cache_clear()
    assert (told.failure, told.redacted) == ("", {"/a": "I am [person]."})


def test_without_presidio_the_check_gives_no_verdict(monkeypatch):
    """The policy of the check says what follows."""
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    presidio._analyzer.cache_clear()
    about = InputCheckDescription(action="flag", adapter="nightproof.checks.presidio:look", budget_ms=5_000)

    told = Inspector(OFF | {"personal": about}, adapters={"personal": presidio.look}).inspect(
        [Untrusted("I am Anna.", "user", "/a")]
    )

    assert told.failure == "check_failed"
