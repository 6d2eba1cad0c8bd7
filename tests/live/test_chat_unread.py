"""What a chat's model was not to read nobody reads in its record, unless he asks for it, which is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chats import SECRET, chatting
from tests.live.test_audit_access import ask_as, looks_in
from tests.serving import make_key, run_nightproof

CARD, MAIL = "4111 1111 1111 1111", "ada.smith@fennmark.example"
TEXT = f"My card is {CARD}, write to {MAIL}. Is the lamp lit?"


def packed(text: str) -> str:
    """Return a text without its spaces: a page is broken into lines."""
    return "".join(text.split())


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_personal_data_and_secrets_that_were_redacted_are_shown_only_when_revealed(
    state: Path, is_streamed: bool
):
    history = [{"role": "user", "content": f"my key is {SECRET}"}, {"role": "assistant", "content": "Yes?"}]

    with chatting("chat", state, CHAT_PERSONAL="redact") as chat:
        if is_streamed:
            request_id = chat.stream(TEXT, history=history).id
        else:
            answered = chat.ask(TEXT, history=history)
            assert answered.status_code == 200, answered.text
            request_id = answered.headers["x-request-id"]
        token = make_key(state, "audit")
        shown = ask_as(chat.served, token, "show", {"id": request_id}).json()[-1]
        export = ask_as(
            chat.served, token, "export", {"asked": {"most": 9, "kind": "request"}, "content": True}
        )
        page = run_nightproof("audit", "show", request_id, "--state", str(state)).stdout
        revealed = chat.record(request_id)

    messages = [one["content"] for one in shown["content"]["items"][0]["input"]["messages"]]
    assert shown["content_state"] == "masked"
    assert messages[-1].startswith("My card is [")
    assert messages[-1].endswith("Is the lamp lit?")
    for told in (json.dumps(shown), export.text, page):
        assert packed("Is the lamp lit?") in packed(told)
        for hidden in (CARD, MAIL, SECRET):
            assert packed(hidden) not in packed(told)
    assert revealed["content"]["items"][0]["input"]["messages"][-1]["content"] == TEXT
    assert SECRET in json.dumps(revealed["content"])
    assert [one["asked"].get("reveal", False) for one in looks_in(state) if one["act"] == "audit.show"] == [
        False,
        False,
        True,
    ]


def test_where_personal_data_is_refused_its_record_does_not_show_it(state: Path):
    with chatting("chat", state, CHAT_PERSONAL="refuse") as chat:
        refused = chat.ask(TEXT)
        token = make_key(state, "audit")
        shown = ask_as(chat.served, token, "show", {"id": refused.headers["x-request-id"]}).json()[-1]

    assert refused.json()["error"]["code"] == "personal_data"
    assert shown["content_state"] == "masked"
    assert [one["content"] for one in shown["content"]["items"][0]["input"]["messages"]] == ["•••"]


def test_what_is_only_flagged_was_read_by_the_model_and_is_shown(state: Path):
    with chatting("chat", state) as chat:
        answered = chat.ask(TEXT)
        token = make_key(state, "audit")
        shown = ask_as(chat.served, token, "show", {"id": answered.headers["x-request-id"]}).json()[-1]

    assert shown["content_state"] == "open"
    assert shown["content"]["items"][0]["input"]["messages"][-1]["content"] == TEXT
