"""Who may call, and who may not: keys, roles, services, expiry, revocation; and what a stranger leaves behind."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner

from nightproof.cli.main import cli
from nightproof.storage.keyring import new_token
from tests.books import books_balance, entries_of, read_books
from tests.serving import Served, control_socket, run_nightproof, serving, wait_until

GOOD = {"text": "a"}


def ask(served: Served, key: str | None = None, **headers: str) -> httpx.Response:
    """Ask for a prediction with this key and nothing of the usual client's."""
    request = served.client.build_request("POST", "/services/mirror/predict", json=GOOD)
    del request.headers["authorization"]
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    if key is not None:
        request.headers["authorization"] = f"Bearer {key}"
    return served.client.send(request)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return a refusal's status and name."""
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["failure"]


def run(*arguments: str, env: dict[str, str] | None = None) -> click.testing.Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, arguments, env=env)


def keys(state: Path, *arguments: str) -> Any:
    """Run a verb on keys; return what it prints as JSON."""
    done = run("keys", *arguments, "--state", str(state), "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def key_of(served: Served, role: str = "predict", **more: Any) -> dict[str, Any]:
    """Make a key over the control socket, as the verb does."""
    made: dict[str, Any] = served.operate("POST", "/admin/keys", {"role": role, **more}).json()
    return made


# -- the key --------------------------------------------------------------------------------------------


def test_a_good_key_is_let_in_however_its_scheme_is_written(mirror: Served):
    assert ask(mirror, mirror.key).status_code == 200
    assert ask(mirror, authorization=f"bearer {mirror.key}").status_code == 200
    assert ask(mirror, authorization=f"BEARER   {mirror.key}").status_code == 200


def other_last_sign(key: str) -> str:
    """Spoil a key's checksum."""
    return key[:-1] + ("a" if key[-1] != "a" else "b")


@pytest.mark.parametrize(
    "headers",
    [
        lambda key: {},
        lambda key: {"authorization": ""},
        lambda key: {"authorization": "Bearer"},
        lambda key: {"authorization": "Bearer ,"},
        lambda key: {"authorization": key},
        lambda key: {"authorization": f"Basic {key}"},
        lambda key: {"authorization": f"Token {key}"},
        lambda key: {"authorization": f"Bearer {key} {key}"},
        lambda key: {"authorization": f'Bearer "{key}"'},
        lambda key: {"x_api_key": key},
        lambda key: {"cookie": f"key={key}"},
        lambda key: {"authorization": f"Bearer {other_last_sign(key)}"},
        lambda key: {"authorization": f"Bearer {key[:-1]}"},
        lambda key: {"authorization": f"Bearer {key}A"},
        lambda key: {"authorization": f"Bearer {key.swapcase()}"},
        lambda key: {"authorization": f"Bearer {new_token()}"},
        lambda key: {"authorization": "Bearer " + "x" * 5_000},
    ],
)
def test_anything_but_a_good_bearer_key_is_a_stranger(mirror: Served, headers: Any):
    answer = ask(mirror, **headers(mirror.key))

    assert problem(answer) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in answer.headers


def test_a_key_in_the_address_is_not_read(mirror: Served):
    answer = httpx.post(
        f"{mirror.base_url}/services/mirror/predict",
        json=GOOD,
        params={"key": mirror.key, "api_key": mirror.key, "access_token": mirror.key},
    )

    assert problem(answer) == (401, "unauthenticated")
    assert mirror.key not in answer.text


def test_two_keys_are_no_key(mirror: Served):
    """Whichever a proxy before us went by, we might go by the other."""
    headers = [("authorization", f"Bearer {mirror.key}"), ("authorization", "Bearer other")]

    answer = mirror.client.post("/services/mirror/predict", json=GOOD, headers=headers)

    assert problem(answer) == (401, "unauthenticated")


def test_a_stranger_is_told_nothing_about_services_or_bodies(mirror: Served):
    for path in ("/services/mirror/predict", "/services/no-such/predict"):
        answer = httpx.post(f"{mirror.base_url}{path}", content=b"{", headers={"content-type": "text/plain"})
        assert problem(answer) == (401, "unauthenticated")
    assert problem(httpx.get(f"{mirror.base_url}/services/mirror/predict")) == (401, "unauthenticated")


# -- roles, services, time ------------------------------------------------------------------------------


def test_a_key_does_only_what_its_role_allows(mirror: Served):
    audit, operate = key_of(mirror, "audit")["key"], key_of(mirror, "operate")["key"]

    def status(key: str, path: str = "/admin/status") -> int:
        return mirror.client.get(path, headers={"authorization": f"Bearer {key}"}).status_code

    assert problem(ask(mirror, audit)) == (403, "forbidden")
    assert ask(mirror, operate).status_code == 200
    assert [status(key) for key in (mirror.key, audit, operate)] == [403, 403, 200]
    assert [status(key, "/admin/keys") for key in (mirror.key, audit, operate)] == [403, 403, 403]
    assert [status(key, "/admin/quarantine") for key in (mirror.key, audit, operate)] == [403, 403, 200]
    assert status(new_token()) == 401


def test_the_operators_routes_tell_a_stranger_what_is_missing(mirror: Served):
    answer = httpx.get(f"{mirror.base_url}/admin/status")

    assert problem(answer) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_narrowed_to_another_service_is_refused_and_recorded(mirror: Served):
    made = key_of(mirror, services=["credit"], name="narrow")

    answer = ask(mirror, made["key"])

    assert problem(answer) == (403, "forbidden")
    (entry,) = [entry for entry in entries_of(mirror.state) if entry.id == answer.headers["x-request-id"]]
    leaf = json.loads(entry.leaf)
    assert (leaf["key"], leaf["ending"], leaf["failure"], leaf["service"]) == (
        made["id"], "refused", "forbidden", "mirror",
    )  # fmt: skip


def test_a_key_narrowed_to_this_service_is_let_in(mirror: Served):
    made = keys(mirror.state, "create", "--role", "predict", "--service", "credit", "--service", "mirror")

    assert made["services"] == ["credit", "mirror"]
    assert ask(mirror, made["key"]).status_code == 200


def test_an_unknown_service_is_a_404_to_who_is_known(mirror: Served):
    answer = mirror.client.post("/services/no-such/predict", json=GOOD)

    assert problem(answer) == (404, "unknown_service")


def test_a_key_ends_at_its_time(mirror: Served):
    made = key_of(mirror, expires_days=0.5 / 86_400)
    first = ask(mirror, made["key"]).status_code

    wait_until(lambda: ask(mirror, made["key"]).status_code == 401, within_s=3)

    (shown,) = [key for key in keys(mirror.state, "list") if key["id"] == made["id"]]
    assert first == 200
    assert shown["state"] == "expired"


def test_a_revoked_key_is_out_within_a_second(mirror: Served):
    made = key_of(mirror)
    assert ask(mirror, made["key"]).status_code == 200

    revoked = keys(mirror.state, "revoke", made["id"])
    began_s = time.monotonic()
    wait_until(lambda: ask(mirror, made["key"]).status_code == 401, within_s=1)

    assert revoked["state"] == "revoked"
    assert time.monotonic() - began_s < 1
    acts = [leaf for leaf in read_books(mirror.state).operators if leaf.get("target") == made["id"]]
    assert [leaf["act"] for leaf in acts] == ["keys.create", "keys.revoke"]


# -- the verbs ------------------------------------------------------------------------------------------


def test_keys_are_made_listed_and_revoked_without_a_server(state: Path):
    made = keys(
        state, "create", "--role", "audit", "--name", "[/b] the [red]auditor[/]", "--expires-days", "0"
    )
    shown = run("keys", "list", "--state", str(state))
    revoked = keys(state, "revoke", made["id"])

    assert made["key"].startswith("npk_live_")
    assert made["expires"] is None
    assert shown.exit_code == 0
    assert made["id"] in shown.stdout
    assert "[/b] the" in shown.stdout
    assert made["key"] not in shown.stdout
    assert revoked["state"] == "revoked"
    acts = [json.loads(entry.leaf) for entry in entries_of(state)]
    assert [(leaf["act"], leaf["who"], leaf["target"]) for leaf in acts] == [
        ("keys.create", "local", made["id"]), ("keys.revoke", "local", made["id"]),
    ]  # fmt: skip


def test_a_made_key_is_printed_once_and_alone_so_that_it_can_be_caught(state: Path):
    made = run_nightproof("keys", "create", "--role", "predict", "--state", str(state))

    assert made.stdout.strip().startswith("npk_live_")
    assert len(made.stdout.split()) == 1
    assert "shown once" in made.stderr


def test_a_token_is_nowhere_in_the_state_folder_nor_in_the_log(mirror: Served):
    made = key_of(mirror)
    assert ask(mirror, made["key"]).status_code == 200
    secret = made["key"].removeprefix("npk_live_").encode()

    files = [path for path in mirror.state.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in [*files, mirror.log]:
        assert secret not in path.read_bytes(), path


def test_the_last_use_of_a_key_is_seen(mirror: Served):
    made = key_of(mirror)
    ask(mirror, made["key"])

    def is_seen() -> bool:
        return any(
            key["id"] == made["id"] and key["last_used"]
            for key in mirror.operate("GET", "/admin/keys").json()
        )

    wait_until(is_seen, within_s=3)


def test_keys_can_be_made_from_afar_with_an_admin_key_only(mirror: Served):
    admin = key_of(mirror, "admin")["key"]
    afar = ("keys", "create", "--role", "predict", "--json", "--url", mirror.base_url)

    good = run(*afar, env={"NIGHTPROOF_KEY": admin})
    weak = run(*afar, env={"NIGHTPROOF_KEY": mirror.key})
    none = run(*afar, env={"NIGHTPROOF_KEY": ""})

    assert (good.exit_code, weak.exit_code, none.exit_code) == (0, 1, 1)
    assert ask(mirror, json.loads(good.stdout)["key"]).status_code == 200
    assert "forbidden" in weak.stderr
    assert "unauthenticated" in none.stderr
    assert mirror.key not in weak.stderr


def test_revoking_what_is_not_there_says_so_online_and_offline(mirror: Served, state: Path):
    online = run("keys", "revoke", "key_000000000000", "--state", str(mirror.state))
    offline = run("keys", "revoke", "key_000000000000", "--state", str(state))

    assert (online.exit_code, offline.exit_code) == (1, 1)
    assert "There is no key key_000000000000" in online.stderr
    assert "There is no key key_000000000000" in offline.stderr


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400), (b'{"role":"king"}', 422), (b'{"role":"predict","more":1}', 422), (b"[]", 422),
        (b'{"role":"predict","expires_days":-1}', 422), (b'{"role":"predict","expires_days":1e300}', 422),
        (b'{"role":"predict","services":"mirror"}', 422), (b'{"role":"predict","role":"admin"}', 400),
        (b" " * 70_000, 413),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)  # fmt: skip
