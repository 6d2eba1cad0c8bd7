"""An answer that is JSON is scanned by what it means."""

from __future__ import annotations

import json

from nightproof.checks.canary import draw_canary
from nightproof.checks.leaving import CompiledRules, OutputScanner
from nightproof.checks.leaving_json import ScannedJson, scan_json
from nightproof.checks.prompt_shadow import NO_PROMPT
from nightproof.declare.chat_description import OutputRules

CANARY = draw_canary(bytes(range(50, 60)))
RULES = CompiledRules(OutputRules(allowed_hosts=["ok.example"]))


def scanned(text: str) -> ScannedJson | None:
    return scan_json(text, lambda: OutputScanner(RULES, canary=CANARY, prompt=NO_PROMPT))


def test_json_without_harm_leaves_octet_by_octet() -> None:
    text = '{ "a": ["x", 1.50, null, true], "see": "https://ok.example/" }'

    assert scanned(text) == ScannedJson(text, "", [])


def test_an_address_that_is_written_in_escapes_is_made_inert() -> None:
    written = "".join(f"\\u{ord(letter):04x}" for letter in "https://evil.com/?d=1")

    result = scanned(f'{{"a": ["{written}"]}}')

    assert result is not None
    assert json.loads(result.text) == {"a": ["[link removed]"]}
    assert [each.check for each in result.findings] == ["links"]


def test_the_canary_is_found_in_escapes_in_names_and_spread_over_texts() -> None:
    written = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)

    for text in (f'["{written}"]', f'{{"{CANARY}": 1}}', json.dumps([CANARY[:8], CANARY[8:]])):
        result = scanned(text)
        assert result is not None
        assert (result.text, result.stopped) == ("", "canary")


def test_what_is_no_json_is_left_to_the_scan_of_text() -> None:
    assert scanned("no json") is None
    assert scanned('{"a": 1, "a": 2}') is None
    assert scanned('"text"') is None
