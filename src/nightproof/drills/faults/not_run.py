"""Drills of the catalogue that are listed and not run, each with the reason."""

from __future__ import annotations

from nightproof.drills.drill import NotRun

DRILLS: list[NotRun] = [
    NotRun(
        name="internal_error",
        group="health",
        breaks="an exception that nobody expected, in the server itself",
        proves=("internal_error",),
        why="no way from outside is known that ends in a fault of the server; each one that is found becomes a test",
    ),
    NotRun(
        name="reading_fails",
        group="monitoring",
        breaks="a part of the server cannot be asked for its state",
        proves=("watch_blind",),
        why="no way from outside is known that keeps a part from being asked without ending it",
    ),
    NotRun(
        name="read_only_state",
        group="audit",
        breaks="the state folder becomes read-only under the running server",
        proves=("audit_unavailable",),
        why="it takes root to mount a file system read-only; disk_full refuses the same writes",
    ),
]
