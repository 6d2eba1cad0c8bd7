"""The upstreams of a stage: lying ones, a program each, that answer like a good model until a drill tells them to lie.

A chat service's copy in the stage asks these in the order in which the service names its own.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping

from nightproof.declare.chat_description import ChatDescription
from nightproof.drills import liar
from nightproof.drills.liar import Liar, Seen

USUAL_TEXT = "Thank you for asking. This is what there is to say about it, and that is all of it."
_MOST = 2
"""One, and one that stands for the next in order."""


class StageUpstreams:
    """Runs from `start` to `stop`. `lie` and `lie_about` say what they do; without, they answer."""

    def __init__(self, chat: ChatDescription, text: str, env: Mapping[str, str]) -> None:
        self.usual = f"say {json.dumps(text)}"
        self.count = min(_MOST, len(chat.upstreams))
        self._env = dict(env)
        self._running: dict[int, tuple[Liar, subprocess.Popen[bytes]]] = {}
        self._ports: dict[int, int] = {}

    def start(self) -> list[str]:
        """Start all of them, and return their addresses."""
        for place in range(self.count):
            self.revive(place)
        return [f"http://127.0.0.1:{port}/v1" for port in self._ports.values()]

    def stop(self) -> None:
        """End all of them."""
        for place in list(self._running):
            self.kill(place)

    def kill(self, place: int = 0) -> None:
        """End one: its port refuses connections from then on."""
        found = self._running.pop(place, None)
        if found is not None:
            liar.end(found[1])

    def revive(self, place: int = 0) -> None:
        """Start one again where it was, behaving well."""
        if place not in self._running:
            port = self._ports.get(place, 0)
            self._running[place] = liar.start(port=port, behaves={"*": self.usual}, env=self._env)
            self._ports[place] = self._running[place][0].port

    def lie(self, lie: str, *, place: int = 0) -> None:
        """Do so with everything that is asked; empty: answer."""
        self._running[place][0].behave("*", lie or self.usual)

    def lie_about(self, text: str, lie: str) -> None:
        """Do so with what holds a text, wherever it is asked; empty: as with everything else."""
        for one, _ in self._running.values():
            one.behave(f"?{text}", lie)

    def seen(self, place: int = 0) -> Seen:
        """Return what one was sent."""
        return self._running[place][0].all_seen()
