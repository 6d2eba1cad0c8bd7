"""Couriers and receivers on real sockets: down, slow, refusing, redirecting, cut off; and what is signed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook as Verifying
from standardwebhooks.webhooks import WebhookVerificationError

from nightproof.base.clock import utc_us
from nightproof.base.errors import SettingError
from nightproof.settings.settings import AlertSettings, NotifySettings, Settings
from nightproof.storage.alert_store import (
    AlertStore,
    DropParcel,
    PutAlert,
    PutCounts,
    PutParcel,
    PutUnrecorded,
    TouchParcel,
)
from nightproof.watch.notify.alertmanager import alert_body
from nightproof.watch.notify.apprise import Apprise
from nightproof.watch.notify.courier import Courier, Delivery, Parcel
from nightproof.watch.notify.message import Message, ToldAlert
from nightproof.watch.notify.post import NotDelivered, Sender
from nightproof.watch.notify.receivers import receivers_of
from nightproof.watch.notify.webhook import Webhook
from tests.receivers import Hook, hook
from tests.serving import free_port

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
QUICK = NotifySettings(within_s=0.5, backoff_first_s=0.02, backoff_most_s=0.1)


def alert(name: str = "NightproofModelTimeout", state: str = "firing") -> ToldAlert:
    """Return an alert to be told."""
    now_us = utc_us()
    return ToldAlert(
        id=f"id-{name}", alertname=name, service="loans", failure="model_timeout", severity="page",
        state=state, title="The model ran over its time", why="4 of 4 requests",  # type: ignore[arg-type]
        starts_us=now_us - 1_000_000, ends_us=0 if state == "firing" else now_us,
        runbook_url="http://here/runbooks/model_timeout",
    )  # fmt: skip


def message(number: int = 1, state: str = "firing") -> Message:
    """Return a message."""
    return Message(
        id=f"msg_{number:03}",
        at_us=utc_us(),
        instance="here:8000",
        service="loans",
        alerts=(alert(state=state),),
    )


async def until(holds: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait on the loop until it holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


def running(work: Callable[[Sender], Awaitable[None]], *, within_s: float = 0.5) -> None:
    """Run a test with a sender."""

    async def run() -> None:
        sender = Sender(within_s)
        try:
            await work(sender)
        finally:
            await sender.close()

    asyncio.run(run())


def courier_to(
    one: Hook | str, sender: Sender, settings: NotifySettings = QUICK
) -> tuple[Courier, list[Delivery]]:
    """Return a courier to a webhook, and the list of what became of its parcels."""
    seen: list[Delivery] = []

    async def on_delivery(delivery: Delivery) -> None:
        seen.append(delivery)

    url = one if isinstance(one, str) else one.url
    return Courier(Webhook(url, sender, secret=SECRET), settings, on_delivery), seen


def test_a_webhook_is_signed_so_that_standard_webhooks_own_library_verifies_it():
    with hook() as one:
        running(lambda sender: Webhook(one.url, sender, secret=SECRET).tell(message(), now_us=utc_us()))
        (got,) = one.took

    told = Verifying(SECRET).verify(got.body, got.headers)

    assert told["alerts"][0]["labels"] == {
        "alertname": "NightproofModelTimeout", "service": "loans", "failure": "model_timeout",
        "severity": "page", "instance": "here:8000",
    }  # fmt: skip
    assert told["alerts"][0]["annotations"]["runbook_url"] == "http://here/runbooks/model_timeout"
    assert got.headers["webhook-id"] == told["id"] == "msg_001"
    with pytest.raises(WebhookVerificationError):
        Verifying(SECRET).verify(got.body.replace(b"loans", b"cards"), got.headers)


def test_a_secret_that_is_none_is_refused_at_the_start():
    settings = Settings(notify=NotifySettings(webhook="http://127.0.0.1:1/", webhook_secret="whsec_short"))

    with pytest.raises(SettingError, match="no secret"):
        receivers_of(settings, Sender(1.0))


def test_an_alert_for_alertmanager_never_starts_in_the_future_nor_ends_before_its_start():
    early_us = utc_us() - 3_600_000_000

    firing = alert_body(alert(), instance="here", now_us=early_us, held_us=240_000_000)
    over = alert_body(alert(state="resolved"), instance="here", now_us=early_us, held_us=240_000_000)

    assert firing["startsAt"] < firing["endsAt"]
    assert over["startsAt"] < over["endsAt"]


def test_messages_wait_for_a_receiver_that_is_down_and_arrive_once_each_in_their_order():
    port = free_port()

    async def work(sender: Sender) -> None:
        courier, seen = courier_to(f"http://127.0.0.1:{port}/hook", sender)
        task = asyncio.create_task(courier.run())
        for number in range(20):
            courier.put(Parcel(message=message(number)))
        await until(lambda: courier.snapshot().failed >= 3)
        assert "refused" in courier.snapshot().why.lower()
        with hook(port) as one:
            await until(lambda: len(one.took) == 20)
            await until(lambda: courier.snapshot().waiting == 0)
        task.cancel()
        assert [got.headers["webhook-id"] for got in one.took] == [f"msg_{number:03}" for number in range(20)]
        assert sum(delivery.outcome == "delivered" for delivery in seen) == 20
        assert courier.snapshot().why == ""

    running(work)


@pytest.mark.parametrize("trouble", ["slow", "500", "cut"])
def test_a_receiver_that_is_slow_refuses_or_hangs_up_is_tried_again_with_the_same_id(trouble):
    async def work(sender: Sender) -> None:
        with hook() as one:
            one.slow_s = 1.0 if trouble == "slow" else 0.0
            one.answers = 500 if trouble == "500" else 200
            one.cut = trouble == "cut"
            courier, seen = courier_to(one, sender, NotifySettings(within_s=0.2, backoff_first_s=0.02))
            task = asyncio.create_task(courier.run())
            courier.put(Parcel(message=message()))
            await until(lambda: courier.snapshot().failed >= 2)
            one.slow_s, one.answers, one.cut = 0.0, 200, False
            await until(lambda: seen[-1].outcome == "delivered")
            task.cancel()
            assert {got.headers["webhook-id"] for got in one.took + one.refused} == {"msg_001"}

    running(work, within_s=0.2)


def test_a_redirect_is_not_followed_to_wherever_it_leads():
    with hook() as private, hook() as one:
        one.answers, one.location = 307, private.url

        async def work(sender: Sender) -> None:
            with pytest.raises(NotDelivered, match="redirects, which is not followed"):
                await Webhook(one.url, sender, secret="").tell(message(), now_us=utc_us())

        running(work)

        assert private.took == []


def test_a_message_that_is_refused_for_good_is_given_up_after_three_tries_and_the_next_goes_out():
    async def work(sender: Sender) -> None:
        with hook() as one:
            one.answers = 422
            courier, seen = courier_to(one, sender)
            task = asyncio.create_task(courier.run())
            courier.put(Parcel(message=message(1)))
            await until(lambda: bool(seen) and seen[-1].outcome == "given_up")
            one.answers = 200
            courier.put(Parcel(message=message(2)))
            await until(lambda: courier.snapshot().waiting == 0)
            task.cancel()
            assert [delivery.attempts for delivery in seen if delivery.outcome == "given_up"] == [3]
            assert [got.headers["webhook-id"] for got in one.took] == ["msg_002"]

    running(work)


def test_a_message_is_given_up_after_its_time_which_counts_on_over_restarts():
    async def work(sender: Sender) -> None:
        settings = NotifySettings(within_s=0.2, backoff_first_s=0.02, give_up_after_h=1.0)
        courier, seen = courier_to(f"http://127.0.0.1:{free_port()}/", sender, settings)
        task = asyncio.create_task(courier.run())
        courier.put(Parcel(message=message(1), attempts=60, waited_s=3_600.5))
        await until(lambda: bool(seen))
        task.cancel()
        assert seen[0].outcome == "given_up"
        assert courier.snapshot().given_up == 1

    running(work)


def test_a_fault_in_a_receivers_own_code_does_not_end_its_courier():
    class Broken:
        name = "broken"
        tries = 0

        async def tell(self, message: Message, *, now_us: int) -> str:
            self.tries += 1
            if self.tries < 3:
                raise RuntimeError("somebody else's mistake")
            return "ok"

        async def keep_up(self, firing: object, *, instance: str, now_us: int) -> None: ...

    async def work() -> None:
        async def on_delivery(delivery: Delivery) -> None: ...

        courier = Courier(Broken(), QUICK, on_delivery)
        task = asyncio.create_task(courier.run())
        courier.put(Parcel(message=message()))
        await until(lambda: courier.snapshot().delivered == 1)
        task.cancel()

    asyncio.run(work())


def test_apprise_sends_to_what_it_knows_and_follows_no_redirect():
    with hook() as one, hook() as private:
        receiver = Apprise(f"json://127.0.0.1:{one.port}/hook", within_s=5.0)

        answer = asyncio.run(receiver.tell(message(), now_us=utc_us()))
        one.answers, one.location = 307, private.url
        with pytest.raises(NotDelivered):
            asyncio.run(receiver.tell(message(), now_us=utc_us()))

        told = one.took[0].json

    assert answer == "sent"
    assert "FIRING" in told["title"]
    assert "http://here/runbooks/model_timeout" in told["message"]
    assert private.took == []
    assert "127.0.0.1" not in receiver.name, "an address of Apprise's may be a secret"


def test_an_address_that_apprise_does_not_know_is_refused_at_the_start():
    with pytest.raises(SettingError, match="not one that Apprise takes"):
        Apprise("pigeon://coop", within_s=1.0)


def test_every_kind_of_receiver_is_made_of_the_settings(tmp_path: Path):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "urls").write_text("# chat\njson://127.0.0.1:9/\n\n")
    settings = Settings(
        alertmanager="http://127.0.0.1:9093 http://127.0.0.1:9094",
        alerts=AlertSettings(),
        notify=NotifySettings(
            webhook="http://127.0.0.1:9/hook",
            webhook_secret_file=tmp_path / "secret",
            apprise_file=tmp_path / "urls",
        ),
    )

    names = [one.name for one in receivers_of(settings, Sender(1.0))]

    assert names[:2] == ["alertmanager 127.0.0.1:9093", "alertmanager 127.0.0.1:9094"]
    assert names[2].startswith("webhook 127.0.0.1:9 ")
    assert names[3].startswith("apprise json ")


def test_two_alertmanagers_behind_one_host_are_two_receivers():
    settings = Settings(alertmanager="http://am/ours http://am/theirs http://am http://am/api/v2/alerts")

    names = [one.name for one in receivers_of(settings, Sender(1.0))]

    assert len(set(names)) == len(names) == 3, "the last two are one"
    assert "alertmanager am" in names


def test_what_is_kept_comes_back_in_its_order_and_a_change_is_kept_whole_or_not_at_all(tmp_path: Path):
    store = AlertStore(tmp_path / "alerts.db")
    store.apply(
        [
            PutAlert("a", b"1"),
            PutParcel("hook", "m2", b"two"),
            PutParcel("hook", "m1", b"one"),
            PutParcel("mail", "m2", b"two"),
            PutUnrecorded("a-firing", b"{}"),
            PutCounts("loans", 10, b"{}", 0),
        ]
    )
    store.apply([PutAlert("a", b"2"), DropParcel("hook", "m2"), TouchParcel("hook", "m1", 3, 4.5)])
    with pytest.raises(TypeError):
        store.apply([PutAlert("b", b"1"), PutAlert("c", object())])  # type: ignore[arg-type]
    store.close()

    kept = AlertStore(tmp_path / "alerts.db").read()

    assert kept.alerts == [b"2"]
    assert [(one.receiver, one.id, one.attempts, one.waited_s) for one in kept.parcels] == [
        ("hook", "m1", 3, 4.5),
        ("mail", "m2", 0, 0.0),
    ]
    assert kept.unrecorded == [("a-firing", b"{}")]
    assert os.stat(tmp_path / "alerts.db").st_mode & 0o077 == 0
    assert json.dumps(kept.counts[0][0]) == '"loans"'
