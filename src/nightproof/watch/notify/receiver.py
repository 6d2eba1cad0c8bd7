"""The plug point: whoever can be told. One file for each kind beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nightproof.watch.notify.message import Message, ToldAlert


class Receiver(Protocol):
    """Somebody who is told of alerts."""

    @property
    def name(self) -> str:
        """Name it, without secrets; the same across restarts, since what waits for it is kept under this name."""

    async def tell(self, message: Message, *, now_us: int) -> str:
        """Send a message once; return what came back. Raises NotDelivered."""

    async def keep_up(self, firing: Sequence[ToldAlert], *, instance: str, now_us: int) -> None:
        """Say again what fires, to receivers that forget. Raises NotDelivered."""
