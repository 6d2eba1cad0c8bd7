"""Callers who send what nobody expects: bytes that are no request, inputs that do not fit, keys used twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from nightproof.base.alerting import ALERT_SHARES
from nightproof.declare.describe import Description
from nightproof.drills import judge
from nightproof.drills.drill import CannotRun, Drill, NotApplicable
from nightproof.drills.faults import wire
from nightproof.drills.promise import Promise, promised
from nightproof.drills.scene import Scene

_FUZZ = ("OWASP API8", "ATLAS AML.T0043")
_FLOOD = ("OWASP API4", "ATLAS AML.T0029")


def unharmed(failure: str, *, recorded: bool = True) -> Callable[[Description], Promise]:
    """Promise that the crowd notices nothing of what one caller does wrong, and that nobody is woken by that."""

    def make(declared: Description) -> Promise:
        share = ALERT_SHARES.get(failure, 0.05)
        why = f"a caller's mistake; only a share above {share:.0%} of all requests is news"
        return promised(declared, failure, shelter="all", recorded=recorded, alert="", no_alert_why=why)

    return make


def bodies_that_are_no_json(record: Any) -> list[tuple[str, bytes]]:
    """Return bodies that no service takes, by what is wrong with them; a good one says what its fields are called."""
    text = json.dumps(record).encode()
    name = next(iter(record), "x")
    pair = f'"{name}": 1'.encode()
    return [
        ("nothing", b""),
        ("an open brace", b"{"),
        ("cut in half", text[: len(text) // 2]),
        ("bytes behind it", text + b" x"),
        ("a key twice", b"{" + pair + b", " + pair + b"}"),
        ("NaN", f'{{"{name}": NaN}}'.encode()),
        ("Infinity", f'{{"{name}": -Infinity}}'.encode()),
        ("1e999", f'{{"{name}": 1e999}}'.encode()),
        ("an integer of 5,000 digits", f'{{"{name}": {"9" * 5_000}}}'.encode()),
        ("100,000 open brackets", b"[" * 100_000),
        ("objects in objects", b'{"a":' * 500 + b"1" + b"}" * 500),
        ("single quotes", b"{'a': 1}"),
        ("a comment", b'{"a": 1 /* why */}'),
        ("random bytes", bytes(range(256))),
        ("gzip", b"\x1f\x8b\x08\x00" + b"x" * 60),
        ("60,000 keys", b"{" + b",".join(b'"k%d":1' % number for number in range(60_000)) + b"}"),
    ]


def requests_that_are_no_http(path: str) -> list[tuple[str, bytes]]:
    """Return whole requests that break HTTP itself."""
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\n".encode()
    return [
        ("length and chunked", head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("two lengths", head + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
        ("a signed length", head + b"Content-Length: +4\r\n\r\nabcd"),
        ("an endless length", head + b"Content-Length: " + b"9" * 31 + b"\r\n\r\n"),
        ("an unknown coding", head + b"Transfer-Encoding: xchunked\r\n\r\n"),
        ("a negative chunk", head + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
        ("a folded header", head + b"X: a\r\n b\r\n\r\n"),
        ("a bare line feed", head + b"X: a\nY: b\r\n\r\n"),
        ("NUL in a header", head + b"X: a\0b\r\n\r\n"),
        ("a space before the colon", head + b"X : a\r\n\r\n"),
        ("no host", b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: here\r\nHost: there\r\n\r\n"),
        ("HTTP/3.7", b"GET / HTTP/3.7\r\nHost: here\r\n\r\n"),
        ("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("TLS on the plain port", bytes.fromhex("16030100c8010000c40303") + bytes(200)),
        ("garbage", bytes(range(1, 256))),
    ]


def claim_told(scene: Scene, what: str, answers: Sequence[tuple[str, str]], *, wanted: Sequence[str]) -> None:
    """Claim that every one of these was told one of the wanted things."""
    scene.claim(
        judge.claim_all(
            "contained", what, answers, promised=" or ".join(wanted), good=lambda told: str(told) in wanted
        )
    )


def _malformed(scene: Scene) -> None:
    record, path = scene.inputs.good()[0], f"/services/{scene.stage.service}/predict"
    with scene.fault():
        answers = [(name, wire.told(scene.ask(body))) for name, body in bodies_that_are_no_json(record)]
        framing = [
            (name, wire.told(wire.send_raw(scene, raw))) for name, raw in requests_that_are_no_http(path)
        ]
    claim_told(
        scene, "bodies that are no JSON", answers,
        wanted=("400 malformed_request", "422 invalid_input", "413 oversized_request"),
    )  # fmt: skip
    claim_told(scene, "requests that are no HTTP", framing, wanted=("400 malformed_request",))


def _invalid(scene: Scene) -> None:
    broken = scene.inputs.broken()
    if not broken:
        raise CannotRun("nothing is known of the input that could be broken")
    with scene.fault():
        answers = [(name, wire.told(scene.ask(record))) for name, record in broken.items()]
        scene.send_too(list(broken.values()), rate_per_s=60.0)
        scene.hold_until_alert(at_least_s=3.0)
    claim_told(scene, "inputs that do not fit", answers, wanted=("422 invalid_input",))


def _unknown_service(scene: Scene) -> None:
    record = scene.inputs.good()[0]
    paths = ("/services/no-such/predict", "/services/%2e%2e/predict", "/nothing", "/services//predict")
    with scene.fault():
        answers = [(path, wire.told(scene.ask(record, path=path))) for path in paths]
        other = scene.ask(record, path="/v2/models/no-such/infer")
    claim_told(
        scene, "what is not served here", answers, wanted=("404 unknown_service", "404 malformed_request")
    )
    scene.claim(judge.claim_equal("contained", "the same under /v2", promised=404, seen=other.status))


def _oversized(scene: Scene) -> None:
    record = scene.inputs.good()[0]
    with scene.fault():
        before = scene.stage.memory_bytes()
        announced = wire.send_raw(scene, wire.head_of(scene, 1 << 30))
        sent = scene.ask(b"[" + b" " * (2 << 20) + b"]")
        several = [record] * (scene.declared.max_items + 1)
        many = sent if scene.stage.place.chat else scene.ask(several)  # a chat is never one of several
        grown = scene.stage.memory_bytes() - before
    claim_told(
        scene, "what is too large",
        [(name, wire.told(one)) for name, one in (("announced", announced), ("sent", sent), ("too many", many))],
        wanted=("413 oversized_request",),
    )  # fmt: skip
    scene.claim(
        judge.claim_at_most(
            "contained", "memory that it cost", promised=256.0, seen=max(0.0, grown / 1e6), unit=" MB"
        )
    )


def _large_headers(scene: Scene) -> None:
    head = f"POST /services/{scene.stage.service}/predict HTTP/1.1\r\nHost: here\r\n".encode()
    cases = [
        ("one of 70 KiB", head + b"X: " + b"v" * 71_680 + b"\r\n\r\n"),
        ("5,000 of them", head + b"".join(b"X-%d: v\r\n" % number for number in range(5_000)) + b"\r\n"),
        ("a name of 1 MiB", head + b"v" * 1_048_576),
    ]
    with scene.fault():
        answers = [(name, wire.told(wire.send_raw(scene, raw))) for name, raw in cases]
        url = wire.send_raw(scene, b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: here\r\n\r\n")
    claim_told(scene, "headers", answers, wanted=("431 headers_too_large",))
    claim_told(scene, "a URL of 200 KB", [("it", wire.told(url))], wanted=("414 malformed_request",))


def _content_type(scene: Scene) -> None:
    body = json.dumps(scene.inputs.good()[0]).encode()
    cases: list[dict[str, str]] = [
        {"content-type": "text/plain"}, {"content-type": "application/xml"}, {"content-encoding": "gzip"},
        {"content-type": "application/json; charset=latin-1"}, {"content-encoding": "br"},
        {"content-type": "multipart/form-data; boundary=x"},
    ]  # fmt: skip
    with scene.fault():
        answers = [(str(headers), wire.told(scene.ask(body, headers=headers))) for headers in cases]
    claim_told(scene, "other types and encodings", answers, wanted=("415 unsupported_media_type",))


def _idempotency(scene: Scene) -> None:
    good = scene.inputs.good()
    if len(good) < 2:
        raise NotApplicable("the service has only one golden case, and two inputs are needed")
    key = {"idempotency-key": f"drill-{scene.seed}-{int(scene.began_s)}"}
    with scene.fault():
        first = scene.ask(good[0], headers=key)
        again = scene.ask(good[0], headers=key)
        other = scene.ask(good[1], headers=key)
    claim_told(
        scene,
        "another body under the same key",
        [("it", wire.told(other))],
        wanted=("422 idempotency_conflict",),
    )
    scene.claim(
        judge.claim_equal(
            "contained",
            "the same body again",
            promised=first.told.get("output"),
            seen=again.told.get("output"),
        )
    )


DRILLS = [
    Drill(
        name="malformed_corpus",
        group="input",
        breaks="32 requests that are no JSON, or no HTTP at all",
        proves=("malformed_request",),
        promise=unharmed("malformed_request"),
        act=_malformed,
        is_quick=True,
        in_soak=True,
        frameworks=_FUZZ,
    ),
    Drill(
        name="invalid_input",
        group="input",
        breaks="a flood of inputs that do not fit the schema: another type, out of range, unknown fields",
        proves=("invalid_input",),
        promise=lambda declared: promised(declared, "invalid_input", shelter="named"),
        act=_invalid,
        in_soak=True,
        frameworks=_FUZZ,
    ),
    Drill(
        name="unknown_service",
        group="input",
        breaks="requests for services that are not here",
        proves=("unknown_service",),
        promise=unharmed("unknown_service"),
        act=_unknown_service,
        in_soak=True,
    ),
    Drill(
        name="oversized_body",
        group="input",
        breaks="a body of 1 GiB announced, 2 MiB sent, and too many records",
        proves=("oversized_request",),
        promise=unharmed("oversized_request"),
        act=_oversized,
        in_soak=True,
        frameworks=_FLOOD,
    ),
    Drill(
        name="large_headers",
        group="input",
        breaks="headers of 70 KiB, 5,000 headers, a URL of 200 KB",
        proves=("headers_too_large",),
        promise=unharmed("headers_too_large"),
        act=_large_headers,
        in_soak=True,
        frameworks=_FLOOD,
    ),
    Drill(
        name="wrong_content_type",
        group="input",
        breaks="bodies of another type, charset or encoding",
        proves=("unsupported_media_type",),
        promise=unharmed("unsupported_media_type"),
        act=_content_type,
        in_soak=True,
    ),
    Drill(
        name="idempotency_conflict",
        group="input",
        breaks="one idempotency key for two different requests",
        proves=("idempotency_conflict",),
        promise=unharmed("idempotency_conflict"),
        act=_idempotency,
        in_soak=True,
    ),
]
