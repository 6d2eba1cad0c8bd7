"""Every failure has a runbook, and what a runbook tells a tired person to type exists."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import apsw
import pytest

from nightproof.base.failures import CATALOGUE
from nightproof.settings.load import load
from tests.docs import pages
from tests.serving import Served, free_port, serving

SOURCE = pages.ROOT / "src" / "nightproof"
RUNBOOKS = SOURCE / "runbooks"
SECTIONS = [
    "## What it means",
    "## What users see",
    "## What Nightproof already did",
    "## Look here",
    "## Do this",
    "## Check that it worked",
    "## Prevent",
]
EXAMPLE = "credit"
"""The service that the pages speak of; the tests' own stands in for it."""

NOT_HERE = {"nightproof_certificate_expiry_timestamp_seconds", "nightproof_keys", "nightproof_at"}
"""There with TLS only; a schema of PostgreSQL; a column of reference data."""

each_page = pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)


@cache
def known_words() -> str:
    """Return the package's source: what the server counts and logs stands in it."""
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(SOURCE.rglob("*.py")))


def alternatives(pattern: str) -> list[str]:
    """Write a pattern of grep out: `a_(b|c)` is `a_b` and `a_c`."""
    inner = re.fullmatch(r"([^(|]*)\(([^)]*)\)([^(|]*)", pattern)
    if inner:
        return [f"{inner[1]}{middle}{inner[3]}" for middle in inner[2].split("|")]
    return pattern.split("|")


def greps(line: str) -> list[str]:
    """Return what the line greps for."""
    found = [words for words in pages.commands(line) if words[0] == "grep"]
    return [
        one for words in found for one in alternatives(next(w for w in words[1:] if not w.startswith("-")))
    ]


def paths(page: Path, service: str) -> list[str]:
    """Return the paths that the page asks the server for, with the tests' service in them."""
    urls = [
        word
        for words in pages.commands_of(page.read_text(encoding="utf-8"), "curl")
        for word in words
        if "localhost" in word
    ]
    parts = [urlsplit(url if "//" in url else f"http://{url}").path for url in urls]
    return [path.replace(f"/{EXAMPLE}", f"/{service}") for path in parts]


def test_every_failure_has_a_page_and_every_page_a_failure():
    found = {page.stem for page in RUNBOOKS.iterdir()}

    assert found == {failure.runbook for failure in CATALOGUE.values()}


@each_page
def test_the_page_has_the_one_structure(page: Path):
    failure = CATALOGUE[page.stem]

    found = pages.headings(page.read_text(encoding="utf-8"))

    assert found == [f"# {failure.code}: {failure.title}", *SECTIONS]


@each_page
def test_the_page_can_be_read_at_night(page: Path):
    lines = page.read_text(encoding="utf-8").splitlines()

    prose = [line for line in lines if not line.startswith(("sqlite3", "curl"))]

    assert 20 <= len(lines) <= 45
    assert max(map(len, prose)) <= 116


@each_page
def test_every_verb_on_the_page_exists_with_its_options(page: Path):
    calls = pages.commands_of(page.read_text(encoding="utf-8"), "nightproof")

    for arguments in calls:
        pages.refuse_wrong_verb(arguments)

    assert calls


@each_page
def test_every_setting_on_the_page_is_one(page: Path, tmp_path: Path):
    text = page.read_text(encoding="utf-8")

    for number, block in enumerate(pages.code_blocks(text, "toml")):
        written = tmp_path / f"{number}.toml"
        written.write_text(block, encoding="utf-8")
        load(written, {}, {})

    assert pages.unknown_settings(text) == []


@each_page
def test_the_page_looks_for_words_that_the_server_writes(page: Path):
    lines = pages.shell_lines(page.read_text(encoding="utf-8"))

    ours = [line for line in lines if "localhost" in line or "journalctl -u" in line or "ledger.db" in line]
    wanted = {word for line in ours for word in greps(line) if not word.startswith("nightproof_")} - {"code="}

    assert [word for word in sorted(wanted) if word not in known_words()] == []


@each_page
def test_every_route_on_the_page_is_served(page: Path, shared_faulty: Served):
    wanted = paths(page, shared_faulty.service)

    missing = [path for path in wanted if shared_faulty.client.get(path).status_code == 404]

    assert missing == []


@pytest.fixture(scope="module")
def witnessed_metrics(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the metrics of a server that has a witness and a collector: without, nothing is said of them."""
    folder = tmp_path_factory.mktemp("witnessed")
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with serving(
        "faulty", folder / "state", "--set", f"witness.folder={folder / 'witness'}", env=env
    ) as served:
        return served.metrics()


def test_every_metric_on_the_pages_is_served(shared_faulty: Served, witnessed_metrics: str):
    told = shared_faulty.metrics() + witnessed_metrics
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", told, re.MULTILINE))
    served = set(kinds)
    for name, kind in kinds.items():
        served |= {f"{name}{end}" for end in ("_bucket", "_sum", "_count") if kind == "histogram"}
    wanted = set()
    for page in [*RUNBOOKS.glob("*.md"), *(pages.ROOT / "docs").glob("*.md"), pages.ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        wanted |= set(re.findall(r"`(nightproof_[a-z_]+)", text))
        for line in pages.shell_lines(text):
            wanted |= {word for word in greps(line) if word.startswith("nightproof_")}

    assert sorted(wanted - served - NOT_HERE) == []
    assert len(wanted) > 40


def test_every_question_to_the_ledger_is_answered(shared_faulty: Served):
    questions = {
        words[1]
        for page in RUNBOOKS.glob("*.md")
        for words in pages.commands_of(page.read_text(encoding="utf-8"), "sqlite3")
    }
    flags = apsw.SQLITE_OPEN_READONLY
    ledger = apsw.Connection(str(shared_faulty.state / "ledger.db"), flags=flags)

    try:
        answers = {question: ledger.execute(question).fetchall() for question in questions}
    finally:
        ledger.close()

    assert len(questions) >= 3
    assert answers["PRAGMA quick_check"] == [("ok",)]


def test_the_server_gives_out_every_page_without_a_key(shared_faulty: Served):
    answers = {
        code: shared_faulty.client.get(f"/runbooks/{code}", headers={"authorization": ""})
        for code in CATALOGUE
    }

    assert {code: answer.status_code for code, answer in answers.items()} == dict.fromkeys(CATALOGUE, 200)
    assert all(answer.text.startswith(f"# {code}: ") for code, answer in answers.items())
