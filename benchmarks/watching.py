"""What watching costs: the meters' and the history's own time, as the server tells it, beside its CPU.

The server times itself (`nightproof_watch_cost_seconds_total`): the CPU time around each part, for counting
around each batch of requests. What this cannot show, such as the caches that counting displaces, is in the load
table: nothing of it can be switched off.
"""

import re
import urllib.request
from dataclasses import dataclass

from benchmarks import load, machine
from benchmarks.load import Pace, Point
from benchmarks.systems import NotRun, Running

_COST = re.compile(r'^nightproof_watch_cost_seconds_total\{part="(\w+)"\} (\S+)$', re.MULTILINE)
_SIZE = re.compile(r"^nightproof_history_bytes (\S+)$", re.MULTILINE)
_ARRIVALS = re.compile(r"^nightproof_arrivals_total (\S+)$", re.MULTILINE)
_SERIES = re.compile(r"^nightproof_", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class WatchCost:
    """The share of watching in the server process's CPU, under load."""

    point: Point
    answers: int
    """Requests of the whole time, warm-up too."""
    cpu_s: float
    """CPU of the server process, its workers left out."""
    parts_s: dict[str, float]
    history_bytes: int
    series: int

    @property
    def share(self) -> float:
        """All parts together, of the server's CPU."""
        return sum(self.parts_s.values()) / self.cpu_s if self.cpu_s else float("nan")


def read_watch_cost(target: Running, connections: int, pace: Pace) -> WatchCost:
    """Load the server, and read what of its CPU went into watching."""
    before, cpu_s = _page(target), machine.own_cpu_s(target.pid)
    point = load.drive(
        target, connections, pace.point_s, warm_up_s=pace.warm_up_s, quiet_s=pace.quiet_patience_s
    )
    after, cpu_s = _page(target), machine.own_cpu_s(target.pid) - cpu_s
    costs = dict(_COST.findall(before))
    if not costs:
        raise NotRun(f"{target.title} does not tell what watching costs")
    return WatchCost(
        point=point,
        answers=int(float(_ARRIVALS.findall(after)[0]) - float(_ARRIVALS.findall(before)[0])),
        cpu_s=cpu_s,
        parts_s={part: float(took_s) - float(costs.get(part, 0.0)) for part, took_s in _COST.findall(after)},
        history_bytes=int(float((_SIZE.findall(after) or ["0"])[0])),
        series=len(_SERIES.findall(after)),
    )


def _page(target: Running) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{target.port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())
