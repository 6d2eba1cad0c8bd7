"""A prompt change is a release: it canaries, and one that is worse by the output checks goes back by itself."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import httpx

from tests.chats import Chatting, chat_folder, chatting
from tests.live.test_promotion import flags, parts
from tests.serving import run_nightproof, wait_until

ADMIN = "/admin/releases/chat"
GOOD = "You are the assistant of the lighthouse keepers of Fennmark. You answer politely, and in short sentences."
BAD = f"{GOOD} [[say I have heard that lamp oil costs 40 this year.]]"
"""With it the model says what the service's rules ban: the upstream of the tests does what its prompt cues."""


def release(chat: Chatting, parent: Path, version: str, prompt: str) -> None:
    """Release the service with another prompt, through the running server."""
    parent.mkdir()
    folder = chat_folder("chat", parent, chat.upstreams, CHAT_PROMPT=prompt)
    done = run_nightproof(
        "release", str(folder), "--version", version, "--state", str(chat.served.state), "--json"
    )
    assert done.returncode == 0, done.stderr + done.stdout


async def ask_on(chat: Chatting, ended: asyncio.Event, statuses: list[tuple[str, int]]) -> None:
    """Ask from eight callers until told to end; note which release answered, and how."""
    number = itertools.count()
    headers = {"authorization": f"Bearer {chat.served.key}"}

    async def one(client: httpx.AsyncClient) -> None:
        while not ended.is_set():
            text = f"When does the tide turn on day {next(number)}?"
            body: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": text}]}
            answer = await client.post("/v1/chat/completions", json=body)
            statuses.append((answer.json().get("system_fingerprint", ""), answer.status_code))

    async with httpx.AsyncClient(base_url=chat.served.base_url, headers=headers, timeout=30) as client:
        await asyncio.gather(*(one(client) for _ in range(8)))


def test_a_prompt_that_is_worse_by_the_output_checks_is_taken_back_by_itself(tmp_path: Path):
    settings = flags(canary_steps="10,50")
    with chatting("chat", tmp_path / "state", *settings, CHAT_PROMPT=GOOD) as chat:
        release(chat, tmp_path / "worse", "2.0", BAD)
        statuses: list[tuple[str, int]] = []

        async def story() -> None:
            ended = asyncio.Event()
            asking = asyncio.create_task(ask_on(chat, ended, statuses))
            begun = await asyncio.to_thread(
                chat.served.operate,
                "POST",
                f"{ADMIN}/promote",
                {"version": "2.0", "way": "canary", "share": 0.1},
            )
            assert begun.status_code == 200, begun.text
            await asyncio.to_thread(wait_until, lambda: "canary" not in parts(chat.served))
            ended.set()
            await asking

        asyncio.run(story())
        operate = chat.served.operate("GET", f"{ADMIN}/history").json()
        last = operate["acts"][0]
        assert (last["act"], last["version"], last["who"]) == ("canary_worse", "2.0", "nightproof")
        assert parts(chat.served)["live"] != "2.0"
        told = {release for release, status in statuses if status == 200}
        assert "2.0" not in told, "what the rules ban never came to a caller"
        assert chat.ask("Hello").status_code == 200


def test_a_prompt_goes_live_and_back_without_a_failed_request(tmp_path: Path):
    with chatting("chat", tmp_path / "state", CHAT_PROMPT=GOOD) as chat:
        before = parts(chat.served)["live"]
        release(chat, tmp_path / "better", "2.0", f"{GOOD} You greet nobody twice.")
        statuses: list[tuple[str, int]] = []

        async def story() -> None:
            ended = asyncio.Event()
            asking = asyncio.create_task(ask_on(chat, ended, statuses))
            promoted = await asyncio.to_thread(
                chat.served.operate, "POST", f"{ADMIN}/promote", {"version": "2.0"}
            )
            assert promoted.status_code == 200, promoted.text
            await asyncio.to_thread(wait_until, lambda: any(one == "2.0" for one, _ in statuses))
            back = await asyncio.to_thread(chat.served.operate, "POST", f"{ADMIN}/rollback", {})
            assert back.status_code == 200, back.text
            count = len(statuses)
            await asyncio.to_thread(wait_until, lambda: len(statuses) > count + 20)
            ended.set()
            await asking

        asyncio.run(story())
        assert {status for _, status in statuses} == {200}
        assert chat.ask("Hello").json()["system_fingerprint"] == before


def test_neither_a_shadow_nor_a_replay_is_taken_for_what_always_differs(tmp_path: Path):
    with chatting("chat", tmp_path / "state", CHAT_PROMPT=GOOD) as chat:
        release(chat, tmp_path / "other", "2.0", f"{GOOD} You greet nobody twice.")
        refused = chat.served.operate("POST", f"{ADMIN}/promote", {"version": "2.0", "way": "shadow"})
        assert refused.status_code == 422
        assert "chat service" in refused.json()["detail"]
        replayed = run_nightproof("replay", "chat", "--to", "2.0", "--state", str(chat.served.state))
        assert replayed.returncode != 0
        assert "chat service" in replayed.stderr + replayed.stdout
