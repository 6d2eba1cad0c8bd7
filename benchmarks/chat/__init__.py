"""Chats: what Nightproof adds to an LLM, beside gateways that add less."""
