"""The words of a chat service's declaration, under the names that users import: Budget, Check, OutputRules, Tool.

They are the parts of the description themselves: what is written is what travels. And the functions here hold them
to what can be served.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, cast, get_args

import msgspec

from nightproof.base.errors import DeclarationError
from nightproof.declare.chat_description import (
    AfterUntrusted,
    BudgetDescription,
    CheckAction,
    InputCheckDescription,
    OutputRules,
    ToolDescription,
    WhenFails,
)

__all__ = ["BUILT_IN_CHECKS", "Budget", "Check", "OutputRules", "Tool"]

Budget = BudgetDescription
Check = InputCheckDescription
Tool = ToolDescription

BUILT_IN_CHECKS: dict[str, InputCheckDescription] = {
    "hidden_text": Check(action="refuse", budget_ms=1_000),
    "injection_rules": Check(action="refuse", budget_ms=1_000),
    "injection_model": Check(action="flag", budget_ms=2_000),
    "secrets": Check(action="redact", budget_ms=1_000),
    "personal": Check(action="flag", budget_ms=1_000),
}
"""What looks at every input unless the service says otherwise: rules refuse, the model layer flags, keys are taken out.
Budgets of local checks are for the longest prompt on a busy machine."""

_ADAPTER = re.compile(r"https?://[^\s@]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_CHECK_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_CAN_REDACT = frozenset(("hidden_text", "personal", "secrets"))

_KEYS = re.compile(
    r"\bsk-[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[0-9A-Za-z_-]{30,}|\bglpat-[\w-]{20,}|\bhf_[A-Za-z0-9]{30,}"
    r"|\bnpk_[a-z]+_[0-9A-Za-z]{30,}|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_LONG_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_RANDOM_BITS = 4.0
"""Shannon entropy per character from which a long token of mixed kinds looks drawn, not written."""


def checks_of(service: str, given: Any) -> dict[str, InputCheckDescription]:
    """Return every built-in check with what the declaration says over it, and its adapters."""
    checks = dict(BUILT_IN_CHECKS)
    for name, said in dict(given or {}).items():
        check = said
        if isinstance(said, str):
            usual = BUILT_IN_CHECKS.get(name, Check(action="flag"))
            check = msgspec.structs.replace(usual, action=cast(CheckAction, said))
        where = f"checks[{name!r}]"
        if not isinstance(check, InputCheckDescription):
            raise _wrong(service, where, said, "Give an action, or Check(action=…, when_fails=…).")
        if name not in BUILT_IN_CHECKS and not check.adapter:
            raise DeclarationError(
                f"Service {service!r}: there is no check {name!r}.",
                hint=f"Built in are {', '.join(BUILT_IN_CHECKS)}. One of another name needs an adapter=….",
            )
        if not isinstance(name, str) or not _CHECK_NAME.fullmatch(name):
            raise _wrong(service, "a check's name", name, "Use lower-case letters, digits and '_'.")
        if check.action not in get_args(CheckAction):
            raise _wrong(service, f"{where}.action", check.action, "Use refuse, flag, redact or off.")
        if check.action == "redact" and name in BUILT_IN_CHECKS and name not in _CAN_REDACT:
            raise DeclarationError(
                f"Service {service!r}: {name} finds attacks, and these cannot be taken out of a text.",
                hint="Use refuse, flag or off; redact is for personal, secrets and hidden_text.",
            )
        if check.when_fails not in get_args(WhenFails):
            raise _wrong(service, f"{where}.when_fails", check.when_fails, "Use closed or open.")
        if not _is_number(check.budget_ms) or not 0.1 <= check.budget_ms <= 10_000:
            raise _wrong(service, f"{where}.budget_ms", check.budget_ms, "Give 0.1 to 10000.")
        if not _is_number(check.threshold) or not 0 <= check.threshold <= 1:
            raise _wrong(service, f"{where}.threshold", check.threshold, "Give 0 to 1; 0 is the check's own.")
        if check.adapter and not _ADAPTER.fullmatch(check.adapter):
            raise _wrong(
                service,
                f"{where}.adapter",
                check.adapter,
                "Give http(s)://… of a service, or module:function of a file beside service.py.",
            )
        checks[name] = check
    return checks


def refuse_bad_rules(service: str, rules: Any) -> None:
    """Hold the rules for answers to what the scanner can carry out."""
    if not isinstance(rules, OutputRules):
        raise _wrong(service, "rules", rules, "Give OutputRules(allowed_hosts=[…], banned=[…]).")
    for host in _texts(service, "rules.allowed_hosts", rules.allowed_hosts):
        if not _HOST.fullmatch(host):
            raise _wrong(
                service,
                "rules.allowed_hosts",
                host,
                "Give a host in lower case without scheme or path: shop.example, or *.shop.example.",
            )
    import re2  # only where there are rules to compile

    options = re2.Options()
    options.log_errors = False
    for pattern in _texts(service, "rules.banned", rules.banned):
        try:
            compiled = re2.compile(pattern, options)
        except re2.error as error:
            why = error.args[0].decode(errors="replace") if error.args else "no reason given"
            raise _wrong(
                service,
                "rules.banned",
                pattern,
                f"RE2 does not take it: {why}. Look-around and back-references are not in RE2.",
            ) from error
        if compiled.search("") is not None:
            raise _wrong(
                service, "rules.banned", pattern, "It fits the empty text, so every answer would be withheld."
            )
    _texts(service, "rules.sayable", rules.sayable)
    for word, value, choices in (
        ("html", rules.html, ("remove", "allow")),
        ("bare_hosts", rules.bare_hosts, ("inert", "keep")),
        ("prompt_leak", rules.prompt_leak, ("withhold", "flag", "off")),
        ("secrets", rules.secrets, ("withhold", "redact", "flag", "off")),
        ("personal", rules.personal, ("withhold", "redact", "flag", "off")),
    ):
        if value not in choices:
            raise _wrong(service, f"rules.{word}", value, f"Use {', '.join(choices)}.")
    for word, number, low, high in (
        ("max_chars", rules.max_chars, 1, 16_777_216),
        ("hold_back_chars", rules.hold_back_chars, 64, 65_536),
    ):
        if not _is_number(number) or not low <= number <= high:
            raise _wrong(service, f"rules.{word}", number, f"Give a number from {low} to {high}.")


def tools_of(service: str, given: Any, other_tools: Any) -> list[ToolDescription]:
    """Return the tools' policies; a name alone is a tool with a side effect that needs approval."""
    if other_tools not in get_args(AfterUntrusted):
        raise _wrong(service, "other_tools", other_tools, "Use allow, approve or refuse.")
    tools = [Tool(name=one) if isinstance(one, str) else one for one in given]
    for tool in tools:
        if not isinstance(tool, ToolDescription):
            raise _wrong(service, "tools", tool, "Give Tool(name=…, has_side_effect=…) or a name.")
        if not isinstance(tool.name, str) or not _TOOL_NAME.fullmatch(tool.name):
            raise _wrong(service, "a tool's name", tool.name, "Use 1 to 64 of letters, digits, '_' and '-'.")
        if tool.after_untrusted not in get_args(AfterUntrusted):
            raise _wrong(
                service, f"{tool.name}.after_untrusted", tool.after_untrusted, "Use allow, approve or refuse."
            )
        if tool.parameters is not None and tool.parameters.get("type") != "object":
            raise _wrong(
                service,
                f"{tool.name}.parameters",
                tool.parameters,
                'Give a JSON Schema of type "object", for example from MyArguments.model_json_schema().',
            )
    if twice := [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]:
        raise _wrong(service, "tools", twice[0], "Declare each tool once.")
    return tools


