"""`nightproof audit search | show | export | check-export`: find records again. Each look is recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
import orjson
from rich.markup import escape

from nightproof.audit import export as exporting
from nightproof.base.clock import utc_us
from nightproof.base.failures import CATALOGUE
from nightproof.cli import show
from nightproof.cli.audit_verify import verifier_of
from nightproof.cli.main import reach_options
from nightproof.cli.offline import LOCAL, ask
from nightproof.steer.find import Asked, Desk

_AGO = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PAGE = 500
_BAR = 24


class Moment(click.ParamType[int]):
    """A time: ISO 8601, or `2h` for two hours ago. Without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return microseconds since 1970, UTC."""
        if isinstance(value, int):
            return value
        if match := _AGO.fullmatch(value.strip()):
            ago = timedelta(**{_UNITS[match[2]]: int(match[1])})
            return utc_us() - int(ago.total_seconds() * 1_000_000)
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            self.fail(
                f"{value!r} is no time. Write 2026-11-22T03:00, or 2h, 3d, 1w for that long ago.", param, ctx
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1_000_000)


def _narrowing(verb: Any) -> Any:
    """Add the options that say which records are meant."""
    for option in (
        click.option("--subject", default="", help="About this person; the log keeps a pseudonym only."),
        click.option("--failure", default="", help="Name of the failure catalogue."),
        click.option(
            "--ending",
            default="",
            type=click.Choice(["", "answered", "degraded", "refused", "failed", "abandoned"]),
        ),
        click.option("--release", default=""),
        click.option("--service", default=""),
        click.option("--caller", default="", help="Id of an API key."),
        click.option("--kind", default="", help="request, operator, access, start, stop, …"),
        click.option("--until", "until_us", type=Moment(), help="Before then: a time, or 2h, 3d ago."),
        click.option("--since", "since_us", type=Moment(), help="From then on: a time, or 2h, 3d ago."),
    ):
        verb = option(verb)
    return verb


def _desk(archive: Any) -> Desk:
    return Desk(archive, archive.sensitive_of)


@click.command("search")
@reach_options
@_narrowing
@click.option("--id", "entry_id", default="", help="This very record.")
@click.option("--limit", "most", type=click.IntRange(1, 1_000), default=50, show_default=True)
@click.option("--after", default="", help="Go on behind a page: its `next`.")
@click.option("--oldest-first", is_flag=True)
def search_command(state: Path, url: str | None, as_json: bool, entry_id: str, **narrow: Any) -> None:
    """Find records by time, caller, service, ending and more; content is not shown."""
    body = msgspec.to_builtins(Asked(id=entry_id, **narrow))
    told = ask(
        state, url, "search", body, lambda archive: _desk(archive).search(LOCAL, msgspec.convert(body, Asked))
    )
    if as_json:
        show.as_json(told)
        return
    rows = [
        [
            one["at"],
            one["id"],
            one["kind"],
            one["service"],
            one["release"],
            one["caller"],
            one["ending"] or one["what"],
            one["failure"],
        ]
        for one in told["records"]
    ]
    show.table("", ["at", "id", "kind", "service", "release", "caller", "ending", "failure"], rows)
    if told["next"]:
        show.errors.print(f"more: --after {told['next']}")


@click.command("show")
@reach_options
@click.argument("entry_id")
@click.option(
    "--reveal",
    is_flag=True,
    help="Show sensitive fields and what no model was to read too. That you did is recorded.",
)
def show_command(state: Path, url: str | None, as_json: bool, entry_id: str, reveal: bool) -> None:
    """Tell one request's whole story. That you looked is recorded."""
    body = {"id": entry_id, "reveal": reveal}
    told = ask(state, url, "show", body, lambda archive: _desk(archive).show(LOCAL, entry_id, reveal=reveal))
    if as_json:
        show.as_json(told)
        return
    for entry in told:
        _tell(entry)


