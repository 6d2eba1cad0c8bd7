"""What chat services need beside their workers: upstreams, programs that serve models, and what was used of budgets.

Built by `runtime` and asked by `services` for each release that is loaded. Loads nothing of it before the first chat
service: a server without one has no HTTP client and no scanner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.deadlines import Deadlines
from nightproof.base.errors import DeclarationError, StateError
from nightproof.declare.chat_description import ChatDescription
from nightproof.declare.describe import Description
from nightproof.pipeline.chat_values import ChatRelease
from nightproof.pipeline.house import House
from nightproof.settings.settings import WorkerSettings
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.usage_store import UsageStore
from nightproof.watch.log import log
from nightproof.watch.upstreams import UpstreamPicture

if TYPE_CHECKING:
    from nightproof.checks.leaving import CompiledRules
    from nightproof.checks.prompt_shadow import PromptShadow
    from nightproof.pipeline.upstreams import Upstreams
    from nightproof.workers.upstream.command import ServedCommand

_UP_WITHIN_S = 30.0
_OF_EACH_KIND = (
    "A word, [a link](https://a.example/b?c=d), <b>, sk-proj-a1B2c3D4e5, 4111 1111 1111 1111, a@b.example.\n"
)
_NO_EXTRA = "Install the extra: pip install 'nightproof[chat]'."


class Chats:
    """The rooms of chat services. Used on the event loop's thread only."""

    def __init__(self, state: StateFolder, house: House, settings: WorkerSettings) -> None:
        self._state = state
        self._house = house
        self._settings = settings
        self._store: UsageStore | None = None
        self._commands: dict[int, dict[str, ServedCommand]] = {}
        """By the identity of a release's chain, and the upstream's name."""
        self._keeping = asyncio.Lock()

    async def load(self, description: Description, folder: Path) -> ChatRelease | None:
        """Make what a release answers chats with, its programs started; None where it is no chat service.

        Raises DeclarationError where an upstream cannot be asked: no such secret, no such program.
        """
        chat = description.chat
        if chat is None:
            return None
        # Off the loop: what is loaded and compiled here takes a good part of a second, and others are served meanwhile.
        rules, shadow, upstreams = await asyncio.to_thread(_compiled, chat)
        await self._open_store()
        if self._house.upstreams is None:
            self._house.upstreams = upstreams
        addresses: dict[str, str] = {}
        commands = self._commands_of(chat, folder, addresses)
        chain = self._house.upstreams.chain(chat, addresses)
        self._commands[id(chain)] = commands
        release = ChatRelease(description=chat, chain=chain, rules=rules, shadow=shadow)
        for one in commands.values():
            one.start()
        try:
            # One that is not up by then is asked no sooner; the next upstreams and the fallbacks answer meanwhile.
            await asyncio.gather(*(one.ready(_UP_WITHIN_S) for one in commands.values()))
        except BaseException:
            await self.let_go(release)
            raise
        return release

    def _commands_of(
        self, chat: ChatDescription, folder: Path, addresses: dict[str, str]
    ) -> dict[str, ServedCommand]:
        if not any(one.command for one in chat.upstreams):
            return {}
        from nightproof.workers.upstream.command import ServedCommand

        return {
            one.name: ServedCommand(
                one,
                addresses,
                self._settings,
                folder=folder,
                report=lambda name, text: log("upstream_command", upstream=name, said=text),
            )
            for one in chat.upstreams
            if one.command
        }

    async def let_go(self, release: ChatRelease | None) -> None:
        """End what a release had, when it is served no more."""
        if release is None:
            return
        commands = self._commands.pop(id(release.chain), {})
        await release.chain.aclose()
        await asyncio.gather(*(one.stop() for one in commands.values()))

    async def stop(self) -> None:
        """End all programs and connections, and keep what was used."""
        for commands in list(self._commands.values()):
            await asyncio.gather(*(one.stop() for one in commands.values()))
        self._commands.clear()
        if self._house.upstreams is not None:
            await self._house.upstreams.close()
        await self.keep()
        if self._store is not None:
            self._store.close()

    async def keep(self) -> None:
        """Write what was used of budgets since the last time."""
        store = self._store
        if store is None:
            return
        async with self._keeping:
            lines = self._house.budgets.changed()
            if not lines:
                return
            try:
                await asyncio.to_thread(store.keep, lines)
            except (StorageUnavailable, StorageOutcomeUnknown) as error:
                self._house.budgets.not_kept(lines)
                log("usage_not_kept", level="warning", why=str(error))
            except asyncio.CancelledError:
                self._house.budgets.not_kept(lines)  # the stop keeps them
                raise

    async def _open_store(self) -> None:
        if self._store is not None:
            return
        try:
            self._store = await asyncio.to_thread(UsageStore, self._state.usage_db)
            self._house.budgets.restore(await asyncio.to_thread(self._store.lines))
        except (StateError, StorageUnavailable, StorageOutcomeUnknown, msgspec.DecodeError) as error:
            # Budgets begin anew: that is told, and keeps no service from starting.
            log("usage_not_read", level="warning", why=str(error))

    # -- what is seen of it -------------------------------------------------------------------

    def pictures(self) -> Mapping[str, list[UpstreamPicture]]:
        """Return the upstreams of each live release as they are."""
        found: dict[str, list[UpstreamPicture]] = {}
        for name, served in self._house.services.items():
            chat = served.live.chat
            if chat is None:
                continue
            commands = self._commands.get(id(chat.chain), {})
            found[name] = [
                UpstreamPicture(
                    name=one.name,
                    model=one.model,
                    state=one.breaker,
                    in_flight=one.in_flight,
                    limit=one.limit,
                    pause_s=one.pause_s,
                    last_failure=" ".join(part for part in (one.last_failure, one.last_detail) if part),
                    command_trouble=_trouble(commands.get(one.name)),
                )
                for one in chat.chain.snapshot()
            ]
        return found

    def budgets_left(self) -> Mapping[str, Mapping[str, float]]:
        """Return what is left of each service's own budgets, as shares; nothing of those without one."""
        found: dict[str, dict[str, float]] = {}
        for name, served in self._house.services.items():
            chat = served.live.chat
            if chat is None:
                continue
            budget, used = chat.description.budget, self._house.budgets.used(name, at_us=utc_us())
            left = {}
            if budget.service_tokens_per_day:
                left["tokens_per_day"] = max(0.0, 1 - used.tokens_today / budget.service_tokens_per_day)
            if budget.service_cost_per_day:
                left["cost_per_day"] = max(0.0, 1 - used.cost_today / budget.service_cost_per_day)
            if left:
                found[name] = left
        return found

    def __repr__(self) -> str:
        return f"<Chats of {len(self._commands)} releases>"


