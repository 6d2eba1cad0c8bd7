"""`nightproof audit verify | prove | check-proof | reconcile`: read-only, on the log or on a copy of it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nightproof.audit.reconcile import Reconciliation, reconcile
from nightproof.audit.seal import (
    Verifier,
    check_consistency_file,
    check_proof_file,
    consistency_file,
    is_consistency_file,
    proof_file,
)
from nightproof.audit.tree import consistency_proof, inclusion_proof
from nightproof.audit.verify import Anchor, Verdict, verify
from nightproof.base.clock import iso_us
from nightproof.base.errors import NightproofError, SettingError, StateError
from nightproof.cli import show
from nightproof.cli.client import NotRunning, from_options
from nightproof.cli.main import state_option
from nightproof.settings.load import load
from nightproof.steer.archive import open_reader
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_store import LedgerReader
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.witness_folder import WitnessFolder


def verifier_of(key: str) -> Verifier:
    """Return the verifier of a public key, given as text or as the name of a file that holds it."""
    return Verifier(Path(key).read_text(encoding="utf-8") if Path(key).is_file() else key)


class _Book:
    """A log to read: whose it is, its public key, and the checkpoints that are at hand outside it."""

    def __init__(self, state: Path, ledger: str | None, key: str | None) -> None:
        self._settings = load(None, os.environ, {"state": state})
        self._state = state
        self._ledger = ledger
        self.verifiers = [verifier_of(key)] if key else self._own_verifiers()

    def open(self) -> LedgerReading:
        if self._ledger is None:
            return open_reader(self._settings, StateFolder.open(self._state, create=False))
        if "://" in self._ledger:
            from nightproof.storage.ledger_postgres import PostgresReader

            return PostgresReader(self._ledger)
        return LedgerReader(Path(self._ledger), is_copy=True)

    def anchors(self, files: tuple[Path, ...]) -> list[Anchor]:
        found = [Anchor(str(file), file.read_bytes()) for file in files]
        if self._ledger is None:
            anchor = StateFolder.open(self._state, create=False).anchor
            if anchor.exists():
                found.append(Anchor(str(anchor), anchor.read_bytes()))
            if self._settings.witness.folder is not None:
                folder = self._settings.witness.folder
                found += [Anchor(str(folder), note) for note in WitnessFolder(folder).notes()]
        return found

    def _own_verifiers(self) -> list[Verifier]:
        place = Path(self._ledger).parent if self._ledger and "://" not in self._ledger else self._state
        path = place / "ledger.vkey"
        if not path.exists():
            raise SettingError(
                f"The public key of this log is not known: {path} is not there.",
                hint="Give it with --key; the server wrote it to ledger.vkey in its state folder.",
            )
        return [Verifier(path.read_text(encoding="utf-8"))]


def _place_options(verb: Any) -> Any:
    """Add `--state`, `--ledger` and `--key`: which log, and whom to trust for it."""
    verb = click.option(
        "--key", metavar="VKEY", help="Public key to trust, or a file that holds it; default: ledger.vkey."
    )(verb)
    verb = click.option(
        "--ledger",
        metavar="FILE|URL",
        help="A copy of ledger.db, or postgresql://; default: the state folder's.",
    )(verb)
    return state_option(verb)


@click.command("verify")
@_place_options
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A checkpoint that you hold; the log must continue it. May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(
    state: Path, ledger: str | None, key: str | None, checkpoints: tuple[Path, ...], as_json: bool
) -> None:
    """Derive everything again from what is stored. Exit 1 and name the first bad record if anything is wrong."""
    book = _Book(state, ledger, key)
    anchors = book.anchors(checkpoints)
    with contextlib.closing(book.open()) as reader, _bar() as progress:
        verdict = verify(reader, book.verifiers, anchors=anchors, progress=progress)
    if as_json:
        show.as_json(verdict)
    else:
        _print_verdict(verdict)
    if ledger is None:
        _report(state, verdict)
    if not verdict.ok:
        sys.exit(1)


def _report(state: Path, verdict: Verdict) -> None:
    """Tell the running server, if there is one, so that it alerts, or so that its alert ends."""
    first = verdict.first_bad
    with contextlib.suppress(NightproofError):
        client = from_options(state, None)
        fires = any(one["failure"] == "audit_tampered" for one in client.get("/admin/alerts")["alerts"])
        if first is not None or fires:
            detail = f"record {first.seq}: {first.kind}" if first is not None else ""
            body = {"failure": "audit_tampered", "is_wrong": first is not None, "detail": detail}
            client.post("/admin/alerts/report", body)


@contextlib.contextmanager
def _bar() -> Iterator[Any]:
    """Show how far it is, on a terminal; elsewhere nothing."""
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=show.errors, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("verify", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _print_verdict(verdict: Verdict) -> None:
    out = show.console
    if verdict.ok:
        out.print(f"[bold green]all {verdict.records:,} records hold[/]")
    else:
        first = verdict.first_bad
        where = "" if first is None or first.seq is None else f"record {first.seq} {first.id}".rstrip() + ": "
        out.print(f"[bold red]this log does not hold[/]  {where}{show.plain(first.text if first else '')}")
        for finding in verdict.findings[:20]:
            out.print(f"  {finding.kind}: {show.plain(finding.text)}")
        more = sum(verdict.counts.values()) - min(20, len(verdict.findings))
        if more > 0:
            out.print(f"  and {more:,} more")
        out.print(
            "What to do: the runbook audit_tampered (`nightproof serve` shows it at /runbooks/audit_tampered)."
        )
    out.print(f"log         {show.plain(verdict.origin)}")
    out.print(f"root        {verdict.root}")
    out.print(f"signed      {verdict.signed:,} records under {verdict.checkpoints:,} checkpoints")
    if verdict.unsigned:
        out.print(
            f"not signed  {verdict.unsigned:,} records behind the last checkpoint; the server signs within a second"
        )
    out.print(f"held to     {verdict.anchors:,} checkpoints from outside the log")
    if verdict.erased or verdict.expired:
        out.print(f"content     {verdict.erased:,} erased, {verdict.expired:,} past its time")


@click.command("prove")
@_place_options
@click.argument("entry_id", required=False)
@click.option("--from", "old", type=click.IntRange(0), help="Prove that the log grew from this size.")
@click.option("--to", "new", type=click.IntRange(1), help="To this size; default: the last checkpoint's.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; default: standard output."
)
def prove_command(
    state: Path,
    ledger: str | None,
    key: str | None,
    entry_id: str | None,
    old: int | None,
    new: int | None,
    output: Path | None,
) -> None:
    """Write a proof that a record is in the log; with --from, that the log only grew."""
    if (entry_id is None) == (old is None):
        raise click.UsageError("Name a record's id, or two sizes with --from and --to.")
    book = _Book(state, ledger, key)
    with contextlib.closing(book.open()) as reader, reader.snapshot():
        content = (
            _inclusion(reader, entry_id) if entry_id is not None else _consistency(reader, old or 0, new)
        )
    if output is None:
        sys.stdout.write(content.decode())
    else:
        output.write_bytes(content)
        show.errors.print(
            f"written to {output}; `nightproof audit check-proof {output} --key …` checks it anywhere"
        )


def _inclusion(reader: LedgerReading, entry_id: str) -> bytes:
    found = reader.by_id(entry_id)
    if not found:
        raise StateError(
            "No record has this id.",
            hint="The id is the answer's x-request-id; `nightproof audit search` finds others.",
        )
    entry = found[-1]
    last = reader.last_checkpoint()
    if last is None or last.size <= entry.seq:
        raise StateError(
            f"No checkpoint covers record {entry.seq} yet.",
            hint="The server signs one within a second; try again.",
        )
    return proof_file(entry.leaf, entry.seq, inclusion_proof(reader, entry.seq, last.size), last.note)


def _consistency(reader: LedgerReading, old: int, new: int | None) -> bytes:
    """Write the proof between the checkpoints that cover these sizes: roots that nobody signed prove nothing."""
    first = reader.checkpoint_at_or_after(old)
    second = reader.last_checkpoint() if new is None else reader.checkpoint_at_or_after(new)
    if first is None or second is None or first.size > second.size:
        last = reader.last_checkpoint()
        raise StateError(
            f"Checkpoints are signed over at most {last.size if last else 0} records.",
            hint="Give sizes up to that, the smaller one first.",
        )
    return consistency_file(first.note, second.note, consistency_proof(reader, first.size, second.size))


@click.command("check-proof")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", metavar="VKEY", help="Public key to trust, or a file that holds it.", required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_proof_command(file: Path, key: str, as_json: bool) -> None:
    """Check a proof file; needs nothing but the log's public key. Exit 1 if it does not hold."""
    content = file.read_bytes()
    if is_consistency_file(content):
        older, newer = check_consistency_file(content, [verifier_of(key)])
        if as_json:
            show.as_json({"ok": True, "from": older.size, "to": newer.size, "origin": newer.origin})
        else:
            show.console.print(
                f"[bold green]the proof holds[/]  the log of {newer.size:,} records begins with that of {older.size:,}"
            )
        return
    proven = check_proof_file(content, [verifier_of(key)])
    facts = orjson.loads(proven.leaf)
    if as_json:
        show.as_json({"ok": True, "index": proven.index, "size": proven.checkpoint.size, "record": facts})
        return
    out = show.console
    out.print(f"[bold green]the proof holds[/]  record {proven.index} of {proven.checkpoint.size:,}")
    out.print(f"log      {show.plain(proven.checkpoint.origin)}")
    for name, value in facts.items():
        shown = iso_us(value) if name == "at" else value
        if shown not in ("", [], None):
            out.print(f"{name:<10} {show.plain(str(shown))}")