def _tell(entry: dict[str, Any]) -> None:
    """Print an entry as a story."""
    facts = entry["facts"]
    out = show.console
    ending = facts.get("ending", "")
    headline = f"{entry['kind']} {entry['id']}"
    out.print(f"[bold]{show.plain(headline)}[/]")
    colour = {"answered": "green", "degraded": "yellow"}.get(ending, "red")
    rows: list[tuple[str, str]] = [("at", entry["at"])]
    if ending:
        what = f"[bold {colour}]{escape(ending)}[/]"
        if facts.get("failure"):
            what += f"  {show.plain(facts['failure'])}: {show.plain(entry['title'])}"
        rows.append(("ended", what))
    for name, word in (
        ("service", "service"),
        ("release", "release"),
        ("key", "caller"),
        ("who", "by"),
        ("act", "act"),
    ):
        if facts.get(name):
            rows.append((word, show.plain(str(facts[name]))))
    if facts.get("protocol"):
        rows.append(("protocol", show.plain(facts["protocol"])))
    for decision in facts.get("decisions", ()):
        rows.append(("decided", show.plain(_in_words(decision))))
    for one in _items_of(facts):
        rows.append(("record", show.plain(_item_in_words(one))))
    for name, value in rows:
        out.print(f"  {name:<9} {value}")
    if "stages_us" in facts:
        _bars(facts["stages_us"])
    known = {
        "act",
        "at",
        "boot",
        "ct",
        "ct_bytes",
        "decisions",
        "ending",
        "failure",
        "id",
        "idem",
        "items",
    }
    known |= {
        "key",
        "kind",
        "protocol",
        "release",
        "service",
        "stages_us",
        "sub",
        "v",
        "who",
        "trace",
        *_ITEM_WORDS,
    }
    for name, value in facts.items():
        if name not in known and value not in ("", [], None):
            out.print(f"  {show.plain(name):<9} {show.plain(orjson.dumps(value).decode())}")
    _tell_content(entry)
    place = f"record {entry['seq']} of the log"
    covered = entry["covered_by"]
    out.print(
        f"  {'proof':<9} {place}, "
        + (f"signed for by the checkpoint over {covered}" if covered else "not yet signed for")
    )
    out.print()


def _tell_content(entry: dict[str, Any]) -> None:
    out, state, content = show.console, entry["content_state"], entry["content"]
    if state in ("erased", "expired", "unreadable"):
        said = entry["gone_by"] or {"unreadable": "cannot be opened: see the runbook content_unreadable"}.get(
            state, state
        )
        out.print(f"  {'content':<9} [bold]{show.plain(said)}[/]")
        return
    if content is None:
        return
    if state == "partly_erased":
        out.print(f"  {'content':<9} {show.plain(entry['gone_by'] or 'partly erased')}")
    for item in content.get("items", ()):
        if item.get("erased"):
            out.print(f"  {'input':<9} [bold]erased[/]")
        for name in ("input", "output", "output_text", "detail", "errors"):
            if item.get(name) not in (None, "", []):
                out.print(f"  {name:<9} {show.plain(_json(item[name]))}")
    for name, word in (("body_b64", "body"), ("detail", "told"), ("errors", "errors")):
        if content.get(name):
            out.print(f"  {word:<9} {show.plain(_json(content[name]))}")
    if state == "masked":
        out.print(
            f"  {'':<9} [dim]sensitive fields, and what no model was to read, are masked; --reveal shows them[/]"
        )


_ITEM_WORDS = frozenset(
    {"batch", "predict_us", "queue_us", "attempts", "pointers", "degraded", "findings", "worker"}
)


def _items_of(facts: dict[str, Any]) -> Sequence[dict[str, Any]]:
    items = facts.get("items")
    if isinstance(items, list):
        return items
    if isinstance(items, int):
        return []
    return [facts] if "batch" in facts else []