def _trouble(command: ServedCommand | None) -> str:
    """Say why a program does not stay up; empty where it does, or there is none."""
    if command is None or not command.has_failed:
        return ""
    picture = command.snapshot()
    return f"its program does not stay up after {picture.starts} starts: {picture.last_end or 'it does not answer'}"


def _compiled(chat: ChatDescription) -> tuple[CompiledRules, PromptShadow, Upstreams]:
    """Load what chat services need, and compile a release's rules."""
    try:
        from nightproof.checks.leaving import CompiledRules, OutputScanner
        from nightproof.checks.prompt_shadow import PromptShadow
        from nightproof.checks.text import personal, secrets
        from nightproof.pipeline.upstreams import Upstreams
        from nightproof.workers.upstream import http1  # noqa: F401 - takes long, and is asked for on the loop next
    except ImportError as error:
        raise DeclarationError(f"Chat services need {error.name}.", hint=_NO_EXTRA) from error
    shadow = PromptShadow(chat.prompt, chat.output.sayable)
    rules = CompiledRules(chat.output, secrets=secrets.patterns(), personal=personal.patterns())
    # The first look at each kind of text makes the patterns ready, which takes long: no caller waits for it.
    scanner = OutputScanner(rules, canary="", prompt=shadow)
    scanner.feed(_OF_EACH_KIND)
    scanner.end()
    return rules, shadow, Upstreams(Deadlines())
