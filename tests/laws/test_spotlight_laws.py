"""Marked text stays marked, and no text becomes a role, whatever a document holds."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from nightproof.checks.spotlight import MARK, escape, spotlit, unmarked, words_for
from nightproof.checks.tokens import estimate

BOUNDARY = "0123456789abcdef01234567"
TOKENS = (
    "<|im_start|>", "<|im_end|>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
    "<s>", "</s>", "<start_of_turn>", "<|start_header_id|>", "<|eot_id|>", "[SYSTEM_PROMPT]", "<tool_call>", "</think>",
)  # fmt: skip
HEADERS = ("System:", "assistant :", "### Instruction:", "\tUSER:", "**System prompt:", "  Human:")

pieces = st.lists(
    st.one_of(
        st.sampled_from([*TOKENS, *HEADERS, BOUNDARY, MARK, " ", "\n", "<", "|", ">"]), st.text(max_size=8)
    ),
    max_size=12,
).map("".join)


@given(pieces)
def test_no_reserved_token_and_no_role_header_is_left(text: str):
    escaped = escape(text)

    assert not [token for token in TOKENS if token.lower() in escaped.lower()]
    assert not re.search(r"(?im)^[ \t]*(?:#+[ \t]*)?(?:system|assistant|user|human)[ \t]*:", escaped)


@given(pieces)
def test_escaping_takes_nothing_away_and_twice_is_once(text: str):
    escaped = escape(text)

    assert escaped.replace(" ", "").replace(">", "") == text.replace(" ", "").replace(">", "")
    assert escape(escaped) == escaped


@given(pieces)
def test_a_document_stays_between_its_marks(text: str):
    marked = spotlit(text, BOUNDARY)
    head, *inside, foot = marked.split("\n")

    assert (head, foot) == (f"<<{BOUNDARY}>>", f"<</{BOUNDARY}>>")
    assert BOUNDARY not in "".join(inside)
    assert " " not in "".join(inside)


@given(st.text())
def test_only_spaces_are_marked_and_they_come_back(text: str):
    plain = re.sub("[\ue000-\uf8ff\U000f0000-\U0010ffff]", "", text)

    inside = spotlit(plain, BOUNDARY).removeprefix(f"<<{BOUNDARY}>>\n").removesuffix(f"\n<</{BOUNDARY}>>")

    assert unmarked(inside) == escape(plain)


@given(st.text())
def test_every_text_costs_something_and_more_text_costs_more(text: str):
    assert estimate(text) >= len(text) // 4
    assert estimate(text + text) >= estimate(text)
    assert (estimate(text) == 0) == (text == "")


def test_the_words_name_the_boundary_and_the_mark():
    assert BOUNDARY in words_for(BOUNDARY)
    assert MARK in words_for(BOUNDARY)
