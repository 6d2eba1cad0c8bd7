"""What README and the other pages promise exists: targets, verbs, settings, files; and their snippets run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nightproof import Service
from nightproof.base.failures import CATALOGUE
from nightproof.settings.settings import ReceivingSettings, ServerSettings
from tests.docs import pages
from tests.serving import Served, run_nightproof, serving

README = pages.ROOT / "README.md"
DEPLOY = pages.ROOT / "deploy"
PAGES = sorted(
    [
        README,
        pages.ROOT / "CHANGELOG.md",
        *(pages.ROOT / "docs").rglob("*.md"),
        *(pages.ROOT / "examples").rglob("README.md"),
    ]
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))


def readme() -> str:
    return README.read_text(encoding="utf-8")


def snippet_with(word: str) -> str:
    """Return the one Python snippet of the README that holds this word."""
    (found,) = [code for code in pages.code_blocks(readme(), "python") if word in code]
    return found


def test_every_make_target_in_the_readme_is_in_the_makefile():
    makefile = (pages.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))

    wanted = {word for words in pages.commands_of(readme(), "make") for word in words}

    assert {"serve", "test"} <= wanted
    assert wanted - targets == set()


@each_page
def test_every_verb_on_the_page_exists_with_its_options(page: Path):
    for arguments in pages.commands_of(page.read_text(encoding="utf-8"), "nightproof"):
        pages.refuse_wrong_verb(arguments)


def test_the_readme_shows_every_verb():
    shown = {words[0] for words in pages.commands_of(readme(), "nightproof")} | set(
        re.findall(r"`nightproof ([a-z]+)", readme())
    )

    assert shown >= {"new", "check", "serve", "status", "keys", "quarantine"}


@each_page
def test_every_setting_on_the_page_is_one(page: Path):
    # The page of settings also names a variable that is none, to say so.
    known = ["NIGHTPROOF_SERVICE_HOST"] if page.name == "settings.md" else []

    assert pages.unknown_settings(page.read_text(encoding="utf-8")) == known


@each_page
def test_every_link_on_the_page_leads_somewhere(page: Path):
    targets = [link for link in pages.links(page.read_text(encoding="utf-8")) if "://" not in link]

    missing = [link for link in targets if not (page.parent / link.partition("#")[0]).exists()]

    assert missing == []


@each_page
def test_every_python_snippet_on_the_page_compiles(page: Path):
    for code in pages.code_blocks(page.read_text(encoding="utf-8"), "python"):
        compile(code, str(page), "exec")


def test_every_file_named_in_the_life_of_a_request_exists():
    page = (pages.ROOT / "docs" / "life-of-a-request.md").read_text(encoding="utf-8")
    source = pages.ROOT / "src" / "nightproof"

    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page))

    assert named
    assert [name for name in sorted(named) if not (source / name).exists()] == []


def test_every_decision_says_what_it_costs_and_when_to_look_again():
    decisions = sorted((pages.ROOT / "docs" / "decisions").glob("*.md"))
    parts = ["**Question.**", "**Choice.**", "**Price.**", "**Look again**"]

    lacking = {
        page.name: part
        for page in decisions
        for part in parts
        if part not in page.read_text(encoding="utf-8")
    }

    assert lacking == {}
    numbers = [page.name[:3] for page in decisions]
    assert all(number.isdecimal() for number in numbers)
    assert len(set(numbers)) == len(numbers), "each number is given once; gaps are no harm"


def test_the_service_in_the_readme_is_a_service():
    module: dict[str, object] = {}

    exec(compile(snippet_with("class Applicant"), "service.py", "exec"), module)

    service = module["service"]
    assert isinstance(service, Service)
    assert [check.name for check in service.output_checks] == ["no_approval_without_income"]


def test_the_failures_in_the_readme_have_the_status_that_it_says():
    claims = re.findall(r"\b([45]\d\d) `([a-z_]+)`", readme())

    wrong = [(status, name) for status, name in claims if int(status) not in CATALOGUE[name].statuses]

    assert len(claims) >= 8
    assert wrong == []


def test_the_unit_file_starts_a_verb_that_exists_and_leaves_it_time_to_drain():
    unit = dict(
        re.findall(r"^([A-Z]\w+)=(.+)$", (DEPLOY / "nightproof.service").read_text("utf-8"), re.MULTILINE)
    )

    program, *arguments = unit["ExecStart"].split()
    pages.refuse_wrong_verb(arguments)

    assert Path(program).name == "nightproof"
    assert unit["Restart"] == "always"
    assert unit["KillMode"] == "mixed"
    # The pause before, workers, the ledger and connections after: see `gateway.server` and `runtime.stop`.
    assert float(unit["TimeoutStopSec"]) >= ServerSettings().stop_within_s + 20
    assert int(unit["LimitNOFILE"]) > ReceivingSettings().connections_total


def test_the_image_starts_a_verb_that_exists_from_files_that_exist():
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (\[.+\])$", dockerfile, re.MULTILINE)
    copied = [
        word
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for word in line.split()[:-1]
    ]

    pages.refuse_wrong_verb(json.loads(command))

    assert 'ENTRYPOINT ["nightproof"]' in dockerfile
    assert [name for name in copied if not (pages.ROOT / name).exists()] == []


def test_the_answer_in_the_readme_has_the_form_of_the_examples_answer(served_credit: Served):
    (shown,) = [json.loads(code) for code in pages.code_blocks(readme(), "json")]

    answer = served_credit.predict(served_credit.example).json()

    assert set(answer) == set(shown)
    assert set(answer["output"]) == set(shown["output"])
    assert answer["service"] == shown["service"]


def test_the_paths_in_the_readme_are_served(shared_faulty: Served):
    wanted = set(re.findall(r"localhost:8000(/[a-z_/]+)", readme())) | set(
        re.findall(r"`(/[a-z]+z|/metrics|/docs|/v2|/openapi\.json)`", readme())
    )

    missing = [path for path in sorted(wanted) if shared_faulty.client.get(path).status_code == 404]

    assert {"/livez", "/readyz", "/startupz", "/healthz", "/metrics"} <= wanted
    assert missing == []


def test_the_snippet_for_open_inference_runs_against_the_starter(tmp_path: Path):
    made = run_nightproof("new", "late", cwd=tmp_path)
    assert made.returncode == 0, made.stderr

    with serving(tmp_path / "late", tmp_path / "state") as served:
        snippet = snippet_with("tritonclient").replace("localhost:8000", served.host)
        done = subprocess.run(
            [sys.executable, "-c", snippet],
            env={"KEY": served.key, "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[False  True]")
