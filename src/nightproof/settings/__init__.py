"""Every knob, its bounds and its meaning; read once at start, from file, environment and flags.

`settings.py` declares the knobs, `load.py` reads them, `table.py` writes them down for the docs. A room is
given its own section only; nothing reads a setting from a global.
"""
