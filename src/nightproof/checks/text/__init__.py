"""Detectors for texts of chat services: pure functions of a text, in workers; none of them reads or sends anything."""
