"""The program of an upstream: started on a free port, told to the chain while it answers, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nightproof.base.deadlines import Deadlines
from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.pipeline.upstreams import Chain, Upstreams
from nightproof.settings.settings import WorkerSettings
from nightproof.storage.program import program_environment
from nightproof.workers.upstream import command
from nightproof.workers.upstream.command import ServedCommand, verdict
from tests.callers import is_alive
from tests.chains import call_of, fault_of
from tests.serving import wait_until

PROGRAM = textwrap.dedent(
    """
    import json, os, subprocess, sys
    from http.server import BaseHTTPRequestHandler, HTTPServer

    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open("pids", "a").write(f"{os.getpid()} {helper.pid}\\n")

    class Model(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(200 if self.path == "/v1/models" else 404, {})
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            said = {"content": f"I am {os.getpid()}, {sorted(os.environ)}"}
            self.answer(200, {"choices": [{"message": said, "finish_reason": "stop"}]})
        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        def log_message(self, *args):
            pass

    HTTPServer(("127.0.0.1", int(sys.argv[1])), Model).serve_forever()
    """
)
QUICK = WorkerSettings(backoff_first_s=0.05, backoff_most_s=0.2, restarts=3)


def local(*command: str) -> UpstreamDescription:
    """Declare an upstream that is a command."""
    return UpstreamDescription(
        name="local", base_url="http://127.0.0.1:{port}/v1", model="m", command=list(command)
    )


def pids(folder: Path) -> list[tuple[int, int]]:
    """Return the process ids that the programs wrote, with those of their helpers."""
    file = folder / "pids"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def with_command(
    folder: Path, work: Callable[[ServedCommand, Chain], Awaitable[Any]], *command: str
) -> tuple[Any, list[str]]:
    """Run work with a command and a chain that asks it; return what it returned, and what was reported."""
    (folder / "model.py").write_text(PROGRAM)
    told: list[str] = []

    async def all_of_it() -> Any:
        addresses: dict[str, str] = {}
        one = local(*(command or ("{python}", "model.py", "{port}")))
        served = ServedCommand(
            one, addresses, QUICK, folder=folder, report=lambda name, text: told.append(text)
        )
        house = Upstreams(Deadlines())
        chain = house.chain(ChatDescription(prompt="", upstreams=[one], retries_share=0.0), addresses)
        served.start()
        try:
            return await work(served, chain)
        finally:
            await served.stop()
            await chain.aclose()
            assert addresses == {}
            assert asyncio.all_tasks() == {asyncio.current_task()}

    return asyncio.run(all_of_it()), told


def test_a_fault_of_ours_beside_a_command_starts_it_again_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = command._answers
    faults = [KeyError("x")]

    async def faulty(base_url: str) -> bool:
        if faults:
            raise faults.pop()
        return await asked(base_url)

    monkeypatch.setattr(command, "_answers", faulty)

    async def work(served: ServedCommand, chain: Chain) -> int:
        assert await served.ready(20)
        return served.snapshot().starts

    starts, told = with_command(tmp_path, work)

    assert starts == 2
    assert told[0] == "it could not be looked after: KeyError"


def test_a_command_is_asked_once_it_answers_and_is_gone_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("NIGHTPROOF_MASTER_KEY", "OPENAI_API_KEY", "HF_TOKEN", "DATABASE_URL"):
        monkeypatch.setenv(name, "a secret")

    async def work(served: ServedCommand, chain: Chain) -> str:
        early = await fault_of(chain.complete(call_of()))
        assert (early.failure, early.detail) == ("upstream_unreachable", "not asked: its program is not up")
        assert await served.ready(20)
        assert served.snapshot().state == "up"
        assert served.condition("support") is None
        return (await chain.complete(call_of())).text

    said, told = with_command(tmp_path, work)
    ((pid, helper),) = pids(tmp_path)

    assert said.startswith(f"I am {pid},")
    assert not any(name in said for name in ("MASTER_KEY", "OPENAI", "HF_TOKEN", "DATABASE"))
    assert "'PATH'" in said
    assert told == []
    wait_until(lambda: not is_alive(pid) and not is_alive(helper), within_s=5)


def test_a_command_that_is_killed_comes_up_again_and_answers(tmp_path: Path):
    async def work(served: ServedCommand, chain: Chain) -> tuple[str, str]:
        await served.ready(20)
        before = (await chain.complete(call_of())).text
        os.kill(served.snapshot().pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while served.snapshot().starts < 2 or served.snapshot().state != "up":
                await asyncio.sleep(0.02)
        return before, (await chain.complete(call_of())).text

    (before, after), told = with_command(tmp_path, work)

    assert before != after
    assert told == ["it ended: SIGKILL"]
    for pid, helper in pids(tmp_path):
        wait_until(lambda pid=pid, helper=helper: not is_alive(pid) and not is_alive(helper), within_s=5)


@pytest.mark.parametrize(
    ("command", "last_end"),
    [
        (("{python}", "-c", "raise SystemExit(3)"), "it ended: exit 3"),
        (("/no/such/program", "{port}"), "there is no program '/no/such/program'"),
    ],
)
def test_a_command_that_never_comes_up_is_given_up_and_seen_as_failed(
    tmp_path: Path, command: tuple[str, ...], last_end: str
):
    async def work(served: ServedCommand, chain: Chain) -> tuple[str, int]:
        async with asyncio.timeout(20):
            while not served.has_failed or served.snapshot().starts < 3:
                await asyncio.sleep(0.02)
        fault = await fault_of(chain.complete(call_of()))
        assert fault.detail == "not asked: its program is not up"
        told = served.condition("support")
        assert told is not None
        assert (told.failure, told.service) == ("upstream_command_failed", "support")
        await asyncio.sleep(0.5)
        return served.snapshot().last_end, served.snapshot().starts

    (told, starts), _ = with_command(tmp_path, work, *command)

    assert told == last_end
    assert starts <= 8, "it is not started over and over"


def test_a_command_dies_with_a_server_that_is_killed(tmp_path: Path):
    (tmp_path / "model.py").write_text(PROGRAM)
    server = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from tests.live.test_upstream_command import QUICK, local
        from nightproof.workers.upstream.command import ServedCommand

        async def main():
            declared, folder = local("{{python}}", "model.py", "{{port}}"), Path({str(tmp_path)!r})
            one = ServedCommand(declared, {{}}, QUICK, folder=folder)
            one.start()
            print(await one.ready(20), flush=True)
            await asyncio.sleep(600)

        asyncio.run(main())
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", server], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    ((pid, helper),) = pids(tmp_path)

    wait_until(lambda: not is_alive(pid), within_s=5)
    if is_alive(helper):  # what it started itself is its own affair once nobody is left to end the group
        os.kill(helper, signal.SIGKILL)


@pytest.mark.parametrize(
    ("is_up", "answers", "silent_s", "loading_s", "means"),
    [
        (False, False, 0.0, 299.0, "wait"),
        (False, False, 0.0, 300.0, "end"),
        (False, True, 0.0, 299.0, "up"),
        (True, True, 0.0, 1e6, "up"),
        (True, False, 29.0, 1e6, "wait"),
        (True, False, 30.0, 1e6, "end"),
    ],
)
def test_what_the_answer_to_a_health_question_means(
    is_up: bool, answers: bool, silent_s: float, loading_s: float, means: str
):
    assert verdict(is_up=is_up, answers=answers, silent_s=silent_s, loading_s=loading_s) == means


def test_a_program_is_given_what_it_needs_and_no_secret():
    given = {
        "PATH": "/bin", "HF_HOME": "/models", "OMP_NUM_THREADS": "8", "VLLM_API_KEY": "s", "HF_TOKEN": "s",
        "NIGHTPROOF_MASTER_KEY": "s", "AWS_SECRET_ACCESS_KEY": "s", "SOMETHING": "else", "LC_ALL": "C",
    }  # fmt: skip

    assert set(program_environment(given)) == {"PATH", "HF_HOME", "OMP_NUM_THREADS", "LC_ALL"}
