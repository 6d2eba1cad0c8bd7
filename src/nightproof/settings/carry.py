"""Carry settings to another of our own processes, as JSON: every knob, as it was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from nightproof.settings.settings import Settings


def write_settings(settings: Settings) -> bytes:
    """Return the settings as JSON."""
    return msgspec.json.encode(settings, enc_hook=_plain)


def read_settings(written: bytes) -> Settings:
    """Return the settings that `write_settings` wrote."""
    return msgspec.json.decode(written, type=Settings, dec_hook=_path)


# What a hook of msgspec does not know, it says by NotImplementedError: its own contract.


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"a setting of type {type(value).__name__}")


def _path(kind: type, value: Any) -> Any:
    if issubclass(kind, Path):
        return kind(value)
    raise NotImplementedError(f"a setting of type {kind.__name__}")