def test_an_order_for_a_key_is_held_against_its_form(mirror: Served, body: bytes, status: int):
    transport = httpx.HTTPTransport(uds=str(control_socket(mirror.state)))
    with httpx.Client(transport=transport, base_url="http://nightproof") as control:
        before = len(control.get("/admin/keys").json())

        answer = control.post("/admin/keys", content=body)

        assert answer.status_code == status, answer.text
        assert len(control.get("/admin/keys").json()) == before


# -- strangers in numbers -------------------------------------------------------------------------------


def flood(served: Served, requests: list[bytes], *, per_connection: int = 500) -> int:
    """Send requests over kept connections, many at a time; return how many got an answer."""
    answered = 0
    for at in range(0, len(requests), per_connection):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as caller:
            for begin in range(at, min(at + per_connection, len(requests)), 50):
                part = requests[begin : begin + 50]
                caller.sendall(b"".join(part))
                seen, tail = 0, b""
                while seen < len(part):
                    piece = caller.recv(262_144)
                    assert piece, "the server closed a kept connection"
                    data = tail + piece
                    seen += data.count(b"HTTP/1.1 ")
                    tail = data[-8:]
                    if tail.endswith(b"HTTP/1.1"):  # counted with the next piece
                        tail = b"HTTP/1.1"
                answered += seen
    return answered


