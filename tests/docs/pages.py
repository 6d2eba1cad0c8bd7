"""Read what a page of documentation claims: its headings, code blocks, commands, links and settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from nightproof.cli.main import cli
from nightproof.settings.load import CLIENT_VARIABLES, KNOBS
from nightproof.settings.settings import SECTIONS

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SETTING = re.compile(rf"`({'|'.join(SECTIONS)})\.(?!(?:db|lock)\b)([a-z_]+)")
_VARIABLE = re.compile(r"NIGHTPROOF_[A-Z_]+[A-Z]")
_OPERATORS = frozenset({"|", "||", "&&", ";", "&", "(", ")", ">", ">>", "<", "$"})
_IN_FRONT = re.compile(r"[A-Z_]+=.*")


def headings(text: str) -> list[str]:
    """Return the headings in order, outside code blocks."""
    return [line for line in _BLOCK.sub("", text).splitlines() if line.startswith("#")]


def code_blocks(text: str, *languages: str) -> list[str]:
    """Return the code blocks written in one of these languages; `""` is a block that names none."""
    return [code for language, code in _BLOCK.findall(text) if language in languages]


def shell_lines(text: str) -> list[str]:
    """Return the lines of all shell blocks, continued lines joined."""
    code = "\n".join(code_blocks(text, "", "sh"))
    return [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def commands(line: str) -> list[list[str]]:
    """Cut a line of shell into its commands, each a list of words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in _OPERATORS:
            found.append([])
        elif found[-1] or not _IN_FRONT.fullmatch(word):
            found[-1].append(word)
    return [_without_sudo(words) for words in found if words]


def commands_of(text: str, program: str) -> list[list[str]]:
    """Return the arguments of each call of a program in the page's shell blocks."""
    return [
        words[1:] for line in shell_lines(text) for words in commands(line) if Path(words[0]).name == program
    ]


def refuse_wrong_verb(arguments: list[str]) -> None:
    """Parse arguments as `nightproof` would, without doing anything. Raises click.UsageError."""
    words = list(arguments)
    command: click.Command = cli
    context = click.Context(cli, info_name="nightproof")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no verb {name!r} in: nightproof {' '.join(arguments)}")
        command, context = found, click.Context(found, parent=context, info_name=name)
    try:
        command.make_context(command.name, words, parent=context.parent)
    except click.exceptions.Exit:
        pass  # --help and --version end here


def links(text: str) -> list[str]:
    """Return the targets of all links, outside code blocks."""
    return _LINK.findall(_BLOCK.sub("", text))


def unknown_settings(text: str) -> list[str]:
    """Return what is written like a setting or a variable of ours and is none."""
    dotted = {one.dotted for one in KNOBS}
    variables = {one.variable for one in KNOBS} | CLIENT_VARIABLES
    variables |= {f"NIGHTPROOF_{one.section}_{one.name}".upper() for one in KNOBS}
    wrong = [
        f"{section}.{name}" for section, name in _SETTING.findall(text) if f"{section}.{name}" not in dotted
    ]
    wrong += [name for name in _VARIABLE.findall(text) if name not in variables]
    for words in commands_of(text, "nightproof"):
        chosen = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        wrong += [one for one in chosen if one.partition("=")[0] not in dotted]
    return wrong


def _without_sudo(words: list[str]) -> list[str]:
    return words[3:] if words[:2] == ["sudo", "-u"] else words
