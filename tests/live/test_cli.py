"""The command line as its users meet it: what it prints, where it stops, and lines that work as pasted."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nightproof.cli.main import cli
from tests.serving import SERVICES, Served, run_nightproof, serving, wait_until

MIRROR = str(SERVICES / "mirror")

# -- check ----------------------------------------------------------------------------------------------

GOOD = """
    from pydantic import BaseModel, Field
    from nightproof import Confidence, Model, Objective, Service, fallback

    class Asked(BaseModel):
        x: float
        name: str = "a"

    class Answer(BaseModel):
        y: float
        confidence: Confidence

    class Twice(Model[Asked, Answer]):
        def predict(self, batch: list[Asked]) -> list[Answer]:
            return [Answer(y=2 * asked.x, confidence=0.9) for asked in batch]

    service = Service("twice", model=Twice, workers=(1, 1), spares=0)
"""
GOLDEN = '{"input":{"x":2},"expect":{"y":4}}\n'

Change = Callable[[str], str]


def instead(*texts: str) -> Change:
    """Make a change of the good service that puts every second text in place of the one before it."""

    def change(source: str) -> str:
        for old, new in zip(texts[::2], texts[1::2], strict=True):
            assert old in source
            source = source.replace(old, new)
        return source

    return change


def in_service(more: str) -> Change:
    """Make a change that declares more in `Service(...)`."""
    return instead("spares=0)", f"spares=0, {more})")


WRONG: dict[str, tuple[Change, str, str]] = {
    "a file that is no Python": (lambda s: s + "\n    def (", "raised SyntaxError", "Mend service.py"),
    "a missing package": (lambda s: s + "\n    import not_there_4711", "No module named 'not_there_4711'", "Mend"),
    "a file that raises": (lambda s: s + "\n    1 / 0", "raised ZeroDivisionError", "line 19"),
    "no service": (instead("service = Service(", "Service("), "declares 0 services (none)", "exactly one"),
    "two services": (
        lambda s: s.replace("service = S", "one = S") + '\n    two = Service("two", model=Twice)',
        "declares 2 services (one, two)",
        "exactly one",
    ),
    "a name that is no part of a URL": (instead('"twice"', '"Twice it!"'), "'Twice it!'", "lower-case letter"),
    "an instance for a model": (instead("model=Twice", "model=Twice()"), "model is <service.Twice", "a class"),
    "a model without types": (instead("Model[Asked, Answer]", "Model"), "what goes in and what comes out", "Model["),
    "a type that is not Pydantic's": (instead("Model[Asked,", "Model[dict,"), "not a Pydantic model", "Model[My"),
    "no predict": (instead("def predict(", "def predicts("), "Twice has no predict", "Define predict"),
    "a batch of nobody knows what": (instead("batch: list[Asked]", "batch"), "does not say what batch", "list[Asked]"),
    "a batch of another type": (
        instead("batch: list[Asked]", "batch: list[Answer]"), "declared for Asked", "list[Asked]",
    ),
    "an array of texts": (
        instead("batch: list[Asked]", "batch: np.ndarray", "from pydantic", "import numpy as np\n    from pydantic"),
        "Asked.name is <class 'str'>",
        "DataFrame or a list",
    ),
    "a field JSON cannot carry": (
        instead('name: str = "a"', "name: Callable[[], int] = int",
                "from pydantic", "from collections.abc import Callable\n    from pydantic"),
        "has no JSON Schema", "types that JSON",
    ),
    "a constant of another type": (
        in_service("fallbacks=[fallback.constant(Asked(x=1))]"), "is given Asked", "output type Answer",
    ),
    "a way that is none": (in_service("fallbacks=['constant']"), "fallbacks contains 'constant'", "previous_release()"),
    "a floor without a confidence": (
        instead("confidence: Confidence", "confidence: float", "spares=0)", "spares=0, confidence_floor=0.5)"),
        "its output has no Confidence field",
        "take the floor out",
    ),
    "a model's time beyond the deadline": (
        in_service("deadline_ms=100, predict_timeout_ms=200"), "predict_timeout_ms is 200", "from 1 to 100",
    ),
    "a constant under its own floor": (
        in_service("confidence_floor=0.5, fallbacks=[fallback.constant(Answer(y=0, confidence=0.1))]"),
        "refused by the service's own checks", "at or above confidence_floor",
    ),
    "a pattern that is not linear": (
        instead('name: str = "a"', 'name: str = Field("a", pattern="(?=a)b")'), "look-around", "Mend",
    ),
    "a model that does not load": (
        instead("def predict(", "def load(self, artifacts):\n            raise OSError(404)\n\n        def predict("),
        "OSError", "",
    ),
    "an answer that is not the golden one": (instead("2 * asked.x", "3 * asked.x"), "y is 6.0, expected 4", ""),
}  # fmt: skip


def write_service(folder: Path, source: str, golden: str = GOLDEN) -> Path:
    """Write a service folder."""
    folder.mkdir()
    (folder / "service.py").write_text(textwrap.dedent(source))
    (folder / "golden.jsonl").write_text(golden)
    return folder


def run(*arguments: str, env: dict[str, str] | None = None) -> click.testing.Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, arguments, env=env)


def check(folder: Path, *flags: str) -> click.testing.Result:
    """Run `nightproof check` in this process; the service runs in a child all the same."""
    return run("check", str(folder), *flags)


def test_a_good_folder_is_told_so_with_advice(tmp_path: Path):
    done = run_nightproof("check", str(write_service(tmp_path / "twice", GOOD)))

    assert done.returncode == 0, done.stderr
    assert "declares service 'twice'" in done.stdout
    assert "1 golden cases hold" in done.stdout
    assert "advice: No fallback is declared" in done.stdout
    assert done.stderr == ""


def test_a_good_folder_is_told_as_json_too(tmp_path: Path):
    told = json.loads(check(write_service(tmp_path / "twice", GOOD, golden=""), "--json").stdout)

    assert (told["ok"], told["errors"]) == (True, [])
    assert told["description"]["input_schema"]["properties"]["x"] == {"title": "X", "type": "number"}
    assert [advice["what"].split(":")[0] for advice in told["advice"]] == [
        "golden.jsonl is missing or empty", "No fallback is declared",
    ]  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_told_with_what_to_do(tmp_path: Path, name: str):
    change, says, do = WRONG[name]

    done = check(write_service(tmp_path / "twice", change(GOOD)))

    told = " ".join(done.stderr.split())
    assert done.exit_code == 1, done.stdout
    assert told.startswith("error: ")
    assert says in told
    assert do in told
    assert "→" in told
    assert "ok" not in done.stdout.split()


@pytest.mark.parametrize(
    ("golden", "says"),
    [
        ("{", "line 1"),
        ('{"input":{"x":2}}', "is not a golden case"),
        ('{"input":{"x":2},"expect":{"y":4}}\n\n{"input":{"x":2,"x":3},"expect":{"y":4}}', "line 3"),
        ('{"input":{"x":"two"},"expect":{"y":4}}', "invalid_input"),
        ('{"input":{"x":2},"expect":{"z":4}}', "z is None, expected 4"),
        ('{"input":{"x":{"$now":"tomorrow"}},"expect":{"y":4}}', "\"$now\" is 'tomorrow'"),
    ],
    ids=[
        "no JSON",
        "no expectation",
        "a key twice",
        "an input that does not fit",
        "an unknown field",
        "a bad time",
    ],
)
def test_a_wrong_golden_case_is_told_with_its_line(tmp_path: Path, golden: str, says: str):
    done = check(write_service(tmp_path / "twice", GOOD, golden=golden))

    assert done.exit_code == 1
    assert says in done.stderr
    assert "golden.jsonl" in done.stderr


def test_what_is_no_service_folder_is_told_so(tmp_path: Path):
    (tmp_path / "empty").mkdir()

    assert "is not a folder" in check(tmp_path / "absent").stderr
    assert "has no service.py" in check(tmp_path / "empty").stderr
    assert [check(tmp_path / name).exit_code for name in ("absent", "empty")] == [1, 1]


# -- usage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "bake", "serve", "check", "new", "keys", "keys create", "keys create --role king", "keys revoke",
        "keys create --role predict --expires-days -1", "quarantine show", "status --loud",
        f"serve {MIRROR} --port many", f"serve {MIRROR} --set port", f"serve {MIRROR} --set port=1 --port 2",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_a_usage_error(arguments: str):
    done = run(*arguments.split())

    assert done.exit_code == 2
    assert "Usage:" in done.stderr


def test_every_verb_explains_itself():
    def verbs(group: click.Group, path: list[str]) -> list[list[str]]:
        context = click.Context(group)
        found = []
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            found.append([*path, name])
            if isinstance(command, click.Group):
                found += verbs(command, [*path, name])
        return found

    every = verbs(cli, [])

    assert ["keys", "revoke"] in every
    for path in every:
        done = run(*path, "--help")
        assert done.exit_code == 0
        assert "Usage:" in done.stdout
        assert "--help" in done.stdout


@pytest.mark.parametrize(
    ("flags", "env", "says"),
    [
        (["--set", "limits.quota_pers=1"], {}, "Did you mean limits.quota_per_s"),
        (["--set", "limits.quota_per_s=fast"], {}, "Give a number"),
        (["--set", "limits.quota_per_s=-1"], {}, "0 to 1_000_000"),
        (["--port", "70000"], {}, "65_535"),
        ([], {"NIGHTPROOF_PROT": "80"}, "NIGHTPROOF_PORT"),
        (["--host", "0.0.0.0"], {}, "keys would travel in the clear"),
        (["--host", "::"], {}, "--insecure"),
        (["--host", "203.0.113.7"], {}, "--tls-cert"),
        (["--config", "absent.toml"], {}, "absent.toml"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_told_before_anything_is_loaded(
    state: Path, flags: list[str], env: dict[str, str], says: str
):
    began_s = time.monotonic()
    done = run("serve", MIRROR, "--state", str(state), *flags, env=env)

    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert time.monotonic() - began_s < 2


def test_a_taken_port_is_told_with_what_to_do(state: Path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        done = run_nightproof("serve", MIRROR, "--state", str(state), "--port", str(port))

    assert done.returncode == 2
    assert f"Cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize("where", ["{tmp}/file", "{tmp}/file/state", "/sys/nightproof"])
def test_a_state_folder_that_cannot_be_written_is_told(tmp_path: Path, where: str):
    """Not a folder, under a file, on a file system that takes nothing."""
    (tmp_path / "file").touch()
    path = Path(where.format(tmp=tmp_path))

    done = run_nightproof("serve", MIRROR, "--state", str(path), "--port", "0")

    assert done.returncode in (1, 2)
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_served_keeps_the_server_from_starting(tmp_path: Path, state: Path):
    bad = write_service(tmp_path / "twice", GOOD.replace("2 * asked.x", "3 * asked.x"))

    done = run_nightproof("serve", MIRROR, str(bad), "--state", str(state), "--port", "0")

    assert done.returncode == 1
    assert str(bad) in done.stderr
    assert "y is 6.0, expected 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_declared_twice_keeps_the_server_from_starting(tmp_path: Path, state: Path):
    one, two = write_service(tmp_path / "one", GOOD), write_service(tmp_path / "two", GOOD)

    done = run_nightproof("serve", str(one), str(two), "--state", str(state), "--port", "0")

    assert done.returncode == 1
    assert "another folder declares too" in done.stderr


def test_a_second_server_on_one_state_folder_is_refused(mirror: Served):
    done = run_nightproof("serve", MIRROR, "--state", str(mirror.state), "--port", "0")

    assert done.returncode == 75
    assert str(mirror.process.pid) in done.stderr
    assert mirror.predict({"text": "a"}).status_code == 200


# -- status ---------------------------------------------------------------------------------------------


def test_status_tells_workers_rate_latency_and_endings(mirror: Served):
    mirror.predict({"text": "a"})
    mirror.predict({"text": 7})
    wait_until(lambda: mirror.status()["services"][0]["recent"] is not None)

    shown = run_nightproof("status", "--state", str(mirror.state))
    told = json.loads(run("status", "--state", str(mirror.state), "--json").stdout)

    assert shown.returncode == 0, shown.stderr
    for word in ("ready", "mirror", "dev-", "p99", "answered", "refused", "ledger open", mirror.base_url):
        assert word in shown.stdout, word
    (service,) = told["services"]
    assert told["ready"] is True
    assert service["recent"]["endings"]["answered"] >= 1
    assert service["recent"]["p99_ms"] > 0
    assert sum(service["workers"].values()) == 1
    assert told["pid"] == mirror.process.pid


def test_status_asks_by_address_with_a_key(mirror: Served):
    operate = mirror.operate("POST", "/admin/keys", {"role": "operate"}).json()["key"]

    good = run("status", "--url", mirror.base_url, "--json", env={"NIGHTPROOF_KEY": operate})
    weak = run("status", "--url", mirror.base_url, env={"NIGHTPROOF_KEY": mirror.key})

    assert json.loads(good.stdout)["ready"] is True
    assert weak.exit_code == 1
    assert "forbidden" in weak.stderr


@pytest.mark.parametrize(
    "flags", [["--state", "{absent}"], ["--state", "{idle}"], ["--url", "http://127.0.0.1:9"]]
)
def test_status_without_a_server_says_so_and_makes_nothing(tmp_path: Path, flags: list[str]):
    idle, absent = tmp_path / "idle", tmp_path / "absent"
    run("keys", "list", "--state", str(idle))

    done = run_nightproof("status", *(word.format(idle=idle, absent=absent) for word in flags))

    assert done.returncode == 1
    assert "nightproof serve FOLDER" in done.stderr
    assert not absent.exists()


# -- serve on a terminal --------------------------------------------------------------------------------

FRESH = """
    from datetime import datetime, timedelta
    from typing import Annotated
    from pydantic import BaseModel
    from nightproof import Fresh, Model, Service

    class Asked(BaseModel):
        name: str
        as_of: Annotated[datetime, Fresh(timedelta(days=2))]

    class Answer(BaseModel):
        told: str

    class Teller(Model[Asked, Answer]):
        def predict(self, batch: list[Asked]) -> list[Answer]:
            return [Answer(told=asked.name) for asked in batch]

    service = Service("teller", model=Teller, workers=(1, 1), spares=0)
