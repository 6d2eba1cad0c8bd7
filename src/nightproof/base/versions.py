"""Compare the Python and the frameworks that a release was made with to those at hand.

Pure. A worker asks before it imports a line of the release; the gate asks before it accepts one.
"""

from __future__ import annotations

from collections.abc import Mapping

PYTHON = "python"
_COMPARED = 2
"""Parts of a version that must agree: 3.11 and 3.12 differ, 3.11.2 and 3.11.9 do not."""


def incompatibilities(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Say what differs, one sentence for each, between what a release was made with and what is here.

    Only what the release used counts; what is installed besides does not.

    >>> incompatibilities({"python": "3.11.2", "pandas": "2.2.3"}, {"python": "3.11.9", "pandas": "3.0.0"})
    ['pandas is 3.0.0 here, and the release was made with 2.2.3']
    """
    found = []
    for name, made_with in sorted(recorded.items(), key=lambda one: (one[0] != PYTHON, one[0])):
        here = present.get(name)
        word = "Python" if name == PYTHON else name
        if here is None:
            found.append(f"{word} is not installed here, and the release was made with {made_with}")
        elif _significant(here) != _significant(made_with):
            found.append(f"{word} is {here} here, and the release was made with {made_with}")
    return found


def _significant(version: str) -> tuple[str, ...]:
    """Return the leading parts, without build and local marks: 2.7.1+cpu is 2.7."""
    return tuple(version.partition("+")[0].split(".")[:_COMPARED])