def request(served: Served, path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Write a request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {served.host}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the mirror for the tests below, with frequent summaries."""
    state = tmp_path_factory.mktemp("own") / "state"
    with serving("mirror", state, "--set", "ledger.summary_every_s=0.5", "--set", "drain_wait_s=0") as served:
        yield served


def test_a_flood_of_strangers_leaves_summaries_only(own: Served):
    """Five thousand requests, a handful of rows; and each of the five thousand is in them."""
    path = "/services/mirror/predict"
    garbage = [
        request(own, path, b'{"text":"a"}'),
        request(own, path, b"\xff" * 40, "authorization: Bearer garbage"),
        request(own, path, b"", f"authorization: Bearer {other_last_sign(own.key)}"),
        request(own, "/services/nothing/predict", b"{}", "content-type: text/plain"),
        request(own, "/wp-login.php", b"", method="GET"),
        request(own, "/v2/models/mirror/infer", b"{}"),
        request(own, "/admin/keys", b"{}"),
        request(own, path, b"", "authorization: Basic eDp4", method="GET"),
    ]
    began_s = time.monotonic()

    answered = flood(own, garbage * 625)
    took_s = time.monotonic() - began_s
    wait_until(lambda: read_books(own.state).total >= 5_000)
    books = read_books(own.state)

    assert answered == books.total == 5_000
    assert books.requests == []
    assert own.predict(GOOD).status_code == 200
    assert len(books.summaries) <= took_s / 0.5 + 3
    size_bytes = sum(
        len(e.leaf) + len(e.payload or b"") for e in entries_of(own.state) if e.kind == "summary"
    )
    assert size_bytes < 20_000
    assert {line["failure"] for line in books.lines} == {"unauthenticated", "unknown_service"}
    assert {line["whose"] for line in books.lines} == {"127.0.0.1"}


def test_whatever_callers_do_every_arrival_has_one_ending_and_one_record(own: Served):
    """The first law, over all that a caller can do in one run. The last test of this server: it stops."""
    name = "/services/mirror/predict"
    headers = [f"{key}: {value}" for key, value in own.headers.items()]
    audit = key_of(own, "audit")["key"]

    endings = [own.predict({"text": f"number {n}"}).status_code for n in range(20)]
    endings += [
        own.predict([{"text": "a"}, {"text": 7}]).status_code,
        own.predict([{"text": 7}] * 3).status_code,
    ]
    endings += [own.predict(GOOD, idempotency_key="twice").status_code for _ in range(2)]
    endings += [own.predict({"text": "b"}, idempotency_key="twice").status_code]
    endings += [
        own.predict_bytes(b"{").status_code,
        own.predict_bytes(b"", content_type="text/plain").status_code,
    ]
    endings += [own.predict({"text": "a", "slow_ms": 300}, x_request_timeout_ms="30").status_code]
    endings += [own.predict({"text": "once", "fail_first": True}).status_code]
    endings += [ask(own, key).status_code for key in (None, "x", audit)]
    endings += [
        own.client.get(path).status_code for path in (name, "/nothing", "/admin/status", "/livez", "/metrics")
    ]
    endings += [own.client.post("/services/nothing/predict", json=GOOD).status_code]
    for begun in (
        request(own, name, b'{"text":"a","slow_ms":500}', *headers),  # leaves while the model works
        request(own, name, b'{"text":"a"}', *headers)[:-6],  # leaves in the middle of the body
        request(own, name, b"", *headers)[:-2],  # leaves in the middle of the head: never a request
        request(own, name, b'{"text":"a"}')[:-6],
        b"garbage\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", own.port), timeout=5) as caller:
            caller.sendall(begun)
            caller.settimeout(0.2)
            try:
                caller.recv(100)
            except TimeoutError:
                pass
    wait_until(lambda: own.status()["in_flight"] == 0)
    wait_until(lambda: sum(own.status()["endings"].values()) == own.status()["arrivals"])

    books = books_balance(own.state, own)

    assert endings.count(200) == 20 + 1 + 2 + 2
    assert books.failures["caller_gone"] == 2  # a stranger has his 401 before his body is read
    assert books.failures["malformed_request"] >= 3
    by_ending = {leaf["ending"] for leaf in books.requests}
    assert by_ending == {"answered", "refused", "failed", "abandoned"}
