"""The command `nightproof`. The top floor: it may use every other one, and none uses it."""
