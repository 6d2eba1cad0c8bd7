"""Model code runs here, in child processes. `engine.py` is the seam; `pool.py` the local engine behind it."""
