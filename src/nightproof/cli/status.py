"""`nightproof status`, for people."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nightproof.cli import show


def print_status(told: dict[str, Any]) -> None:
    """Print what the server told of itself."""
    why = show.plain("; ".join(told["why"]))
    state = "[bold green]ready[/]" if told["ready"] else f"[bold red]not ready[/] ({why})"
    show.console.print(
        f"nightproof {told['version']} at {told['address']}, pid {told['pid']}, up {_span(told['up_s'])}: {state}"
    )
    rows = []
    for service in told["services"]:
        recent = service["recent"] or {"rate_per_s": 0.0, "p50_ms": None, "p99_ms": None, "endings": {}}
        workers = (
            ", ".join(f"{count} {name}" for name, count in service["workers"].items() if count) or "none"
        )
        endings = ", ".join(f"{count} {name}" for name, count in sorted(recent["endings"].items())) or "-"
        rows.append(
            [
                service["name"],
                service["release"],
                workers,
                f"{recent['rate_per_s']:.1f}/s",
                _ms(recent["p50_ms"]),
                _ms(recent["p99_ms"]),
                endings,
                service["queued"],
                service["restarts"],
                service["quarantined"],
            ]
        )
    show.table(
        "",
        [
            "service",
            "release",
            "workers",
            "rate",
            "p50",
            "p99",
            "endings (last minute)",
            "queued",
            "restarts",
            "quarantined",
        ],
        rows,
    )
    parts = [
        [
            service["name"],
            one["version"],
            one["part"],
            f"{one['share']:.0%}" if one["share"] else "",
            one["text"],
        ]
        for service in told["services"]
        for one in service["parts"]
    ]
    if len(parts) > len(told["services"]):
        show.table("", ["service", "release", "part", "share", "how it does"], parts)
    print_upstreams(told["services"])
    for service in told["services"]:
        print_drift_line(service["name"], service.get("drift"))
    ledger = told["ledger"]
    show.console.print(
        f"ledger {ledger['state']}: {ledger['last_seq'] + 1} entries,"
        f" longest commit {ledger['longest_commit_s'] * 1e3:.1f} ms"
        f" · in flight {told['in_flight']} · memory {told['memory_bytes'] / 1e6:.0f} MB"
        f" · disk free {told['disk_free_bytes'] / 1e9:.1f} GB"
    )
    totals = ", ".join(f"{count} {name}" for name, count in sorted(told["endings"].items())) or "none yet"
    show.console.print(f"since start: {told['arrivals']} arrivals; {totals}")
    if told["failures"]:
        show.console.print(
            "failures: " + ", ".join(f"{count} {name}" for name, count in sorted(told["failures"].items()))
        )
    for part in told["components"]:
        if not part["ok"]:
            told_of_part = f"{part['name']}: {part['why'] or 'not ok'} since {part['since']}"
            show.console.print(f"[red]✗[/] {show.plain(told_of_part)}")


def print_upstreams(services: list[dict[str, Any]]) -> None:
    """Print what chat services ask, and what that has cost; nothing where there is none."""
    rows = [
        [
            service["name"],
            one["name"],
            one["model"],
            one["state"] if not one["pause_s"] else f"{one['state']}, paused {one['pause_s']:.0f} s",
            f"{one['in_flight']} of {one['limit']}",
            one["trouble"] or one["last_failure"] or "-",
        ]
        for service in services
        for one in service.get("upstreams", [])
    ]
    if rows:
        show.table("", ["service", "upstream", "model", "breaker", "in flight", "last failure"], rows)
    for service in services:
        chat = service.get("chat")
        if chat is None:
            continue
        show.console.print(
            f"chat {service['name']}: {chat['output_tokens_per_s']:.1f} tokens/s,"
            f" first token p50 {_ms(chat['first_token_p50_ms'])}, p99 {_ms(chat['first_token_p99_ms'])},"
            f" {chat['refusals']} of {chat['exchanges']} refused by the model,"
            f" {chat['streams_open']} streams open; since start: {chat['input_tokens']} tokens read,"
            f" {chat['output_tokens']} written, cost {chat['cost']:.2f}"
        )
        if chat["bypassed"]:
            named = ", ".join(chat["bypassed"])
            show.console.print(
                f"[red]✗[/] {service['name']}: passed without a verdict of {show.plain(named)}"
            )


def print_drift_line(name: str, drift: dict[str, Any] | None) -> None:
    """Say how a service's data stands, in one line; nothing where it is as it should be."""
    if drift is None or drift["state"] in ("quiet", "gathering", "off", "preparing"):
        return
    if drift["state"] == "learning":
        show.console.print(f"drift of {name}: learning from live rows ({show.plain(drift['why'])})")
        return
    features = ", ".join(drift["features"][:5])
    show.console.print(
        f"[red]✗[/] drift of {name} since {drift['since']}: {show.plain(features)};"
        f" see nightproof drift {name}"
    )


def watch_status(ask: Callable[[], dict[str, Any]]) -> None:
    """Print the status each second until Ctrl-C."""
    try:
        while True:
            told = ask()
            show.console.clear()
            print_status(told)
            time.sleep(1.0)
    except KeyboardInterrupt:
        pass


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _span(seconds: float) -> str:
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {word}"
    return f"{seconds:.0f} s"
