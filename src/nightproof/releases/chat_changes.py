"""Say in words what changes from one chat release to another: for callers, and for who has to know why it answers so.

Schemas are compared elsewhere. What a caller may no longer do is breaking; all else is told, since a prompt, a model
or a check that is another makes other answers. Pure; works on what manifests hold.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import orjson

from nightproof.declare.chat_description import ChatDescription
from nightproof.releases.compatibility import Change

Json = dict[str, Any]

_WORDS = {
    "parameters": "the parameters",
    "caller_parameters": "what callers may set",
    "caller_system": "what becomes of callers' system messages",
    "max_output_tokens": "the most tokens of an answer",
    "repairs": "how often an answer is sent back",
    "hedge_ms": "the delay of the second upstream",
    "retries_share": "the share that is tried again",
    "spotlight": "whether documents are marked",
    "output": "the rules for answers",
    "budget": "the budget",
    "currency": "the currency",
}
_LIMITS = {
    "max_prompt_bytes": "the most bytes of a request",
    "max_input_tokens": "the most tokens of an input",
}
_STRICTER = {"allow": 0, "approve": 1, "refuse": 2}
_LONGEST = 160


def stated(chat: ChatDescription | None) -> Json | None:
    """Return what a manifest says of a chat release: all of it, with prompt and template as digest and size.

    Of a command only its words after the program: where a Python lies is the machine's affair.
    """
    if chat is None:
        return None
    facts: Json = msgspec.to_builtins(chat)
    for name in ("prompt", "template"):
        facts[name] = _digest(facts[name])
    for one in facts["upstreams"]:
        one["command"] = one["command"][1:]
    return facts


def asks(facts: Json | None) -> str:
    """Name the models that a chat release asks, in order: `gpt-4.1-mini at hosted, shop-1 at local`."""
    upstreams = (facts or {}).get("upstreams", ())
    return ", ".join(f"{one['model']} at {one['name']}" for one in upstreams)


def chat_changes(old: Json | None, new: Json | None) -> list[Change]:
    """Return what changes, breaking changes first. Both are `stated`; None is a release that is no chat, or an old one.

    >>> [str(one) for one in chat_changes({"prompt": "a"}, {"prompt": "b"})]
    ['chat /prompt: is another']
    """
    if old is None or new is None or old == new:
        return []
    changes = [Change("additive", "chat", f"/{name}", "is another") for name in _others(old, new)]
    changes += _upstreams(old, new)
    changes += _checks(old.get("input_checks", {}), new.get("input_checks", {}))
    changes += _tools(old, new)
    if old.get("images") and not new.get("images"):
        changes.append(Change("breaking", "chat", "/images", "images were taken and are now refused"))
    elif new.get("images") and not old.get("images"):
        changes.append(Change("additive", "chat", "/images", "images are now taken"))
    for name, said in _LIMITS.items():
        before, after = old.get(name) or 0, new.get(name) or 0
        if before == after:
            continue
        is_less = bool(after) and (not before or after < before)
        text = f"{said} was {before or 'not set'} and is now {after or 'not set'}"
        changes.append(Change("breaking" if is_less else "additive", "chat", f"/{name}", text))
    for name, said in _WORDS.items():
        if old.get(name) != new.get(name):
            text = f"{said} was {_shown(old.get(name))} and is now {_shown(new.get(name))}"
            changes.append(Change("additive", "chat", f"/{name}", text))
    return sorted(changes, key=lambda one: one.kind != "breaking")


def _others(old: Json, new: Json) -> list[str]:
    return [name for name in ("prompt", "template") if old.get(name) != new.get(name)]


def _upstreams(old: Json, new: Json) -> list[Change]:
    before = {one["name"]: one for one in old.get("upstreams", ())}
    after = {one["name"]: one for one in new.get("upstreams", ())}
    told = []
    for name, one in before.items():
        at = f"/upstreams/{name}"
        if name not in after:
            told.append(Change("additive", "chat", at, f"is no longer asked ({one['model']})"))
        elif one["model"] != after[name]["model"]:
            text = f"its model was {one['model']} and is now {after[name]['model']}"
            told.append(Change("additive", "chat", at, text))
        elif one != after[name]:
            parts = ", ".join(sorted(key for key in after[name] if one.get(key) != after[name][key]))
            told.append(Change("additive", "chat", at, f"is asked in another way ({parts})"))
    told += [
        Change("additive", "chat", f"/upstreams/{name}", f"is asked too ({one['model']})")
        for name, one in after.items()
        if name not in before
    ]
    kept = [name for name in before if name in after]
    if kept != [name for name in after if name in before]:
        told.append(Change("additive", "chat", "/upstreams", f"are asked in the order {', '.join(after)}"))
    return told


def _checks(before: Json, after: Json) -> list[Change]:
    told = []
    for name in dict.fromkeys([*before, *after]):
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        was, now = (part["action"] if part else "not there" for part in (one, other))
        text = f"was {was} and is now {now}" if was != now else f"is still {now}, with other limits"
        told.append(Change("additive", "chat", f"/input_checks/{name}", text))
    return told


def _tools(old: Json, new: Json) -> list[Change]:
    before = {one["name"]: one for one in old.get("tools", ())}
    after = {one["name"]: one for one in new.get("tools", ())}
    told = []
    for name in dict.fromkeys([*before, *after]):
        at = f"/tools/{name}"
        was, now = _policy(before.get(name), old), _policy(after.get(name), new)
        if was != now:
            is_gone = now == "refuse" and _STRICTER[was] < _STRICTER[now]
            text = f"after untrusted content it was {was} and is now {now}"
            told.append(Change("breaking" if is_gone else "additive", "chat", at, text))
        elif before.get(name) != after.get(name):
            told.append(Change("additive", "chat", at, "is declared in another way"))
    was, now = old.get("other_tools", "approve"), new.get("other_tools", "approve")
    if was != now:
        text = f"tools that are not named were {was} and are now {now}"
        told.append(Change("breaking" if now == "refuse" else "additive", "chat", "/other_tools", text))
    return told


def _policy(tool: Json | None, chat: Json) -> str:
    return str(tool["after_untrusted"] if tool else chat.get("other_tools", "approve"))


def _digest(text: str) -> Json:
    written = text.encode("utf-8", "surrogatepass")
    return {"sha256": hashlib.sha256(written).hexdigest(), "bytes": len(written)}


def _shown(value: Any) -> str:
    written = orjson.dumps(value).decode()
    return written if len(written) <= _LONGEST else f"{written[:_LONGEST]}…"
