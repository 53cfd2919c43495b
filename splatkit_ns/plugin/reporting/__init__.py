"""The output of a run: console messages and logs."""
