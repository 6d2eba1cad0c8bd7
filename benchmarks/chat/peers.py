"""The bare upstream, and the gateways that are measured beside Nightproof, each before the same upstream.

LiteLLM's proxy is installed by pip into an environment of its own, the Portkey gateway by npm into a folder of its own;
both with no key to check, nothing recorded and nothing looked at, which is their fastest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks import ours
from benchmarks.chat import questions
from benchmarks.systems import (
    HERE,
    INSTALL_PATIENCE_S,
    SYSTEM_MARK,
    VENVS,
    Asked,
    NotRun,
    Running,
    base_environment,
    environment_for,
    free_port,
    last_words,
    running,
)
from benchmarks.upstream_fast import MODEL

PATH = "/v1/chat/completions"
PACE_PER_S = 50.0
_SERVICE = HERE / "chat" / "service"
_LITELLM = HERE / "peers" / "litellm" / "requirements.txt"
_PORTKEY = HERE / "peers" / "portkey"


def _asked(**headers: str) -> Asked:
    return Asked(bodies=questions.bodies(model="chat"), headers=headers, number=questions.NUMBER.encode())


def _scratch(results: Path, name: str) -> tuple[Path, dict[str, str]]:
    """Make the folder and the environment of one start."""
    folder = results / f"{name}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    return folder, {**base_environment(), SYSTEM_MARK: uuid.uuid4().hex}


def bare(results: Path) -> AbstractContextManager[Running]:
    """Run the upstream itself."""
    folder, environment = _scratch(results, "upstream")
    port = free_port()
    command = [
        sys.executable, "-m", "benchmarks.upstream_fast", "--port", str(port), "--pace", str(PACE_PER_S)
    ]  # fmt: skip
    environment["PYTHONPATH"] = str(HERE.parent)
    return running(
        command,
        environment,
        folder,
        name="bare",
        title="The upstream, bare",
        port=port,
        path=PATH,
        asked=_asked(),
    )


@contextmanager
def nightproof(results: Path, upstream: Running) -> Iterator[Running]:
    """Serve the chat service, everything on."""
    home = results / f"chat-service-{uuid.uuid4().hex[:6]}"
    shutil.copytree(_SERVICE, home)
    (home / "upstream.port").write_text(f"{upstream.port}\n")
    with ours.serve("chat", results, served=home, path=PATH, asked=_asked()) as subject:
        subject.title = "Nightproof, everything on"
        yield subject


@contextmanager
def litellm(results: Path, upstream: Running) -> Iterator[Running]:
    """Run LiteLLM's proxy with two workers."""
    python = environment_for("litellm", _LITELLM)
    folder, environment = _scratch(results, "litellm")
    port = free_port()
    to = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream.port}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "chat", "litellm_params": to}]}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        str(python.parent / "litellm"), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "2", "--telemetry", "False",
    ]  # fmt: skip
    environment |= {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no key to check is what is fastest
        "PATH": f"{python.parent}:{environment.get('PATH', '')}",
    }
    with running(
        command, environment, folder, name="litellm", title="LiteLLM proxy, 2 workers", port=port, path=PATH,
        asked=_asked(), patience_s=120.0,
    ) as subject:  # fmt: skip
        yield subject


@contextmanager
def portkey(results: Path, upstream: Running) -> Iterator[Running]:
    """Run the Portkey gateway."""
    program = _installed_portkey()
    folder, environment = _scratch(results, "portkey")
    port = free_port()
    # Its own way to be told a port; `--headless` leaves out the page with its log of requests.
    command = [
        _program("node"), "--import", str(_PORTKEY / "loopback.mjs"), str(program), "--headless", f"--port={port}"
    ]  # fmt: skip
    environment |= {"NODE_ENV": "production", "PORT": str(port)}
    told = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream.port}/v1",
        "authorization": "Bearer none",
    }
    with running(
        command, environment, folder, name="portkey", title="Portkey gateway", port=port, path=PATH,
        asked=_asked(**told),
    ) as subject:  # fmt: skip
        yield subject


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise NotRun(f"{name} is not installed")
    return found


def _installed_portkey() -> Path:
    """Install the gateway where it is missing, without anybody's install scripts; return its program."""
    home, wanted = VENVS / "portkey", _PORTKEY / "package.json"
    stamp, digest = home / "package.sha256", hashlib.sha256(wanted.read_bytes()).hexdigest()
    program = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if program.exists() and stamp.exists() and stamp.read_text() == digest:
        return program
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(wanted, home / "package.json")
    log = VENVS / "portkey.install.log"
    command = [_program("npm"), "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    with log.open("wb") as output:
        try:
            subprocess.run(
                command, check=True, cwd=home, stdout=output, stderr=output, timeout=INSTALL_PATIENCE_S
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise NotRun(f"install failed ({type(error).__name__}): {last_words(log)}") from error
    stamp.write_text(digest)
    return program


NEIGHBOURS = {"portkey": portkey, "litellm": litellm}
