"""Nightproof serves a model so that it holds at three in the morning, and proves it.

These are the names a service folder imports; everything else is for the command `nightproof`.
"""

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
