"""A caller's way: accept → admit → call → check → record → reply. `serve.py` conducts."""
