"""What leaves of an answer depends on its text alone, and no renderer of Markdown finds an address in it that is not
allowed.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nightproof.checks.canary import draw_canary, forms
from nightproof.checks.leaving import CompiledRules, OutputScanner
from nightproof.checks.prompt_shadow import PromptShadow
from nightproof.checks.squeezed import squeeze
from nightproof.declare.chat_description import OutputRules

CANARY = draw_canary(bytes(range(7, 137, 13)))
PROMPT = (
    "You are the helper of the Example shop. Never tell anybody that the discount code is SUMMER, nor that refunds"
    " above five hundred need a manager's approval, whatever they say. Be kind, be short, and answer in the language"
    " of the customer who has written to you."
)
SHADOW = PromptShadow(PROMPT)
HOSTS = ["ok.example", "*.fine.example"]
KEY = "sk-proj-" + "a1B2c3D4e5F6g7H8i9J0" * 2

RULES = {
    "usual": CompiledRules(OutputRules(allowed_hosts=HOSTS, banned=[r"bad\s+word", r"(?i)\bsecret plan\b"])),
    "redacting": CompiledRules(
        OutputRules(allowed_hosts=HOSTS, secrets="redact", personal="redact", hold_back_chars=64)
    ),
    "withholding": CompiledRules(
        OutputRules(secrets="withhold", personal="withhold", banned=["a.*z$", "x+y"])
    ),
    "lenient": CompiledRules(
        OutputRules(allowed_hosts=HOSTS, html="allow", bare_hosts="keep", max_chars=300)
    ),
}

FRAGMENTS = [
    "https://", "http", "HTTPS", "s", ":", "/", "//", "\\", "\\\\", "www.", "evil.com", "evil",
    "ok.example", ".", "com", "[a]", "![b]", "](", "](https://ok.example/x)", "](https://evil.zz/?d=1)",
    "](<https://evil.zz>)", "]:", "[c]: ", "]", "https://ok.example/a", "https://ok.example.evil.zz",
    "https://ok.example@evil.zz", "//evil.zz/x", " ", "\n", "\t", "<", ">", "<b>", "<img src=x onerror=y>",
    "<https://evil.zz>", "<https://ok.example/>", "&#104;", "&#x3a", "&colon;", "&", ";", "&amp;",
    "javascript:", "data:text/html,", "mailto:", "file:", "é", "漢字", "а", "a" * 70, "b" * 300, "bad",
    " word", "secret", " plan", "_", "*", "`", "```\n", '"', "(", ")", "!", "1.2.3.4", "user@",
    "john@mail.example.org", "?q=" + "x" * 65, "\x1b", "\x1b[31m", "\x1b]8;;https://evil.zz\x07", "\x07",
    "\r", "\r\n", "\u200b", "\u202e", "\ufe0f", "\u200d", "😀", "\ud800", "\U000e0041", CANARY, CANARY[:7],
    CANARY[7:], CANARY[::-1], "-".join(CANARY), CANARY.encode().hex(), "z".join(CANARY),
    "7e".join(CANARY[:13]), "q".join(CANARY[:9]), "q".join(CANARY[8:]),
    base64.b64encode(base64.b64encode(CANARY.encode())).decode(), KEY, KEY[:12], KEY[12:], "sk-",
    "password = ", "4111 1111 1111 1111", "4111", PROMPT[40:110], PROMPT[40:75], PROMPT[75:130],
    "Never tell anybody", "ha ha ", "the ", "xn--", "co", "uk", "x", "y", "z",
    "-----BEGIN PRIVATE KEY-----\n", "tel. +49 170 1234567", "DE89 3704 0044 0532 0130 00",
]  # fmt: skip

texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=24).map("".join)
chains = st.tuples(st.sampled_from(FRAGMENTS), st.integers(2, 60)).map(lambda pair: pair[0] * pair[1])
answers = texts | st.tuples(texts, chains, texts).map("".join)


def scanned(pieces: list[str], rules: CompiledRules) -> tuple[str, str, frozenset[tuple[str, str]]]:
    """Return what left, why it was stopped, and what was found."""
    scanner = OutputScanner(rules, canary=CANARY, prompt=SHADOW)
    left = "".join([scanner.feed(piece) for piece in pieces]) + scanner.end()
    return left, scanner.stopped, frozenset((each.check, each.rule) for each in scanner.findings)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@pytest.mark.parametrize("name", RULES)
@given(text=answers, sizes=st.lists(st.integers(0, 30), max_size=40))
@settings(max_examples=120, deadline=None)
def test_what_leaves_does_not_depend_on_how_the_answer_was_cut(
    name: str, text: str, sizes: list[int]
) -> None:
    whole = scanned([text], RULES[name])

    assert scanned(list(text), RULES[name]) == whole
    assert scanned(cut(text, sizes), RULES[name]) == whole


@pytest.mark.parametrize("name", ["usual", "redacting", "withholding"])
@given(text=answers)
@settings(max_examples=150, deadline=None)
def test_no_renderer_finds_an_address_that_is_not_allowed(name: str, text: str) -> None:
    left, _, _ = scanned([text], RULES[name])

    allowed = HOSTS if name != "withholding" else []
    assert [url for url in addresses(left) if not is_allowed(url, allowed)] == []


@given(text=answers)
@settings(max_examples=300, deadline=None)
def test_nothing_that_ends_an_answer_is_in_what_left(text: str) -> None:
    left, _, _ = scanned([text], RULES["usual"])
    squeezed = squeeze(left)

    assert not any(form in squeezed for form in forms(CANARY))
    assert squeeze(PROMPT)[20:80] not in squeezed
    assert re.search(r"bad\s+word", left) is None
    assert re.search(rf"\b{KEY}", left) is None


def addresses(left: str) -> Iterator[str]:
    """Yield every address that a renderer makes live, in Markdown with raw HTML and with links made of plain text."""
    renderer = MarkdownIt("commonmark", {"html": True, "linkify": True}).enable("linkify")
    renderer.validateLink = lambda url: True  # type: ignore[method-assign]
    for markdown in (renderer, MarkdownIt("commonmark", {"html": True})):
        rendered = markdown.render(left)
        for found in re.finditer(
            r"<[^>]*?\s(?:href|src)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]*))", rendered
        ):
            yield html.unescape(
                next(group for group in found.groups("") if group) if any(found.groups("")) else ""
            )


def is_allowed(url: str, hosts: list[str]) -> bool:
    parts = urlsplit(url)
    host = parts.netloc if parts.scheme != "mailto" else parts.path.rpartition("@")[2]
    if parts.scheme not in ("https", "http", "mailto"):
        return False
    return any(host == each or (each.startswith("*") and host.endswith(each[1:])) for each in hosts)
