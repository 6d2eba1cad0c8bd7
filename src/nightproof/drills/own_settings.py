"""Which of the user's own settings a stage takes over. Pure.

What bounds and times a server goes in, so that a drill says something of the server the user will run. What names a
place (addresses, files, folders) stays out: a stage touches nothing beyond its own. So do quotas, which count by key,
since a stage's crowd has one key where the user's callers have many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TAKEN = frozenset(
    {"receiving", "limits", "workers", "ledger", "idempotency", "history", "health", "promotion", "feedback"}
)
_LEFT_OUT = frozenset({"ledger.url", "ledger.spill_folder", "limits.quota_per_s", "limits.quota_burst"})


def for_a_stage(chosen: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return the settings that a stage takes over, as texts, and the names of those that it does not.

    >>> for_a_stage({"limits.wait_share": 0.2, "workers.show_output": True, "server.port": 443})
    ({'limits.wait_share': '0.2', 'workers.show_output': 'true'}, ['server.port'])
    """
    taken, left_out = {}, []
    for name, value in chosen.items():
        if name.partition(".")[0] in _TAKEN and name not in _LEFT_OUT:
            taken[name] = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            left_out.append(name)
    return taken, left_out
