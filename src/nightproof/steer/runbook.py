"""Fill a runbook page with the present values of the running server: what it says to look at, looked at. Pure.

The commands on the page are written for `credit` at `localhost:8000` with the state folder `.nightproof`; they come
out with the names of this server, so that they can be pasted. Under each command that reads `/metrics` stands what it
prints now.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

import msgspec

from nightproof.base.failures import CATALOGUE

EXAMPLE_SERVICE = "credit"
EXAMPLE_HOST = "localhost:8000"
EXAMPLE_STATE = ".nightproof"
EXAMPLE_DIGEST = "DIGEST"
EXAMPLE_VERSION = "VERSION"

_BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_IN_A_LINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_TAKES_STATE = re.compile(r"\s*nightproof (?!new\b|check\b|audit check-)\w")
_MOST_LINES = 12
_NOW_BEFORE = "## What users see"


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What is true now, gathered by the runtime. What is empty stays on the page as it is written."""

    at: str = ""
    service: str = ""
    """The service asked about; empty where none is served or the failure is the server's."""
    address: str = ""
    state: str = EXAMPLE_STATE
    metrics: str = ""
    """All of `/metrics`, as text."""
    live_digest: str = ""
    """Content of the live release."""
    taken_back: str = ""
    """The release that was taken back last."""
    facts: Sequence[tuple[str, str]] = ()
    """What the page cannot know, by name: workers, release, latency, the alert itself."""


def fill(page: str, failure: str, present: Present) -> str:
    """Return the page with the present values in it."""
    named = _BLOCK.sub(lambda block: _block(block[1], present), page)
    named = _IN_A_LINE.sub(lambda span: f"`{_with_host(span[1], present)}`", named)
    facts = [("asked at", present.at), *present.facts]
    width = max(len(name) for name, _ in facts)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in facts if value)
    now = f"## Now\n```text\n{table}\n```\n\n"
    title = CATALOGUE[failure].alert
    head, _, rest = named.partition(_NOW_BEFORE)
    return f"{head}Its alert is `{title}`.\n\n{now}{_NOW_BEFORE}{rest}"


def rename(page: str, present: Present) -> str:
    """Return the page with this server's names in its commands, and no values: what is left when it does not run."""
    return _BLOCK.sub(
        lambda block: (
            "```\n" + "\n".join(_renamed(line, present) for line in block[1].splitlines()) + "\n```"
        ),
        page,
    )


def _block(code: str, present: Present) -> str:
    """Write a block of commands for this server, and after it what those that read metrics print."""
    lines = [_renamed(line, present) for line in code.splitlines()]
    block = "```\n" + "\n".join(lines) + "\n```"
    printed = []
    for line in code.replace("\\\n", " ").splitlines():
        found = grepped(line, present.metrics)
        if found is not None:
            printed.append(f"$ {_renamed(line, present)}")
            printed += found[:_MOST_LINES] or ["(nothing: it has not happened since the start)"]
            if len(found) > _MOST_LINES:
                printed.append(f"… and {len(found) - _MOST_LINES} more")
    return block + ("\n\nNow:\n```text\n" + "\n".join(printed) + "\n```" if printed else "")


def _renamed(line: str, present: Present) -> str:
    line = _with_host(line, present)
    if present.service:
        whole = rf"(?<!examples/)(?<!nightproof/)\b{EXAMPLE_SERVICE}\b(?!\.)"
        line = re.sub(whole, present.service, line)
    if present.live_digest:
        line = line.replace(EXAMPLE_DIGEST, present.live_digest)
    if present.taken_back:
        line = re.sub(rf"\b{EXAMPLE_VERSION}\b", lambda _: shlex.quote(present.taken_back), line)
    line = re.sub(rf"(?<![\w/]){re.escape(EXAMPLE_STATE)}(?!\w)", lambda _: shlex.quote(present.state), line)
    takes_state = _TAKES_STATE.match(line) and "--state" not in line and "|" not in line
    return f"{line} --state {shlex.quote(present.state)}" if takes_state else line


def _with_host(line: str, present: Present) -> str:
    """Put this server's address in; with its scheme where curl would take another one."""
    if not present.address:
        return line
    scheme, _, host = present.address.partition("://")
    if scheme == "https":
        line = re.sub(rf"(curl (?:-\w+ )*){EXAMPLE_HOST}", rf"\g<1>{present.address}", line)
    return line.replace(EXAMPLE_HOST, host)


def grepped(line: str, metrics: str) -> list[str] | None:
    """Return what a line `curl …/metrics | grep A | grep -E B` prints; None if the line is not one of these."""
    parts = [part.strip() for part in _split_pipes(line)]
    if not parts or not parts[0].startswith("curl ") or not parts[0].endswith("/metrics"):
        return None
    found = [one for one in metrics.splitlines() if not one.startswith("#")]
    for part in parts[1:]:
        words = shlex.split(part)
        if not words or words[0] != "grep":
            return None
        patterns = [word for word in words[1:] if not word.startswith("-")]
        if len(patterns) != 1:
            return None
        is_extended = any(word.startswith("-") and "E" in word for word in words[1:])
        wanted = re.compile(patterns[0] if is_extended else re.escape(patterns[0]))
        is_other = any(word.startswith("-") and "v" in word for word in words[1:])
        found = [one for one in found if bool(wanted.search(one)) != is_other]
    return found


def _split_pipes(line: str) -> list[str]:
    """Cut a line of shell at its pipes, those inside quotes excepted."""
    parts, quote, at = [""], "", 0
    for at, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "|":
            parts.append("")
            continue
        parts[-1] += line[at]
    return parts


def facts_of(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return facts as text, those without a value left out."""
    return [(name, str(value)) for name, value in values.items() if value not in (None, "")]
