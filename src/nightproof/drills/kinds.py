"""Which drills say something about which kind of service: one that runs a model, or a chat service. Data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightproof.declare.describe import Description

if TYPE_CHECKING:
    from nightproof.drills.drill import Drill

NEEDS_CHAT = "it needs a chat service; this one runs a model"
_AN_UPSTREAM = "its model is an upstream's; upstream_… are the drills of that"
_NO_FIELDS = "a chat in OpenAI's form has no fields of its own; malformed_corpus sends what does not fit"
OF_MODELS: dict[str, str] = {
    "slow_model": _AN_UPSTREAM,
    "model_hangs": _AN_UPSTREAM,
    "model_raises": _AN_UPSTREAM,
    "model_answers_garbage": _AN_UPSTREAM,
    "model_answers_nan": _AN_UPSTREAM,
    "model_answers_too_few": _AN_UPSTREAM,
    "low_confidence": "what a chat answers has no confidence",
    "output_check_fails": "upstream_obeys is its drill",
    "worker_out_of_memory": "no model runs in its workers; worker_killed and check_fails are their drills",
    "invalid_input": _NO_FIELDS,
    "missing_data": _NO_FIELDS,
    "stale_input": _NO_FIELDS,
    "data_drifts": "what is compared of chats is learned from live traffic, for longer than a drill lasts",
    "labels_poisoned": "a label of a chat is somebody's opinion, and no field of its answer can be the opposite",
}
"""Drills that say nothing about a chat service, with the reason."""


def why_not(drill: Drill, declared: Description) -> str:
    """Say why a drill says nothing about a service of this kind; empty where it does."""
    if drill.needs_chat and declared.chat is None:
        return NEEDS_CHAT
    if declared.chat is not None:
        return OF_MODELS.get(drill.name, "")
    return ""
