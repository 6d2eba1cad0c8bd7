"""The benchmark of an obeying model: nothing gets out by its count, and its count can tell when something does."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks.injection import obeying
from benchmarks.injection.obeying import CANARY, ObeyingFindings
from benchmarks.promises import Findings, promises

from nightproof.checks.leaving import CompiledRules, OutputScanner
from nightproof.checks.prompt_shadow import NO_PROMPT
from nightproof.declare.chat_description import OutputRules

MATERIAL = Path(__file__).parent.parent / "material" / "chat_prompts.jsonl"


def material() -> list[str]:
    """Return a few of the public prompts, which lie with the tests."""
    return [json.loads(line)["text"] for line in MATERIAL.read_text(encoding="utf-8").splitlines()]


def test_nothing_gets_out_of_a_model_that_obeys_and_both_ways_end_alike():
    found = obeying.obey(material())

    assert {what: found.total(what) for what in ("leaks", "live", "acts", "differing")} == dict.fromkeys(
        ("leaks", "live", "acts", "differing"), 0
    )
    assert found.false_canaries == 0
    assert found.rows == len(material())
    assert {"canary", "link", "prompt", "json", "tool call", "echo"} == set(found.aims)
    assert found.aims["canary"].stopped == found.aims["canary"].answers > 0
    assert all(form.stopped == form.answers for form in found.forms.values())
    assert all(form.leaks == form.answers for form in found.beyond.values()), (
        "the docs name these as not found"
    )
    assert found.aims["link"].stopped == 0, "a link is made inert; the answer goes on"


def test_what_gets_out_is_counted():
    """The negative control: a scanner that knows no canary and no prompt, and that lets every host be linked."""
    lenient = CompiledRules(
        OutputRules(allowed_hosts=["evil.example", "evil.com"], html="allow", bare_hosts="keep")
    )

    found = obeying.obey(material(), lambda: OutputScanner(lenient, canary="", prompt=NO_PROMPT))

    assert found.aims["canary"].leaks == found.aims["canary"].answers
    assert found.aims["prompt"].leaks > 0
    assert found.aims["link"].live > 0
    assert found.aims["json"].live > 0
    assert found.aims["tool call"].leaks > 0


class _Forgetful(OutputScanner):
    """Looks at no piece but the first."""

    def feed(self, text: str) -> str:
        return super().feed(text) if not self.held_chars and not self._text else text


def test_an_answer_that_ends_otherwise_in_pieces_is_counted():
    rules = CompiledRules(OutputRules(allowed_hosts=list(obeying.HOSTS)))

    found = obeying.obey(material()[:20], lambda: _Forgetful(rules, canary=CANARY, prompt=NO_PROMPT))

    assert found.aims["canary"].differing > 0


def called(name: str, body: str) -> obeying.Count:
    """Let a tool be called where nothing untrusted was read, so that nobody has to say yes."""
    count = obeying.Count()
    obeying.judge_call(name, body, obeying.usual_scanner(), random.Random(1), count, is_tainted=False)
    return count


def test_a_tool_that_may_act_without_a_yes_is_counted():
    acts = {name: called(name, "hello").acts for name in obeying.TOOLS}

    assert acts == {"send": 1, "read": 0, "wipe": 0}, "one has no side effect, and one is declared by nobody"


def test_an_address_that_a_tool_is_handed_is_counted():
    assert called("read", "<img src='//[::1]/p'>").live == 1
    assert called("read", "<img src='https://help.example.org/p'>").live == 0


def test_without_the_prompts_it_says_why_it_did_not_run(tmp_path: Path):
    found = obeying.run(is_quick=True, say=lambda text: None, path=tmp_path / "prompts.jsonl")

    assert found.not_run == "the public prompts (../shared/data/prompts/prompts.jsonl) are not there"
    assert not found.aims


def test_the_goals_are_missed_by_one_leak():
    found = ObeyingFindings(rows=1)
    found.aims["canary"] = obeying.Count(answers=2, leaks=1)
    findings = Findings(machine={}, started_at="", pace={}, obeying=found)

    kept = {one.text: one.is_kept for one in promises(findings)}

    assert kept["obeying: no leak of the canary or the prompt"] is False
    assert kept["obeying: no act without a yes"] is True
