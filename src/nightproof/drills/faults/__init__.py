"""The drills, a file a family: what each breaks from outside, and what it promises of that."""
