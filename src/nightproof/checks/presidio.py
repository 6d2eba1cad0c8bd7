"""Find personal data with Presidio: names, places and dates, which no local rule knows. Needs the extra `presidio`.

As a service's own check: `personal=Check("flag", adapter="nightproof.checks.presidio:look")`. It replaces the local
rules of that name; under another name it runs beside them. Takes tens of milliseconds a text, so give it a budget.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

from nightproof.base.errors import DeclarationError

LANGUAGE = os.environ.get("NIGHTPROOF_PRESIDIO_LANGUAGE", "en")
_LEAST_SCORE = 0.4


@cache
def _analyzer() -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
    except ImportError as error:
        raise DeclarationError(
            "Presidio is not installed.", hint="pip install 'nightproof[presidio]', and a spaCy model."
        ) from error
    return AnalyzerEngine()


def look(texts: Sequence[str]) -> dict[str, Any]:
    """Return what Presidio finds, in the form of an adapter's answer."""
    return {
        "findings": [
            {
                "text": at,
                "rule": str(found.entity_type).lower(),
                "score": float(found.score),
                "start": int(found.start),
                "end": int(found.end),
            }
            for at, text in enumerate(texts)
            for found in _analyzer().analyze(text=text, language=LANGUAGE)
            if found.score >= _LEAST_SCORE
        ]
    }
