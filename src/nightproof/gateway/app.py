"""The ASGI application: routes, headers, and the hand-over to the pipeline. Raw ASGI, since every
microsecond of it is paid by every request.

It turns HTTP into an `Arrival` and a `Reply` into HTTP; it decides nothing about requests, and it never
imports user code. Operators' routes are in `gateway/admin.py`, protocols in `native.py` and `oip.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from nightproof import __version__
from nightproof.base.clock import monotonic_s
from nightproof.base.errors import Fault, Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Reply
from nightproof.declare.describe import Description
from nightproof.gateway import docs_page, native, oip, openai, openapi, problems, runbooks
from nightproof.gateway.admin import Admin
from nightproof.gateway.problems import Headers
from nightproof.pipeline import feedback
from nightproof.pipeline.serve import Work, predict, serve
from nightproof.pipeline.story import Arrival, Decoded
from nightproof.runtime import Runtime
from nightproof.watch.telemetry import Context, read_context

if TYPE_CHECKING:
    from nightproof.gateway.chat_routes import ChatRoutes

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Response = tuple[int, bytes, Headers]

_JSON_TYPES = (b"application/json", b"text/json")
_JSON_HEADER: Headers = [(b"content-type", b"application/json")]
_TEXT_HEADER: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
_TIMEOUT = re.compile(rb"[0-9]{1,12}(\.[0-9]{1,6})?")
_OIP_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?/?")
_MOST_SPECS = 256
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_PAGE_POLICY: Headers = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        b"connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
]


class Call:
    """One HTTP request as the routes see it."""

    __slots__ = ("body", "headers", "receive", "repeated", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.body = b""
        self.headers: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        for name, value in scope["headers"]:
            if name in self.headers:
                self.repeated.add(name)
            else:
                self.headers[name] = value

    @property
    def client(self) -> str:
        """The caller's address, or `local` on the control socket."""
        client = self.scope.get("client")
        return client[0] if client else "local"

    def token(self) -> str | None:
        """Return the bearer token, if the request carries one."""
        value = self.headers.get(b"authorization")
        if value is None or value[:7].lower() != b"bearer " or b"authorization" in self.repeated:
            return None
        return value[7:].strip().decode("latin-1")

    async def read_body(self, most_bytes: int) -> bytes:
        """Read the whole body, up to a limit. Raises Refusal `oversized_request` before reading too much."""
        announced = self.headers.get(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > most_bytes:
            raise _oversized(most_bytes)
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        if not message.get("more_body"):
            self.body = message.get("body", b"")
            if len(self.body) > most_bytes:
                raise _oversized(most_bytes)
            return self.body
        parts = [message.get("body", b"")]
        size_bytes = len(parts[0])
        while message.get("more_body"):
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size_bytes += len(parts[-1])
            if size_bytes > most_bytes:
                raise _oversized(most_bytes)
        self.body = b"".join(parts)
        return self.body


def _oversized(most_bytes: int) -> Refusal:
    return Refusal(
        f"The body is larger than {most_bytes} bytes.",
        failure="oversized_request",
        hint="Send fewer records at once; the operator sets receiving.body_bytes.",
    )


class Gateway:
    """The application. One per server; `is_local` marks the one on the control socket, whose callers own the folder."""

    def __init__(self, runtime: Runtime, *, is_local: bool = False) -> None:
        self._runtime = runtime
        self._house = runtime.house
        self._public_url = runtime.settings.server.public_url.rstrip("/")
        self._admin = Admin(runtime, is_local=is_local)
        self._specs: dict[int, tuple[Description, list[oip.TensorSpec], list[oip.TensorSpec]]] = {}
        """By the identity of a description."""
        self._chats: ChatRoutes | None = None
        self._gets: dict[str, Callable[[Call], Response]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/startupz": self._startupz,
            "/healthz": self._healthz,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/v2": self._oip_server,
            "/v2/": self._oip_server,
            "/v2/health/live": self._oip_live,
            "/v2/health/ready": self._oip_ready,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI's entry)."""
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path.startswith("/services/") and path.endswith("/predict") and path.count("/") == 3:
            await self._predict(scope, receive, send, service=path[10:-8])
            return
        if path.startswith("/services/") and path.endswith("/feedback") and path.count("/") == 3:
            await self._feedback(scope, receive, send, service=path[10:-9])
            return
        if path.startswith("/v2/models/") and path.rstrip("/").endswith("/infer"):
            await self._infer(scope, receive, send, path)
            return
        call = Call(scope, receive)
        try:
            if path == "/v1/chat/completions":
                await self._chat_routes(call.client).complete(call, send)
                return
            response = await self._other(call, path)
        except Fault as fault:
            response = self._error(fault, path)
            response[2].extend(_allow(fault))
        except asyncio.CancelledError:
            return
        status, body, headers = response
        await _send(send, status, body, [*headers, _NO_SNIFF], head_only=scope["method"] == "HEAD")

    # -- service routes -----------------------------------------------------------------------

    async def _predict(self, scope: Scope, receive: Receive, send: Send, *, service: str) -> None:
        began_s = monotonic_s()
        call = Call(scope, receive)
        arrival = self._arrival(call, service=service, protocol="native", began_s=began_s)
        if scope["method"] != "POST":
            arrival.fault = _wrong_method(scope["method"], "POST")
        elif arrival.fault is None:
            arrival.fault = _wrong_media_type(call.headers)
        reply = await self._serve(arrival, scope, self._work_of(service))
        if reply is None:
            return
        served_s = monotonic_s()
        respond = scope["extensions"].get("nightproof.respond") if "extensions" in scope else None
        if respond is not None and native.is_plain(reply, arrival.context):
            await respond(200, native.plain_fields(reply, arrival.context), native.single_body(reply))
        else:
            status, body, headers = native.encode(reply, public_url=self._public_url)
            await _send(
                send, status, body, headers + self._reply_headers(reply, arrival) + _allow(arrival.fault)
            )
        self._house.meters.count_stage("reply", monotonic_s() - served_s)

    def _work_of(self, service: str) -> Work:
        """Return what answers a record of this service: its model, or its chat."""
        served = self._house.services.get(service)
        return predict if served is None or served.live.chat is None else self._chat_routes().typed

    def _chat_routes(self, client: str = "") -> ChatRoutes:
        """Return the routes of chat services; what they need is loaded with the first such service only."""
        if self._chats is None:
            if self._house.starting:
                raise Fault(
                    "The server is starting; its services are still loading.",
                    failure="model_unavailable",
                    hint="Retry in a moment.",
                    retry_after_s=1.0,
                )
            if not any(served.live.chat for served in self._house.services.values()):
                self._runtime.connection_refused("unknown_service", client)
                raise Refusal(
                    "No chat service is served here.",
                    failure="unknown_service",
                    hint="Predictions: POST /services/{name}/predict. All routes: /openapi.json.",
                )
            from nightproof.gateway.chat_routes import ChatRoutes

            self._chats = ChatRoutes(
                self._house,
                self._arrival,
                self._serve,
                self._reply_headers,
                self._runtime.connection_refused,
            )
        return self._chats

    async def _feedback(self, scope: Scope, receive: Receive, send: Send, *, service: str) -> None:
        call = Call(scope, receive)
        arrival = self._arrival(call, service=service, protocol=feedback.PROTOCOL, began_s=monotonic_s())
        arrival.idempotency_key = ""  # a label that is known already does no harm
        if scope["method"] != "POST":
            arrival.fault = _wrong_method(scope["method"], "POST")
        elif arrival.fault is None:
            arrival.fault = _wrong_media_type(call.headers)
        reply = await self._serve(arrival, scope, feedback.take_labels)
        if reply is None:
            return
        status, body, headers = native.encode(reply, public_url=self._public_url)
        await _send(send, status, body, headers + self._reply_headers(reply, arrival) + _allow(arrival.fault))

    async def _infer(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        began_s = monotonic_s()
        call = Call(scope, receive)
        match = _OIP_PATH.fullmatch(path)
        name, version = (match[1], match[2]) if match else ("", None)
        arrival = self._arrival(call, service=name, protocol="oip", began_s=began_s)
        kept: list[oip.Inference] = []

        def decode(body: bytes, description: Description) -> Decoded:
            inputs, outputs = self._tensors(description)
            inference = oip.decode(
                body,
                header_length=oip.header_length_of(call.headers.get(oip.HEADER_LENGTH.lower().encode())),
                schema=inputs,
                output_schema=outputs,
                max_items=description.max_items,
            )
            kept.append(inference)
            if inference.timeout_ms is not None:
                arrival.timeout_ms = min(arrival.timeout_ms or inference.timeout_ms, inference.timeout_ms)
            return Decoded(
                inference.records, [orjson.dumps(record) for record in inference.records], many=True
            )

        arrival.decode = decode
        if scope["method"] != "POST":
            arrival.fault = _wrong_method(scope["method"], "POST")
        elif call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            arrival.fault = _compressed()
        arrival.version = version or ""
        reply = await self._serve(arrival, scope, self._work_of(name))
        if reply is None:
            return
        served = self._house.services.get(name)
        if reply.replayed and reply.ending in ("answered", "degraded") and served is not None:
            # How this caller wants its outputs, by the schema of the release that answered, if it is still here.
            decode(call.body, (served.find(reply.release) or served.live).engine.description)
        status, body, headers = self._oip_response(reply, kept)
        await _send(send, status, body, headers + self._reply_headers(reply, arrival) + _allow(arrival.fault))

    def _oip_response(self, reply: Reply, kept: list[oip.Inference]) -> Response:
        if reply.ending in ("answered", "degraded") and not any(item.failure for item in reply.items):
            served = self._house.services[reply.service]
            release = served.find(reply.release) or served.live
            inference = kept[0] if kept else oip.Inference(id=None, records=[])
            degraded = [item.degraded for item in reply.items if item.degraded is not None]
            try:
                body, extra = oip.encode(
                    inference,
                    model_name=reply.service,
                    release=reply.release,
                    request_id=reply.id,
                    outputs=[orjson.loads(bytes(item.output)) for item in reply.items],
                    output_schema=release.engine.description.output_schema,
                    degraded=bool(degraded),
                )
            except Refusal as refusal:
                return 400, oip.error_body(str(refusal)), _JSON_HEADER
            headers: Headers = [(name.lower().encode(), value.encode()) for name, value in extra.items()]
            if degraded:
                headers.append(
                    (b"nightproof-degraded", f"{degraded[0].failure}; by={degraded[0].by}".encode())
                )
            return 200, body, headers
        # The protocol has no answer per record: one that fails ends the whole request.
        failed = next((item for item in reply.items if item.failure), None)
        failure = reply.failure or (failed.failure if failed else "internal_error")
        place = next((number for number, item in enumerate(reply.items) if item.failure), 0)
        status = reply.status or CATALOGUE[failure].statuses[0]
        detail = reply.detail or (failed.detail if failed else "")
        errors = reply.errors or (failed.errors if failed else [])
        told = "; ".join(
            f"{error.pointer} {error.detail}".strip() for error in errors[:5] if error.detail != detail
        )
        text = f"{failure}: {detail}"
        text = f"{text} (record {place})" if failed and len(reply.items) > 1 else text
        text = " ".join(part for part in (text, told, reply.hint) if part)
        headers = [*_JSON_HEADER, (b"nightproof-failure", failure.encode())]
        return status, oip.error_body(text.strip()), headers + problems.retry_headers(reply, status)

    def _oip_error(self, fault: Fault) -> Response:
        status = fault.status or CATALOGUE[fault.failure].statuses[0]
        return (
            status,
            oip.error_body(f"{fault.failure}: {fault.text} {fault.hint}".strip()),
            list(_JSON_HEADER),
        )

    def _tensors(self, description: Description) -> tuple[list[oip.TensorSpec], list[oip.TensorSpec]]:
        """Return a release's tensors, worked out once."""
        kept = self._specs.get(id(description))
        if kept is None or kept[0] is not description:  # releases end, and an identity is used again
            if len(self._specs) >= _MOST_SPECS:
                self._specs.clear()
            inputs, outputs = (
                oip.tensors_of(description.input_schema),
                oip.tensors_of(description.output_schema),
            )
            kept = self._specs[id(description)] = (description, inputs, outputs)
        return kept[1], kept[2]

    async def _serve(
        self,
        arrival: Arrival,
        scope: Scope,
        work: Work = predict,
    ) -> Reply | None:
        """Run the pipeline; None when the caller has left, which cancels it."""
        departure = scope.get("extensions", {}).get("nightproof.disconnect")
        if departure is not None:
            if departure.task is not None:
                departure.callback = departure.task.cancel
            arrival.cut_by = lambda: departure.failure
        try:
            return await serve(arrival, self._house, work=work)
        except asyncio.CancelledError:
            return None
        finally:
            if departure is not None:
                departure.callback = None

    def _arrival(self, call: Call, *, service: str, protocol: str, began_s: float) -> Arrival:
        headers = call.headers
        arrival = Arrival(
            id=self._house.ids.draw(),
            service=service,
            protocol=protocol,
            token=call.token(),
            read_body=call.read_body,
            decode=None,
            client=call.client,
            began_s=began_s,
        )
        if (value := headers.get(b"x-request-timeout-ms")) is not None:
            arrival.timeout_ms, arrival.fault = _timeout_ms(
                value, repeated=b"x-request-timeout-ms" in call.repeated
            )
        if (value := headers.get(b"idempotency-key")) is not None:
            # A structured-field string comes in quotes (the IETF draft); most clients send it bare.
            arrival.idempotency_key = value.decode("latin-1").strip().strip('"') or " "
            if b"idempotency-key" in call.repeated:
                arrival.idempotency_key = " "  # two keys are no key: refused like one that cannot be
        if b"traceparent" in headers and b"traceparent" not in call.repeated:
            arrival.context = context = _context(call)
            if context is not None:
                arrival.trace_id = context.trace_id
        return arrival

    def _reply_headers(self, reply: Reply, arrival: Arrival) -> Headers:
        headers: Headers = [
            (b"x-request-id", arrival.id.encode()),
            (b"traceparent", native.traceparent(arrival.id, arrival.context)),
            (b"server-timing", native.server_timing(reply.stages_us)),
            _NO_STORE,
        ]
        if arrival.context is not None and arrival.context.state:
            headers.append((b"tracestate", arrival.context.state.encode()))
        if reply.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return headers

    # -- everything else ----------------------------------------------------------------------

    async def _other(self, call: Call, path: str) -> Response:
        method = call.scope["method"]
        route = self._gets.get(path)
        if route is not None:
            _need_get(method)
            return route(call)
        if path.startswith("/admin/"):
            return await self._admin.answer(call, method, path)
        if path.startswith("/problems/"):
            _need_get(method)
            return self._problem_page(path.removeprefix("/problems/"))
        if path.startswith("/runbooks/"):
            _need_get(method)
            return self._runbook_page(call, path.removeprefix("/runbooks/").removesuffix(".md"))
        if path == "/docs" or path.startswith("/docs/"):
            _need_get(method)
            return _docs(path)
        if path == "/v1/models" or path.startswith("/v1/models/"):
            _need_get(method)
            return self._chat_routes(call.client).models(call, path.removeprefix("/v1/models").strip("/"))
        if match := _OIP_PATH.fullmatch(path):
            _need_get(method)
            return self._oip_model(match[1], match[2], ready=match[3] == "ready")
        self._runtime.connection_refused("unknown_service", call.client)
        raise Refusal(
            "Nothing is served under this path.",
            failure="unknown_service",
            hint="Predictions: POST /services/{name}/predict. All routes: /openapi.json.",
        )

    def _error(self, fault: Fault, path: str) -> Response:
        """Give a fault the form of the protocol whose path was asked for."""
        if path.startswith("/v2"):
            return self._oip_error(fault)
        if path.startswith("/v1/"):
            status, body, headers = openai.error_of(self._reply_of(fault))
            return status, body, headers
        return self._problem(fault)

    def _reply_of(self, fault: Fault) -> Reply:
        return Reply(
            id=self._house.ids.draw(),
            failure=fault.failure,
            status=fault.status,
            detail=fault.text,
            hint=fault.hint,
            errors=list(fault.errors),
            retry_after_s=fault.retry_after_s,
        )

    def _problem(self, fault: Fault) -> Response:
        reply = self._reply_of(fault)
        status = problems.status_of(reply)
        body = problems.problem_body(reply, status=status, public_url=self._public_url)
        return (
            status,
            body,
            [
                (b"content-type", problems.PROBLEM_TYPE),
                (b"x-request-id", reply.id.encode()),
                *problems.retry_headers(reply, status),
            ],
        )

    def _livez(self, _: Call) -> Response:
        return 200, b'{"live":true}', _JSON_HEADER

    def _readyz(self, call: Call) -> Response:
        ready, why = self._runtime.readiness()
        if call.scope.get("query_string") == b"verbose":
            lines = [
                f"[{'+' if part.ok else '-'}]{part.name} {'ok' if part.ok else part.why}"
                for part in self._runtime.health()
            ]
            return (200 if ready else 503), "\n".join([*lines, ""]).encode(), _TEXT_HEADER
        return (200 if ready else 503), orjson.dumps({"ready": ready, "why": why}), _retry_if(not ready)

    def _startupz(self, _: Call) -> Response:
        started = not self._house.starting
        return (200 if started else 503), orjson.dumps({"started": started}), _retry_if(not started)

    def _healthz(self, _: Call) -> Response:
        parts = self._runtime.health()
        ok = all(part.ok for part in parts if part.needed)
        body = {
            "ok": ok,
            "components": [
                {
                    "name": part.name,
                    "ok": part.ok,
                    "why": part.why,
                    "since": part.since,
                    "needed": part.needed,
                }
                for part in parts
            ],
        }
        return (200 if ok else 503), orjson.dumps(body), _JSON_HEADER

    def _metrics(self, call: Call) -> Response:
        openmetrics = b"application/openmetrics-text" in call.headers.get(b"accept", b"")
        body, kind = self._runtime.metrics_page(openmetrics=openmetrics)
        return 200, body, [(b"content-type", kind.encode())]

    def _openapi(self, _: Call) -> Response:
        served = [
            (service.live.engine.description, service.live.label) for service in self._house.services.values()
        ]
        return (
            200,
            orjson.dumps(openapi.document(served, public_url=self._public_url, version=__version__)),
            _JSON_HEADER,
        )

    def _problem_page(self, name: str) -> Response:
        page = problems.page_of(name)
        if page is None:
            raise Refusal(
                "No failure mode has this name.",
                failure="unknown_service",
                hint=f"Names: {', '.join(sorted(CATALOGUE))}.",
            )
        return 200, orjson.dumps(page), _JSON_HEADER

    def _runbook_page(self, call: Call, name: str) -> Response:
        """Return a page; with a key that may see status, filled with live values (`?service=` names whose)."""
        page = runbooks.page(name)
        if page is None:
            raise Refusal(
                "No runbook has this name.",
                failure="unknown_service",
                hint=f"Names: {', '.join(sorted(CATALOGUE))}.",
            )
        headers: Headers = [(b"content-type", b"text/markdown; charset=utf-8")]
        if call.token() is not None and self._admin.may_see_status(call):
            query = parse_qs(call.scope.get("query_string", b"").decode("latin-1"))
            page = self._runtime.runbook(page.decode(), name, query.get("service", [""])[0]).encode()
            headers.append(_NO_STORE)
        return 200, page, headers

    def _oip_server(self, _: Call) -> Response:
        return 200, orjson.dumps(oip.server_metadata()), _JSON_HEADER

    def _oip_live(self, _: Call) -> Response:
        return 200, b'{"live":true}', _JSON_HEADER

    def _oip_ready(self, _: Call) -> Response:
        ready, _why = self._runtime.readiness()
        return (200 if ready else 503), orjson.dumps({"live": True, "ready": ready}), _JSON_HEADER

    def _oip_model(self, name: str, version: str | None, *, ready: bool) -> Response:
        served = self._house.services.get(name)
        # Of a canary only who asks for it by name: without a version the live release speaks.
        answering = (served.live, served.canary) if served is not None else ()
        release = next((one for one in answering if one and version in (None, one.label)), None)
        chat = None if release is None else release.engine.description.chat
        if release is None or (chat is not None and not chat.is_typed):
            return 404, oip.error_body("no model of this name and version is served here"), _JSON_HEADER
        if ready:
            is_ready = release.engine.is_ready() and not self._house.draining
            return (200 if is_ready else 503), orjson.dumps(oip.model_ready(name, is_ready)), _JSON_HEADER
        return 200, orjson.dumps(oip.model_metadata(release.engine.description, release.label)), _JSON_HEADER


def _context(call: Call) -> Context | None:
    """Read the caller's trace. A state may come in several headers, which count as one (RFC 9110)."""
    states = [value for name, value in call.scope["headers"] if name == b"tracestate"]
    return read_context(call.headers[b"traceparent"].decode("latin-1"), b",".join(states).decode("latin-1"))


def _need_get(method: str) -> None:
    if method not in ("GET", "HEAD"):
        raise _wrong_method(method, "GET")


class _WrongMethod(Refusal):
    """The path is right, the method is not."""

    code = "malformed_request"
    allow = "GET"


def _allow(fault: Fault | None) -> Headers:
    """Return the Allow header that RFC 9110 asks of a 405."""
    return [(b"allow", fault.allow.encode())] if isinstance(fault, _WrongMethod) else []


def _wrong_method(method: str, right: str) -> Refusal:
    known = (
        method
        if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
        else "This method"
    )
    refusal = _WrongMethod(f"{known} is not for this path.", status=405, hint=f"Use {right}.")
    refusal.allow = "GET, HEAD" if right == "GET" else right
    return refusal


def _compressed() -> Refusal:
    return Refusal(
        "The body is compressed.",
        failure="unsupported_media_type",
        hint="Send it plain; nothing is decompressed.",
    )


def _wrong_media_type(headers: dict[bytes, bytes]) -> Refusal | None:
    """Return the refusal of a body that does not say it is JSON in UTF-8; None if it may be read."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return _compressed()
    given = headers.get(b"content-type")
    if given is None or given == b"application/json":
        return None
    kind, _, parameters = given.lower().partition(b";")
    kind = kind.strip()
    if kind not in _JSON_TYPES and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        return Refusal(
            "The content type is not JSON.",
            failure="unsupported_media_type",
            hint="Send `Content-Type: application/json`.",
        )
    for parameter in parameters.split(b";"):
        name, _, value = parameter.strip().partition(b"=")
        if name == b"charset" and value.strip(b'" ') not in (b"utf-8", b"utf8", b"us-ascii"):
            return Refusal(
                "The charset is not UTF-8.", failure="unsupported_media_type", hint="Send the JSON in UTF-8."
            )
    return None


def _timeout_ms(value: bytes, *, repeated: bool) -> tuple[float | None, Refusal | None]:
    if not repeated and _TIMEOUT.fullmatch(value.strip()) and (timeout_ms := float(value)) > 0:
        return timeout_ms, None
    return None, Refusal(
        "The header x-request-timeout-ms is not one positive number of milliseconds.",
        failure="malformed_request",
        status=400,
        hint="Send it once, for example x-request-timeout-ms: 250.",
    )


def _docs(path: str) -> Response:
    found = docs_page.page() if path == "/docs" else docs_page.asset(path.removeprefix("/docs/"))
    if found is None:
        raise Refusal("The documentation has no such file.", failure="unknown_service", hint="Open /docs.")
    content, kind = found
    return 200, content, [(b"content-type", kind.encode()), *_PAGE_POLICY]


def _retry_if(waiting: bool) -> Headers:
    return [*_JSON_HEADER, (b"retry-after", b"1")] if waiting else _JSON_HEADER


async def _send(send: Send, status: int, body: bytes, headers: Headers, *, head_only: bool = False) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head_only else body})
