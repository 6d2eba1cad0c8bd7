"""Nightproof serves a model so that it holds at three in the morning, and proves it.

These are the names a service folder imports; everything else is for the command `nightproof`. They are loaded when
they are asked for: a verb, or the process that writes the log, declares nothing and need not wait for Pydantic.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from nightproof.declare import fallback
    from nightproof.declare.fields import Confidence, Fresh, Sensitive, Subject, Usual
    from nightproof.declare.service import Model, Objective, Service

__version__ = "0.1.0"

__all__ = [
    "Confidence",
    "Fresh",
    "Model",
    "Objective",
    "Sensitive",
    "Service",
    "Subject",
    "Usual",
    "__version__",
    "fallback",
]

_HOME = {
    "Confidence": "fields",
    "Fresh": "fields",
    "Model": "service",
    "Objective": "service",
    "Sensitive": "fields",
    "Service": "service",
    "Subject": "fields",
    "Usual": "fields",
}


def __getattr__(name: str) -> _typing.Any:
    """Load a public name (PEP 562)."""
    if name == "fallback":
        return _importlib.import_module("nightproof.declare.fallback")
    if name not in _HOME:
        raise AttributeError(f"module 'nightproof' has no attribute {name!r}")
    found = globals()[name] = getattr(_importlib.import_module(f"nightproof.declare.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
