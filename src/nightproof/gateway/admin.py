"""Operators' routes under `/admin/`: each asks for its role, and each act is recorded before it takes effect.

On the control socket the caller owns the state folder and counts as admin; over TCP a key is needed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import orjson

from nightproof.base import strictjson
from nightproof.base.clock import utc_us
from nightproof.base.errors import FieldError, NightproofError, Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.roles import Action, Role, allows
from nightproof.gateway import runbooks
from nightproof.gateway.admin_alerts import AlertRoutes
from nightproof.gateway.admin_audit import AuditRoutes
from nightproof.gateway.admin_drift import DriftRoutes
from nightproof.gateway.admin_promote import PromotionRoutes
from nightproof.gateway.admin_release import ReleaseRoutes
from nightproof.gateway.problems import Headers
from nightproof.runtime import Runtime
from nightproof.steer import keys, quarantine
from nightproof.storage.sqlite import NotFound
from nightproof.watch.timeline import Asked

if TYPE_CHECKING:
    from nightproof.gateway.app import Call

Body = TypeVar("Body")
Response = tuple[int, bytes, Headers]
_JSON: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_MOST_BYTES = 65_536
_QUARANTINE = re.compile(r"/admin/quarantine/([A-Za-z0-9_-]{1,64})(?:/(release|replay))?")
_AUDIT = re.compile(r"/admin/audit/([a-z]{1,20})")
_ALERTS = re.compile(r"/admin/alerts(?:/([a-z]{1,20}))?")
_RUNBOOK = re.compile(r"/admin/runbooks/([a-z_]{1,64})(?:/([a-z][a-z0-9_-]{0,62}))?")
_KEY = re.compile(r"/admin/keys/([A-Za-z0-9_-]{1,64})/revoke")


_LONGEST_LIFE_DAYS = 36_500


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /admin/keys`."""

    role: str
    name: str = ""
    services: list[str] = []
    expires_days: Annotated[float, msgspec.Meta(gt=0, le=_LONGEST_LIFE_DAYS)] | None = 90.0


