"""What a drill is: what it breaks, which failures of the catalogue it proves, what is promised, and how it is done.

The drills themselves are in `faults`, a file a family. `run` conducts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightproof.declare.describe import Description
from nightproof.drills.inputs import Inputs
from nightproof.drills.promise import Promise
from nightproof.drills.stage import Setting

if TYPE_CHECKING:
    from nightproof.drills.scene import Scene

GROUPS: dict[str, str] = {
    "health": "1. Health checks of all components",
    "degradation": "2. Graceful degradation",
    "input": "3. Input validation",
    "output": "4. Output validation",
    "rollback": "5. Instant rollback",
    "audit": "6. Audit log",
    "alerting": "7. Alerting",
    "runbooks": "8. Runbooks",
    "monitoring": "Continuous monitoring",
    "data": "Data quality",
    "security": "Security",
    "scaling": "Scaling under load",
}
"""The eight items of the production checklist, then monitoring, data quality, security and scaling."""

USUAL = Setting(name="usual")


class CannotRun(Exception):
    """This drill cannot be run here; its text says why."""


class NotApplicable(Exception):
    """This drill says nothing about this service; its text says why."""


@dataclass(frozen=True, kw_only=True)
class Drill:
    """One experiment."""

    name: str
    group: str
    breaks: str
    """What is broken, in one line."""
    proves: tuple[str, ...]
    """Failures of the catalogue that it shows; the first one's runbook is its own."""
    promise: Callable[[Description], Promise]
    act: Callable[[Scene], None]
    """Break it, look, and leave the undoing to the scene."""
    setting: Setting = USUAL
    applies: Callable[[Description, Inputs], str] = field(default=lambda declared, inputs: "")
    """Why it says nothing about this service; empty where it does."""
    is_quick: bool = False
    """Part of `--quick`."""
    needs_chat: bool = False
    """It says something about a chat service only."""
    in_soak: bool = False
    """Leaves the stage as it was, whatever was broken before it: fit for hours of random faults."""
    ends_server: bool = False
    """The server is another process afterwards; a soak does it seldom, so that its memory can be watched."""
    spoils_stage: bool = False
    """The next drill needs a stage of its own."""
    frameworks: tuple[str, ...] = ()
    """What it answers in OWASP's and MITRE's lists."""
    rate_per_s: float = 25.0
    """How often the crowd asks."""

    @property
    def runbook(self) -> str:
        """Name the page that the person on call would open."""
        return self.proves[0] if self.proves else ""


@dataclass(frozen=True, kw_only=True)
class NotRun:
    """A drill of the catalogue that is listed and not run, with the reason."""

    name: str
    group: str
    breaks: str
    proves: tuple[str, ...]
    why: str
    word: str = "could not run"
    frameworks: tuple[str, ...] = ()

    @property
    def runbook(self) -> str:
        """Name the page that the person on call would open."""
        return self.proves[0] if self.proves else ""
