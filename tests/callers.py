"""Callers that keep asking a running server, and what they were told. Used by live tests."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from nightproof.storage.ledger_rows import StoredEntry
from nightproof.storage.ledger_store import LedgerReader
from tests.serving import Served


@dataclass(frozen=True)
class Told:
    """One answer: what came back to which record."""

    record: Any
    status: int
    request_id: str
    body: Any

    @property
    def failure(self) -> str:
        """The failure it names, or nothing."""
        return str(self.body.get("failure", "")) if isinstance(self.body, dict) else ""


class Asker:
    """One connection to a server, for a thread of its own."""

    def __init__(self, served: Served, *, timeout_s: float = 20.0) -> None:
        self._path = f"/services/{served.service}/predict"
        self._headers = served.headers
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=timeout_s)

    def ask(self, record: Any, **headers: str) -> Told:
        """Send one request and return what it was told. Raises OSError or HTTPException without an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("POST", self._path, json.dumps(record), {**self._headers, **named})
        answer = self._connection.getresponse()
        body = answer.read()
        return Told(record, answer.status, answer.getheader("x-request-id", ""), json.loads(body))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass
class Callers:
    """A few threads that send good requests one after the other until the block ends."""

    served: Served
    count: int = 2
    pause_s: float = 0.01
    record: Callable[[int], Any] = lambda number: {"x": float(number)}
    headers: dict[str, str] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Requests that were sent and got no answer."""

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in range(self.count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Send no more, and wait for the answers that are due."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def stop_sending(self) -> None:
        """Send no more, as behind a load balancer that saw the server become not ready."""
        self._ended.set()

    def statuses(self) -> Counter[int]:
        """Count the answers by status."""
        return Counter(one.status for one in self.told)

    def others(self) -> list[Told]:
        """Return the answers that are not 200."""
        return [one for one in self.told if one.status != 200]

    def _run(self, one: int) -> None:
        asker = Asker(self.served)
        number = one
        try:
            while not self._ended.is_set():
                self.told.append(asker.ask(self.record(number), **self.headers))
                number += self.count
                self._ended.wait(self.pause_s)
        except (OSError, http.client.HTTPException) as error:
            self.broken.append(f"{type(error).__name__}: {error}")
        finally:
            asker.close()


def entries_of(state: Path) -> list[StoredEntry]:
    """Read the whole ledger of a state folder."""
    reader = LedgerReader(state / "ledger.db")
    try:
        return list(reader.all_entries())
    finally:
        reader.close()


def leaf_of(entry: StoredEntry) -> dict[str, Any]:
    """Return an entry's facts."""
    facts: dict[str, Any] = json.loads(entry.leaf)
    return facts


def is_alive(pid: int) -> bool:
    """Say whether a process runs, or is stopped; one that is dead and not yet buried is not alive."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def offer(served: Served, *, rate_per_s: float, for_s: float) -> list[Told]:
    """Send requests at a fixed rate whatever comes back (open loop), each at once on a free connection."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    told: list[Told] = []
    headers = "".join(f"{name}: {value}\r\n" for name, value in served.headers.items())

    async def one(number: int) -> None:
        record = {"x": float(number)}
        body = json.dumps(record)
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(
            f"POST /services/{served.service}/predict HTTP/1.1\r\nhost: test\r\n{headers}"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        named = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        answer = json.loads(await reader.readexactly(int(named["content-length"])))
        if "retry-after" in named:
            answer["retry-after"] = int(named["retry-after"])
        told.append(Told(record, int(head.split(" ")[1]), named.get("x-request-id", ""), answer))
        idle.append((reader, writer))

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    tasks = []
    for number in range(int(rate_per_s * for_s)):
        await asyncio.sleep(max(0.0, began_s + number / rate_per_s - loop.time()))
        tasks.append(loop.create_task(one(number)))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in idle), return_exceptions=True)
    return told