class Admin:
    """Answers operators' requests."""

    def __init__(self, runtime: Runtime, *, is_local: bool) -> None:
        self._runtime = runtime
        self._is_local = is_local
        self._audit = AuditRoutes(runtime, _read)
        self._releases = ReleaseRoutes(runtime, _read, is_local=is_local)
        self._promotions = PromotionRoutes(runtime, _read)
        self._alerts = AlertRoutes(runtime, _read)
        self._drift = DriftRoutes(runtime)

    async def answer(self, call: Call, method: str, path: str) -> Response:
        """Answer one request, or raise Refusal."""
        action, act = self._route(method, path)
        who = self._who(call, action)
        body = await call.read_body(self._releases.most_bytes(path) or _MOST_BYTES)
        try:
            return 200, orjson.dumps(msgspec.to_builtins(await act(who, body))), _JSON
        except NotFound as error:
            raise Refusal(error.text, failure="unknown_service", hint=error.hint) from error

    def _route(self, method: str, path: str) -> tuple[Action, Callable[[str, bytes], Awaitable[Any]]]:
        if path == "/admin/status" and method == "GET":
            return Action.READ_STATUS, self._status
        if path == "/admin/windows" and method == "POST":
            return Action.READ_STATUS, self._windows
        if path == "/admin/quarantine" and method == "GET":
            return Action.QUARANTINE, self._held
        if match := _QUARANTINE.fullmatch(path):
            entry_id, verb = match[1], match[2]
            if verb is None and method == "GET":
                return Action.QUARANTINE, lambda who, _: self._show(who, entry_id)
            if verb == "release" and method == "POST":
                return Action.QUARANTINE, lambda who, _: self._release(who, entry_id)
            if verb == "replay" and method == "POST":
                return Action.QUARANTINE, lambda who, _: self._replay(who, entry_id)
        if path == "/admin/keys" and method == "GET":
            return Action.KEYS, self._keys
        if path == "/admin/keys" and method == "POST":
            return Action.KEYS, self._create_key
        if (match := _KEY.fullmatch(path)) and method == "POST":
            key_id = match[1]
            return Action.KEYS, lambda who, _: self._revoke_key(who, key_id)
        if (match := _AUDIT.fullmatch(path)) and (found := self._audit.find(method, match[1])):
            return found
        if (match := _RUNBOOK.fullmatch(path)) and method == "GET":
            failure, service = match[1], match[2] or ""
            return Action.READ_STATUS, lambda who, _: self._runbook(failure, service)
        if (match := _ALERTS.fullmatch(path)) and (found := self._alerts.find(method, match[1] or "")):
            return found
        if found := self._promotions.find(method, path) or self._releases.find(method, path):
            return found
        if (route := self._drift.find(method, path)) is not None:
            return route
        raise Refusal(
            "No operator's route is under this path and method.",
            failure="unknown_service",
            hint="See `nightproof --help` for the verbs that use them.",
        )

    def _who(self, call: Call, action: Action) -> str:
        if self._is_local:
            return "local"
        token = call.token()
        caller = None if token is None else self._runtime.house.find_caller(token)
        if caller is None:
            self._runtime.connection_refused("unauthenticated", call.client)
            raise Refusal(
                "This route needs an API key.",
                failure="unauthenticated",
                hint="Send `Authorization: Bearer <key>` with a key of role operate or admin.",
            )
        if not allows(caller.role, action):
            self._runtime.connection_refused("forbidden", caller.key_id)
            raise Refusal(
                f"A key of role {caller.role.value!r} may not do this.",
                failure="forbidden",
                hint="Ask for a key whose role covers it; docs/security.md has the table of roles.",
            )
        return caller.key_id

    async def _status(self, who: str, _: bytes) -> Any:
        return self._runtime.status()

    async def _windows(self, who: str, body: bytes) -> Any:
        return await self._runtime.watching.timeline(_read(body, Asked))

    async def _held(self, who: str, _: bytes) -> Any:
        return quarantine.list_all(self._runtime.quarantine)

    async def _show(self, who: str, entry_id: str) -> Any:
        await self._runtime.act(who, "quarantine.show", entry=entry_id)
        return quarantine.show(self._runtime.quarantine, entry_id, self._runtime.archive.sensitive_of)

    async def _release(self, who: str, entry_id: str) -> Any:
        await self._runtime.act(who, "quarantine.release", entry=entry_id)
        released = quarantine.release(self._runtime.quarantine, entry_id)
        self._runtime.services.refresh_poison()
        return released

    async def _replay(self, who: str, entry_id: str) -> Any:
        entry, _content = self._runtime.quarantine.show(entry_id)
        engine = self._runtime.engine_of(entry.service)
        if engine is None:
            raise Refusal(f"Service {entry.service!r} is not served here.", failure="unknown_service")
        await self._runtime.act(who, "quarantine.replay", entry=entry_id)
        outcome = await quarantine.replay(self._runtime.quarantine, entry_id, engine)
        self._runtime.services.refresh_poison()
        return outcome

    async def _runbook(self, failure: str, service: str) -> Any:
        page = runbooks.page(failure)
        if page is None:
            raise Refusal(
                "No runbook has this name.",
                failure="unknown_service",
                hint=f"Names: {', '.join(sorted(CATALOGUE))}.",
            )
        if service and service not in self._runtime.house.services:
            raise Refusal(f"Service {service!r} is not served here.", failure="unknown_service")
        return {"failure": failure, "page": self._runtime.runbook(page.decode(), failure, service)}

    def may_see_status(self, call: Call) -> bool:
        """Say whether a caller may see live values; refuses nobody."""
        if self._is_local:
            return True
        token = call.token()
        caller = None if token is None else self._runtime.house.find_caller(token)
        return caller is not None and allows(caller.role, Action.READ_STATUS)

    async def _keys(self, who: str, _: bytes) -> Any:
        return keys.list_all(self._runtime.keyring, now_us=utc_us())

    async def _create_key(self, who: str, body: bytes) -> Any:
        asked = _read(body, NewKey)
        try:
            role = Role(asked.role)
        except ValueError:
            raise Refusal(
                "No such role.", failure="invalid_input", hint=f"Roles: {', '.join(Role)}."
            ) from None
        expires_in = None if asked.expires_days is None else timedelta(days=asked.expires_days)
        try:
            made = keys.create(
                self._runtime.keyring,
                role=role,
                name=asked.name,
                services=asked.services,
                expires_in=expires_in,
            )
        except (NightproofError, ValueError, OverflowError) as error:
            raise Refusal(f"The key cannot be made: {error}", failure="invalid_input") from error
        try:
            await self._runtime.act(
                who, "keys.create", target=made.id, role=asked.role, services=asked.services
            )
        except NightproofError:
            keys.revoke(
                self._runtime.keyring, made.id, now_us=utc_us()
            )  # a key without its record must not live
            raise
        return made

    async def _revoke_key(self, who: str, key_id: str) -> Any:
        await self._runtime.act(who, "keys.revoke", target=key_id)
        return keys.revoke(self._runtime.keyring, key_id, now_us=utc_us())


def _read(body: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.convert(strictjson.parse(body), kind)
    except strictjson.JsonRefused as error:
        raise Refusal(
            f"The body is not JSON: {error.detail}.",
            failure="malformed_request",
            errors=[FieldError(error.pointer or "", error.detail, error.reason)],
        ) from None
    except msgspec.ValidationError as error:
        raise Refusal(f"The body does not fit: {error}.", failure="invalid_input") from None
