"""The experiments: break a service on purpose in a stage of its own, and say what held. Used by `nightproof drill`."""
