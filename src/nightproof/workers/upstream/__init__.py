"""Speak to OpenAI-compatible APIs: one call, its clocks, and what came back; never which to ask, nor again."""
