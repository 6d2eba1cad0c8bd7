"""The warm command line is the command line: what tests learn by a fork is what an operator sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT, SERVICES, free_port, run_nightproof, wait_until
from tests.warm import Forked


def children_of(pid: int) -> list[str]:
    """Name the processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def is_there(pid: int) -> bool:
    """Say whether a process runs, or waits to be asked how it ended."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["bake"], ["status", "--state", "nowhere"], ["check", "nowhere"], ["serve", "nowhere"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_warm_command_says_and_ends_as_a_cold_one_does(arguments: list[str], tmp_path: Path):
    warm, cold = (run_nightproof(*arguments, cwd=tmp_path, is_cold=is_cold) for is_cold in (False, True))

    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    # A server's log has times.
    assert arguments[0] == "serve" or warm.stderr == cold.stderr


def test_a_warm_command_has_the_environment_and_the_folder_that_it_is_given(tmp_path: Path):
    (tmp_path / "nightproof.toml").write_text("[ledger]\nreserve_byte = 1\n")

    by_folder = run_nightproof("serve", str(SERVICES / "mirror"), cwd=tmp_path)
    by_variable = run_nightproof("serve", str(SERVICES / "mirror"), env={"NIGHTPROOF_PORTT": "1"})

    assert (by_folder.returncode, by_variable.returncode) == (2, 2)
    assert "ledger.reserve_byte is unknown" in by_folder.stderr
    assert "NIGHTPROOF_PORTT" in by_variable.stderr


def test_what_was_forked_ends_with_whoever_had_it_started(tmp_path: Path):
    name = f"nightproof-warm-test-{os.getpid()}"
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.warm", "--serve", name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"ready\n"
    serve = [
        "serve",
        str(SERVICES / "mirror"),
        "--state",
        str(tmp_path / "state"),
        "--port",
        str(free_port()),
    ]
    with (tmp_path / "log").open("ab") as sink, Path(os.devnull).open() as nothing:
        fds = [nothing.fileno(), sink.fileno(), sink.fileno()]
        server = Forked(name, serve, env=dict(os.environ), cwd=str(tmp_path), fds=fds)
    wait_until(lambda: '"listening"' in (tmp_path / "log").read_text())
    theirs = [int(pid) for pid in children_of(server.pid)]

    keeper.communicate(timeout=20)

    wait_until(lambda: not any(map(is_there, [server.pid, *theirs])))
    assert len(theirs) >= 2
    with pytest.raises(ConnectionError):
        server.wait(1)
