"""Make releases of the service `steps`, better and worse ones, and keep asking it. Used by live tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightproof.settings.load import load
from nightproof.steer.archive import archive_of
from nightproof.steer.making import Asked
from nightproof.steer.releasing import Releasing
from nightproof.storage.registry_store import RegistryStore
from nightproof.storage.statefolder import StateFolder, StateTaken
from tests.serving import SERVICES, SMALL, Served, run_nightproof

STEPS = SERVICES / "steps"


def release_of(state: Path, label: str, *, live: bool = False, **told: Any) -> str:
    """Make a release of `steps` that behaves as told, and register it; return its digest.

    A release that only becomes bad later is `spoiled_by` a file: the gate has seen it good.
    """
    folder = folder_of(state, label)
    shutil.copytree(STEPS, folder)
    (folder / "artifacts" / "release.json").write_text(json.dumps({"by": label, **told}))
    return release_folder(folder, state, label, live=live)


def release_slower_than_promised(state: Path, label: str, *, live: bool = False) -> str:
    """Make and register a release that takes twice the time its objective promises; return its digest."""
    folder = folder_of(state, label)
    shutil.copytree(STEPS, folder)
    (folder / "artifacts" / "release.json").write_text(json.dumps({"by": label, "slow_ms": 40}))
    declared = (folder / "service.py").read_text()
    declared = declared.replace("import Confidence", "import Objective, Confidence")
    promised = 'Service(\n    "steps", objective=Objective(latency_p99_ms=20),'
    (folder / "service.py").write_text(declared.replace('Service(\n    "steps",', promised))
    return release_folder(folder, state, label, live=live)


def release_folder(folder: Path, state: Path, label: str, *, live: bool = False) -> str:
    """Release a folder as that version, through the running server if there is one; return its digest."""
    try:
        digest = asyncio.run(_release_offline(folder, state, label))
    except StateTaken:
        done = run_nightproof("release", str(folder), "--version", label, "--state", str(state), "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        digest = json.loads(done.stdout)["released"]["digest"]
    if live:
        with contextlib.closing(RegistryStore(state / "registry.db")) as registry:
            registry.set_live(folder.name.rpartition("-")[0].rpartition("-")[2], label, who="test")
    return str(digest)


async def _release_offline(folder: Path, state: Path, label: str) -> str:
    settings = load(None, {**os.environ, **SMALL}, {"state": state})
    opened = StateFolder.open(state)
    async with archive_of(settings, opened) as archive:
        with contextlib.closing(RegistryStore(opened.registry_db)) as registry:
            releasing = Releasing(archive, registry, opened, settings, say=lambda event, **named: None)
            released, _ = await releasing.release_folder(
                folder, Asked(who="test", reason="a test's", version=label, leaves_room=False)
            )
            return released.digest


def folder_of(state: Path, label: str) -> Path:
    """Return the folder that a release was made of."""
    return state.parent / f"{state.name}-steps-{label}"


@dataclass
class Load:
    """Requests at a constant rate (open loop), and what came back."""

    served: Served
    rate_per_s: float
    connections: int = 64
    record: Callable[[int], Any] = lambda number: {"x": float(number % 100)}
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    by: list[tuple[float, str, str]] = field(default_factory=list)
    """When each answer came, by which release, and its failure."""
    worst_s: float = 0.0

    def bad(self) -> int:
        """Count what was not answered with 200."""
        return sum(count for status, count in self.statuses.items() if status != 200) + len(self.broken)

    def first_by(self, release: str, after_s: float) -> float:
        """Return when the first answer by a release came, after a moment."""
        return min(at for at, by, _ in self.by if by == release and at >= after_s)

    async def _one(self, number: int, idle: list[Any]) -> None:
        body = json.dumps(self.record(number)).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in self.served.headers.items())
        try:
            reader, writer = (
                idle.pop() if idle else await asyncio.open_connection("127.0.0.1", self.served.port)
            )
            began_s = time.monotonic()
            writer.write(
                f"POST /services/{self.served.service}/predict HTTP/1.1\r\nhost: t\r\n{head}"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(told.split("content-length: ")[1].split("\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
            now = time.monotonic()
            self.worst_s = max(self.worst_s, now - began_s)
            self.statuses[int(told.split(" ")[1])] += 1
            self.by.append((now, str(answer.get("release", "")), str(answer.get("failure", ""))))
            idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.broken.append(f"{type(error).__name__}: {error}")

    async def _run(self, ended: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        idle: list[Any] = []
        tasks: set[asyncio.Task[None]] = set()
        began_s, number = loop.time(), 0
        while not ended.is_set():
            due = int((loop.time() - began_s) * self.rate_per_s)
            while number < due:
                task = loop.create_task(self._one(number, idle))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        for _, writer in idle:
            writer.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Send until the block ends; every request that was sent is waited for."""
        ended = asyncio.Event()
        task = asyncio.create_task(self._run(ended))
        try:
            yield self
        finally:
            ended.set()
            await task


async def until(holds: Callable[[], bool], *, within_s: float = 20.0) -> float:
    """Wait until `holds()` is true, letting a load run meanwhile; return how long it took."""
    began_s = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() - began_s < within_s, f"not within {within_s} s"
        await asyncio.sleep(0.05)
    return time.monotonic() - began_s


async def operate(served: Served, method: str, path: str, body: Any = None) -> Any:
    """Use an operator's route while a load runs."""
    return await asyncio.to_thread(served.operate, method, path, body)
