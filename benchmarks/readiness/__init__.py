"""The readiness of Nightproof beside its neighbours': the same faults on each, from outside, on one machine."""
