"""A runbook page filled with what is true now: names of this server in its commands, and what they print."""

from __future__ import annotations

from nightproof.steer.runbook import Present, fill, grepped, rename

PAGE = """# model_timeout: The model ran over its time
## What it means
Slow.

## What users see
504.

## Look here
```
nightproof status
curl -s localhost:8000/metrics | grep nightproof_events_total | grep -E 'a_(b|c)'
curl -s localhost:8000/metrics | grep nothing_here
nightproof check .nightproof/bundles/DIGEST
```
See `localhost:8000`.

## Do this
```
nightproof rollback credit
nightproof keys create --role predict --service credit --name shop
nightproof check examples/credit
```
"""
METRICS = """# TYPE nightproof_events_total counter
nightproof_events_total{event="a_b"} 1.0
nightproof_events_total{event="a_c"} 2.0
nightproof_events_total{event="a_d"} 3.0
"""
PRESENT = Present(
    at="now", service="loans", address="http://127.0.0.1:9000", state="/var/lib/my state", metrics=METRICS,
    live_digest="aaaa", facts=[("workers", "2 ready"), ("nothing", "")],
)  # fmt: skip


def test_commands_come_out_with_this_servers_names():
    page = fill(PAGE, "model_timeout", PRESENT)

    assert "nightproof status --state '/var/lib/my state'" in page
    assert "nightproof check '/var/lib/my state'/bundles/aaaa\n" in page
    assert "nightproof rollback loans --state '/var/lib/my state'" in page
    assert "--service loans --name shop" in page
    assert "nightproof check examples/credit\n" in page
    assert "See `127.0.0.1:9000`." in page
    assert "localhost" not in page


def test_a_command_about_the_release_that_was_taken_back_names_it():
    page = PAGE.replace("nightproof status\n", "nightproof audit search --service credit --release VERSION\n")
    fitting = Present(service="loans", taken_back="1.1 beta")

    assert "--service loans --release '1.1 beta' --state" in fill(page, "release_rolled_back", fitting)
    assert "--release VERSION" in fill(page, "release_rolled_back", PRESENT), "none was"


def test_what_the_commands_print_now_stands_under_them():
    page = fill(PAGE, "model_timeout", PRESENT)

    assert 'nightproof_events_total{event="a_b"} 1.0\nnightproof_events_total{event="a_c"} 2.0\n$' in page
    assert 'event="a_d"' not in page
    assert "(nothing: it has not happened since the start)" in page


def test_the_values_stand_before_what_users_see_and_those_that_are_empty_do_not():
    head, _, rest = fill(PAGE, "model_timeout", PRESENT).partition("## What users see")

    assert "## Now\n```text\nasked at  now\nworkers   2 ready\n```" in head
    assert "NightproofModelTimeout" in head
    assert "nothing  " not in head + rest


def test_with_tls_curl_is_given_the_whole_address_and_others_the_host():
    secure = Present(address="https://127.0.0.1:9000", state="/s")
    page = rename(
        "```\ncurl -s localhost:8000/healthz\nopenssl s_client -connect localhost:8000\n```\n", secure
    )

    assert "curl -s https://127.0.0.1:9000/healthz" in page
    assert "-connect 127.0.0.1:9000" in page


def test_without_a_server_only_the_state_folder_is_known():
    page = rename(PAGE, Present(state="/s"))

    assert "nightproof status --state /s" in page
    assert "localhost:8000" in page
    assert "## Now" not in page


def test_lines_that_do_more_than_grep_metrics_are_not_run():
    assert grepped("curl -s localhost:8000/healthz", METRICS) is None
    assert grepped("journalctl -u nightproof | grep worker_gone", METRICS) is None
    assert grepped("curl -s localhost:8000/metrics | head -3", METRICS) is None
    assert (
        grepped("curl -s localhost:8000/metrics | grep -v a_b | grep events", METRICS)
        == METRICS.splitlines()[2:]
    )
