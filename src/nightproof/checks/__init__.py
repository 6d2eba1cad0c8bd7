"""Checks of input and output that need no user code: they read the description's schemas alone."""
