"""Read the settings: defaults, then `nightproof.toml`, then `NIGHTPROOF_*`, then flags.

Called once by the command line. Promises that every value is inside its knob's bounds and that nothing is
ignored: an unknown name, in whichever source, is a SettingError with the names that are near to it.
Never looks at the process's own environment: the caller hands it in.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightproof.base.errors import SettingError
from nightproof.settings.knob import Knob, knobs_of
from nightproof.settings.settings import SECTIONS, Settings, refuse_contradictions

FILE_NAME = "nightproof.toml"
PREFIX = "NIGHTPROOF_"
CLIENT_VARIABLES = frozenset(
    {
        "NIGHTPROOF_URL",
        "NIGHTPROOF_KEY",
        "NIGHTPROOF_CONFIG",
        "NIGHTPROOF_MASTER_KEY",
        "NIGHTPROOF_TEST_POSTGRES",
    }
)
"""Read by the command line, the vault or our tests themselves; not settings of the server."""

# Kubernetes gives every pod such variables for a Service that is named "nightproof"; they are not ours.
_SERVICE_LINK = re.compile(
    r"NIGHTPROOF_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)"
)
_SERVICE_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://")

ROOT_KNOBS = knobs_of("", Settings)
KNOBS: list[Knob] = ROOT_KNOBS + [one for name, kind in SECTIONS.items() for one in knobs_of(name, kind)]
"""Every knob of every section."""

_BY_DOTTED = {one.dotted: one for one in KNOBS}
# `port` is as good as `server.port`: what everybody sets should be short.
_SHORT = {one.name: one for one in KNOBS if one.section in ("", "server")}

Chosen = dict[str, Any]


def load(toml_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """Read all sources and return the settings.

    `toml_path` None takes `nightproof.toml` of the working directory, if there is one. `flags` are named
    `port`, `limits_quota_per_s` or `limits.quota_per_s`; None means not given.
    """
    chosen: Chosen = {}
    chosen.update(chosen_in_file(toml_path))
    chosen.update(_from_environment(environ))
    chosen.update(_from_flags(flags))
    parts: dict[str, Any] = {
        name: kind(**{one.name: chosen[one.dotted] for one in knobs_of(name, kind) if one.dotted in chosen})
        for name, kind in SECTIONS.items()
    }
    settings = Settings(**parts, **{one.name: chosen[one.name] for one in ROOT_KNOBS if one.name in chosen})
    refuse_contradictions(settings)
    return settings


def chosen_in_file(path: Path | None) -> Chosen:
    """Return what a settings file says, by dotted name; None: that of the working directory, if there is one."""
    if path is None:
        path = Path(FILE_NAME)
        if not path.exists():
            return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read: {error.strerror}.", hint="Name another file with --config."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(
            f"{path} is not TOML: {error}.", hint="Mend the line, or see docs/settings.md."
        ) from error
    chosen: Chosen = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            _refuse_unknown_section(name, source=str(path))
            for inner, inner_value in value.items():
                _choose(chosen, f"{name}.{inner}", inner_value, source=str(path))
        else:
            _choose(chosen, name, value, source=str(path))
    return chosen


def _refuse_unknown_section(name: str, *, source: str) -> None:
    if name not in SECTIONS:
        raise SettingError(f"{source}: the section [{name}] is unknown.", hint=_near(name, SECTIONS))


def _choose(chosen: Chosen, name: str, value: object, *, source: str, is_text: bool = False) -> None:
    one = _BY_DOTTED.get(name) or _SHORT.get(name)
    if one is None:
        raise SettingError(f"{source}: the setting {name} is unknown.", hint=_near(name, _names()))
    _refuse_twice(chosen, one, source=source)
    # What is typed on the command line is text, of numbers too; a file has types.
    chosen[one.dotted] = one.parse(str(value), source=source) if is_text else one.check(value, source=source)


def _refuse_twice(chosen: Chosen, one: Knob, *, source: str) -> None:
    if one.dotted in chosen:
        raise SettingError(f"{source}: {one.dotted} is set twice.", hint="Keep one of the two.")


def _from_environment(environ: Mapping[str, str]) -> Chosen:
    known = {one.variable: one for one in KNOBS}
    known |= {f"{PREFIX}{one.section}_{one.name}".upper(): one for one in KNOBS if one.section}
    chosen: Chosen = {}
    for variable, text in environ.items():
        if (
            not variable.startswith(PREFIX)
            or variable in CLIENT_VARIABLES
            or _is_service_link(variable, text)
        ):
            continue
        one = known.get(variable)
        if one is None:
            raise SettingError(
                f"Environment: {variable} is unknown.", hint=_near(variable, known, after=PREFIX)
            )
        if text == "":
            # Compose files pass NAME= for what was not given.
            continue
        _refuse_twice(chosen, one, source=f"Environment, {variable}")
        chosen[one.dotted] = one.parse(text, source=f"Environment, {variable}")
    return chosen


def _is_service_link(variable: str, text: str) -> bool:
    return bool(
        _SERVICE_LINK.fullmatch(variable) or (variable.endswith("_PORT") and _SERVICE_LINK_VALUE.match(text))
    )


def _from_flags(flags: Mapping[str, object]) -> Chosen:
    by_flag = {one.dotted.replace(".", "_"): one.dotted for one in KNOBS}
    chosen: Chosen = {}
    for name, value in flags.items():
        if value is None:
            continue
        word = name.replace("-", "_")
        source = f"Flag --{word.replace('.', '-').replace('_', '-')}"
        _choose(chosen, by_flag.get(word, word), value, source=source, is_text=isinstance(value, str))
    return chosen


def _names() -> list[str]:
    return [*_BY_DOTTED, *_SHORT]


def _near(name: str, known: Iterable[str], *, after: str = "") -> str:
    words = {one.removeprefix(after): one for one in known}
    close = difflib.get_close_matches(name.removeprefix(after), list(words), n=3, cutoff=0.6)
    return (
        f"Did you mean {' or '.join(words[one] for one in close)}?"
        if close
        else "docs/settings.md lists them."
    )