def _item_in_words(item: dict[str, Any]) -> str:
    words = []
    if item.get("worker"):
        words.append(
            f"worker {item['worker']} in a batch of {item['batch']}, {item['predict_us'] / 1_000:.1f} ms after "
            f"{item['queue_us'] / 1_000:.1f} ms in the queue"
        )
    if item.get("attempts", 1) > 1:
        words.append(f"{item['attempts']} attempts")
    if item.get("degraded"):
        failure, by = item["degraded"]
        words.append(
            f"fallback {by} answered, since: {CATALOGUE[failure].title if failure in CATALOGUE else failure}"
        )
    if item.get("pointers"):
        words.append(f"wrong at {', '.join(item['pointers'])}")
    if item.get("findings"):
        words.append(f"flagged: {'; '.join(item['findings'])}")
    return "; ".join(words) or "not given to a worker"


def _in_words(decision: str) -> str:
    word, _, rest = decision.partition(":")
    return {
        "deadline": f"deadline lowered to {rest}",
        "replayed": f"the recorded answer of {rest} was given again (same Idempotency-Key)",
    }.get(word, decision)


def _bars(stages: dict[str, int]) -> None:
    """Show where the time went."""
    total = max(1, sum(stages.values()))
    for name, took_us in stages.items():
        length = round(_BAR * took_us / total)
        show.console.print(f"  {name:<9} {took_us / 1_000:>9.2f} ms  {'━' * length}")


def _json(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@click.command("export")
@reach_options
@_narrowing
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("export"),
    show_default=True,
)
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True)
@click.option("--cloudevents", is_flag=True, help="Write each record as a CloudEvents event.")
@click.option("--content", is_flag=True, help="Include inputs and outputs, sensitive fields masked.")
def export_command(
    state: Path,
    url: str | None,
    as_json: bool,
    output: Path,
    form: str,
    cloudevents: bool,
    content: bool,
    **narrow: Any,
) -> None:
    """Write records to a folder, with a manifest that `check-export` verifies. The export is recorded."""
    if cloudevents and form == "parquet":
        raise click.UsageError("CloudEvents are JSON; leave --format away.")
    writer: exporting.Writer | None = None
    after = ""
    while True:
        asked = Asked(oldest_first=True, most=_PAGE, after=after, **narrow)
        body = {"asked": msgspec.to_builtins(asked), "content": content}

        async def offline(archive: Any, asked: Asked = asked) -> dict[str, Any]:
            page, following = await _desk(archive).export_page(LOCAL, asked, content=content)
            return {"records": page, "next": following, "origin": archive.origin, "who": LOCAL}

        told = ask(state, url, "export", body, offline)
        if writer is None:
            named = {name: value for name, value in body["asked"].items() if name not in ("most", "subject")}
            writer = exporting.Writer(
                output,
                "cloudevents" if cloudevents else ("parquet" if form == "parquet" else "jsonl"),
                origin=told["origin"],
                by=told["who"],
                asked=named,
            )
        writer.write(msgspec.convert(told["records"], list[exporting.Exported]))
        after = told["next"]
        if not after:
            break
    digest = writer.finish(utc_us())
    count = writer.count
    noted = {"manifest_sha256": digest, "records": count}

    async def note(archive: Any) -> dict[str, Any]:
        return {"proof": (await _desk(archive).exported(LOCAL, digest, count)).decode()}

    writer.attach(ask(state, url, "exported", noted, note)["proof"].encode())
    if as_json:
        show.as_json({"folder": str(output), **noted})
    else:
        show.console.print(
            f"{count:,} records in {output}; `nightproof audit check-export {output} --key …` checks them"
        )


@click.command("check-export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--key", metavar="VKEY", required=True, help="Public key to trust, or a file that holds it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_export_command(folder: Path, key: str, as_json: bool) -> None:
    """Check that an export is what the log says was exported. Exit 1 if it is not."""
    manifest = exporting.check(folder, [verifier_of(key)])
    if as_json:
        show.as_json(manifest)
    else:
        show.console.print(
            f"[bold green]the export holds[/]  {manifest.records:,} records of {show.plain(manifest.origin)}, "
            f"exported {manifest.made} by {show.plain(manifest.by)}"
        )


COMMANDS = [search_command, show_command, export_command, check_export_command]
