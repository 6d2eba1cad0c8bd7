"""Everything that Apprise knows (mail, Slack, Teams, PagerDuty, …), by its own addresses. The extra `notify`.

Apprise waits on sockets, so it runs in a thread of its own. It has no ids: what is sent and not yet noted when the
server is killed is sent again, with the same `message …` line at its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightproof.base.errors import SettingError
from nightproof.watch.notify.message import Message, ToldAlert
from nightproof.watch.notify.post import NotDelivered


def is_installed() -> bool:
    """Say whether Apprise is there."""
    return importlib.util.find_spec("apprise") is not None


class Apprise:
    """One of Apprise's addresses."""

    def __init__(self, url: str, *, within_s: float) -> None:
        if not is_installed():
            raise SettingError(
                "notify.apprise is set, and Apprise is not installed.",
                hint="pip install 'nightproof[notify]'",
            )
        scheme = url.partition("://")[0]
        self._name = f"apprise {scheme} {hashlib.sha256(url.encode()).hexdigest()[:6]}"
        self._within_s = within_s
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="apprise")
        self._post = _open(url, self._name)
        self._late: tuple[str, asyncio.Future[bool]] | None = None

    @property
    def name(self) -> str:
        """Name it by its kind; the rest of its address is a secret."""
        return self._name

    async def tell(self, message: Message, *, now_us: int) -> str:
        """Hand the message to Apprise; return that it took it.

        A thread cannot be ended: what is late goes on, and the next try of the same message waits for it.
        """
        sent = (
            self._late[1] if self._late is not None and self._late[0] == message.id else self._begin(message)
        )
        self._late = None
        try:
            is_sent = await asyncio.wait_for(asyncio.shield(sent), self._within_s)
        except TimeoutError:
            self._late = (message.id, sent)
            raise NotDelivered(f"not sent within {self._within_s:g} s") from None
        except TypeError as error:  # Apprise's own word for a message that it cannot take
            raise NotDelivered("Apprise cannot take the message") from error
        if not is_sent:
            raise NotDelivered("Apprise could not send it", hint="Try its address with `apprise -vv`.")
        return "sent"

    def _begin(self, message: Message) -> asyncio.Future[bool]:
        kind = "failure" if message.is_firing else "success"
        title, text = message.title(), message.text()
        return asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: bool(self._post.notify(body=text, title=title, notify_type=kind))
        )

    async def keep_up(self, firing: Sequence[ToldAlert], *, instance: str, now_us: int) -> None:
        """Say nothing again: people are told of changes."""


def _open(url: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # it loads all its plugs, with whatever they import
        import apprise

        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would log addresses, which hold tokens
        post = apprise.Apprise(asset=apprise.AppriseAsset(http_redirects=False, secure_logging=True))
        is_known = post.add(url)
    if not is_known:
        raise SettingError(
            f"notify.apprise: an address of the kind {name.split()[1]!r} is not one that Apprise takes.",
            hint="Apprise's pages tell each service's form.",
        )
    return post