def refuse_bad_budget(service: str, budget: Any) -> None:
    """Hold the budget to numbers that are limits."""
    if not isinstance(budget, BudgetDescription):
        raise _wrong(service, "budget", budget, "Give Budget(tokens_per_minute=…, cost_per_day=…).")
    for word in budget.__struct_fields__:
        value = getattr(budget, word)
        if not _is_number(value) or not 0 <= value <= 1e15:
            raise _wrong(service, f"budget.{word}", value, "Give a number from 0 (no limit).")


def refuse_keys_in(service: str, where: str, text: str) -> None:
    """Refuse a text of the operator's that holds what is certainly a key; it is never quoted."""
    if (found := _KEYS.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise DeclarationError(
            f"Service {service!r}: line {line} of the {where} holds a key or a private key.",
            hint="Whoever gets the model to repeat its prompt has it. Take it out, and change it.",
        )


def random_tokens(text: str) -> list[int]:
    """Return the lines that hold a long token which looks drawn at random: it may be a secret, or a harmless id."""
    return sorted(
        {text.count("\n", 0, one.start()) + 1 for one in _LONG_TOKEN.finditer(text) if _looks_random(one[0])}
    )


def _looks_random(token: str) -> bool:
    kinds = sum(any(map(kind, token)) for kind in (str.isupper, str.islower, str.isdigit))
    counts = Counter(token).values()
    bits = -sum(count / len(token) * math.log2(count / len(token)) for count in counts)
    return kinds == 3 and bits >= _RANDOM_BITS


def _texts(service: str, where: str, given: Any) -> list[str]:
    if isinstance(given, str) or not all(isinstance(one, str) and one for one in given):
        raise _wrong(service, where, given, "Give a list of texts.")
    return list(given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(service: str, where: str, value: Any, hint: str) -> DeclarationError:
    return DeclarationError(f"Service {service!r}: {where} is {value!r}.", hint=hint)
