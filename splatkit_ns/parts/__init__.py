"""The contract of every part of a run: its base, its hooks and their arguments, what a render returns, checks."""
