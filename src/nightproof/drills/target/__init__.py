"""Drills of any server from outside: what can be known by asking it. Used by `nightproof drill --target`."""
