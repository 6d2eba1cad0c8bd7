"""Measure Nightproof beside its neighbours, on one machine, in one run. Start with `make bench`."""
