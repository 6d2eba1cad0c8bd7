"""`nightproof feedback`: how good is the release by the labels that came, and who is to be believed?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nightproof.cli import show
from nightproof.cli.client import from_options
from nightproof.cli.main import reach_options


@click.command()
@reach_options
@click.option("--accept", metavar="KEY_ID", help="Count the labels of a key that are held.")
@click.option(
    "--reject", metavar="KEY_ID", help="Reject the labels of a key that are held, and those to come."
)
@click.argument("service")
def feedback(
    state: Path, url: str | None, as_json: bool, accept: str | None, reject: str | None, service: str
) -> None:
    """Show true quality, calibration and the sources of labels. Exit 1 while a source is held."""
    if accept and reject:
        raise click.UsageError("--accept and --reject exclude each other.")
    client = from_options(state, url)
    if accept or reject:
        key, verb = accept or reject, "accept" if accept else "reject"
        done = client.post(f"/admin/feedback/{service}/{key}/{verb}")
        if as_json:
            show.as_json(done)
        else:
            word = "are counted" if done["accepted"] else "are rejected"
            show.console.print(f"{done['labels']} labels of key {show.plain(done['key'])} {word}")
        return
    told = client.get(f"/admin/feedback/{service}")
    if as_json:
        show.as_json(told)
    else:
        _print(told)
    if any(one["state"] == "held" for one in told["sources"]):
        sys.exit(1)


def _print(told: dict[str, Any]) -> None:
    quality = told["quality"]
    show.console.print(
        f"{show.plain(told['service'])} {show.plain(told['release'])}: {quality['labels']} labels count"
    )
    if quality["accuracy"] is not None:
        show.console.print(
            f"accuracy {quality['accuracy']:.3f},"
            f" in {quality['accuracy_low']:.3f} to {quality['accuracy_high']:.3f} (95 %, at all times together)"
        )
    if quality["mean_error"] is not None:
        show.console.print(f"mean absolute error {quality['mean_error']:.6g}")
    if quality["calibration_error"] is not None:
        show.console.print(
            f"calibration error {quality['calibration_error']:.3f} (ECE, 15 bins), Brier {quality['brier']:.3f}"
        )
    if told["estimated_accuracy"] is not None:
        validity = "" if told["estimate_valid"] else " (NOT VALID: the data drifts)"
        show.console.print(
            f"all answers of the last hour, estimated: {told['estimated_accuracy']:.3f}{validity}"
        )
    if quality["delay_s"] is not None:
        show.console.print(f"labels come {quality['delay_s']:.0f} s after the answer (median)")
    rows = [
        [
            one["key"],
            one["state"],
            one["counted"],
            one["held"],
            one["rejected"],
            "-" if one["disagrees"] is None else f"{one['disagrees']:.1%}",
            one["duplicates"],
            one["conflicts"],
            one["why"] or "-",
        ]
        for one in told["sources"]
    ]
    columns = ["key", "state", "counted", "held", "rejected", "contradicts", "again", "taken back", "why"]
    show.table("", columns, rows)
