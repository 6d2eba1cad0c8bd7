"""How much work may be inside: places, quota per key, and when to say no."""