@click.command("reconcile")
@_place_options
@click.option("--client-count", type=click.IntRange(0), help="How many requests the callers count.")
@click.option(
    "--acknowledged",
    type=click.File("r", encoding="utf-8"),
    help="File of request ids that callers were answered, one a line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reconcile_command(
    state: Path,
    ledger: str | None,
    key: str | None,
    client_count: int | None,
    acknowledged: Any,
    as_json: bool,
) -> None:
    """Hold the records against the server's counters and what callers were told. Exit 1 if a request is missing."""
    book = _Book(state, ledger, key)
    live = None if ledger else _live(state)
    with contextlib.closing(book.open()) as reader:
        told = reconcile(reader, acknowledged=acknowledged or (), client_count=client_count, live=live)
    if as_json:
        show.as_json(told)
    else:
        _print_books(told)
    if not told.ok:
        sys.exit(1)


def _live(state: Path) -> dict[str, int] | None:
    """Return the running server's arrivals by its run; None where none runs."""
    try:
        status = from_options(state, None).get("/admin/status")
    except (NotRunning, NightproofError):
        return None
    return {status["run"]: status["arrivals"]}


def _print_books(told: Reconciliation) -> None:
    rows = [
        [
            run.boot,
            iso_us(run.started_us),
            run.state,
            f"{run.requests:,}",
            f"{run.shared:,}",
            "" if run.arrivals is None else f"{run.arrivals:,}",
            "good" if run.ok else "BAD",
            run.why,
        ]
        for run in told.runs
    ]
    show.table("", ["run", "since", "state", "recorded", "in summaries", "counted", "books", ""], rows)
    if told.acknowledged:
        show.console.print(
            f"{told.acknowledged - told.missing:,} of {told.acknowledged:,} acknowledged requests are recorded"
        )
    for one in told.missing_ids:
        show.console.print(f"  missing: {show.plain(one)}")
    for why in told.why:
        show.console.print(f"[bold red]bad[/]  {show.plain(why)}")
    if told.ok:
        show.console.print(f"[bold green]the books balance[/]  {told.recorded:,} requests")


COMMANDS = [verify_command, prove_command, check_proof_command, reconcile_command]