"""
NAME = 'it\'s $HOME `ls` :cat: [bold] \\ "said" — ok?'
"""Whatever a shell or a terminal could take for its own."""


class Terminal:
    """A server on a terminal of its own."""

    def __init__(self, folder: Path, state: Path) -> None:
        self._screen, inside = pty.openpty()
        flags = ["--state", str(state), "--port", "0", "--set", "drain_wait_s=0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nightproof", "serve", str(folder), *flags],
            stdin=inside, stdout=inside, stderr=inside, env={**os.environ, "TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip
        os.close(inside)
        self.shown = ""

    def read_until(self, words: str, *, within_s: float = 30.0) -> str:
        """Read what is shown until these words come; return all of it, without colours."""
        deadline = time.monotonic() + within_s
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if not select.select([self._screen], [], [], 0.5)[0]:
                continue
            try:
                data = os.read(self._screen, 65_536)
            except OSError:
                raise AssertionError(f"the server ended: {self.shown}") from None
            self.shown += re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", data.decode()).replace("\r\n", "\n")
        return self.shown

    def end(self) -> int:
        """Press Ctrl-C, so to say; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        os.close(self._screen)
        return code


def paste(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, as pasted; `nightproof` is the one under test."""
    shell = f'nightproof() {{ "{sys.executable}" -m nightproof "$@"; }}\n{line}\n'
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=30, check=False)


def line_with(shown: str, words: str) -> str:
    """Return the one line that has these words."""
    (line,) = (line for line in shown.splitlines() if words in line)
    return line.strip()


def test_a_terminal_shows_the_address_a_key_once_and_a_line_that_works_as_pasted(tmp_path: Path):
    golden = {"input": {"name": NAME, "as_of": {"$now": "-1d"}}, "expect": {"told": NAME}}
    folder = write_service(tmp_path / "teller", FRESH, golden=json.dumps(golden) + "\n")
    state = tmp_path / "a state"

    first = Terminal(folder, state)
    shown = first.read_until("watch it:")
    answer = paste(line_with(shown, "curl"))
    watched = paste(line_with(shown, "watch it:").removeprefix("watch it:"))
    ended = first.end()
    kept = [path for path in state.rglob("*") if path.is_file()]

    (key,) = re.findall(r"^  (npk_live_\w+)$", shown, re.MULTILINE)
    assert json.loads(answer.stdout)["output"]["told"] == NAME, answer
    assert re.search(r"serves teller at http://127\.0\.0\.1:\d+ ", shown)
    assert (watched.returncode, "teller" in watched.stdout) == (0, True)
    assert ended == 0
    assert not [path for path in kept if key.encode() in path.read_bytes()]

    second = Terminal(folder, state)
    shown = second.read_until("watch it:")
    made_and_asked = paste(f"{line_with(shown, 'keys create')}\n{line_with(shown, 'curl')}")
    second.end()

    assert "npk_live_" not in shown
    assert json.loads(made_and_asked.stdout.splitlines()[-1])["output"]["told"] == NAME


def test_no_key_is_printed_where_output_may_be_kept(state: Path):
    with serving("mirror", state, "--set", "drain_wait_s=0") as served:
        served.wait_until(lambda: served.base_url in served.log.read_text())
        log = served.log.read_text()

    assert "npk_live_" not in log
    assert all(json.loads(line)["event"] for line in log.splitlines())
