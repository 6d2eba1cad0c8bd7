"""Nightproof serves a model so that it holds at three in the morning, and proves it.

These are the names a service folder imports; everything else is for the command `nightproof`. They are loaded when
they are asked for: a verb, or the process that writes the log, declares nothing and need not wait for Pydantic.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from nightproof.declare import fallback, upstream
    from nightproof.declare.chat import ChatService
    from nightproof.declare.chat_words import Budget, Check, OutputRules, Tool
    from nightproof.declare.endpoint import Objective
    from nightproof.declare.fields import Confidence, Fresh, Sensitive, Subject, Untrusted, Usual
    from nightproof.declare.service import Model, Service

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "ChatService",
    "Check",
    "Confidence",
    "Fresh",
    "Model",
    "Objective",
    "OutputRules",
    "Sensitive",
    "Service",
    "Subject",
    "Tool",
    "Untrusted",
    "Usual",
    "__version__",
    "fallback",
    "upstream",
]

_HOME = {
    "Budget": "chat_words",
    "ChatService": "chat",
    "Check": "chat_words",
    "Confidence": "fields",
    "Fresh": "fields",
    "Model": "service",
    "Objective": "endpoint",
    "OutputRules": "chat_words",
    "Sensitive": "fields",
    "Service": "service",
    "Subject": "fields",
    "Tool": "chat_words",
    "Untrusted": "fields",
    "Usual": "fields",
}
_ROOMS = ("fallback", "upstream")


def __getattr__(name: str) -> _typing.Any:
    """Load a public name (PEP 562)."""
    if name in _ROOMS:
        return _importlib.import_module(f"nightproof.declare.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'nightproof' has no attribute {name!r}")
    found = globals()[name] = getattr(_importlib.import_module(f"nightproof.declare.{_HOME[name]}"), name)
    return found


def __dir__() -> list[str]:
    return __all__
