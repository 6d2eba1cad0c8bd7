"""Drift: what callers send, and what the release answers, held against the release's frozen profile."""
