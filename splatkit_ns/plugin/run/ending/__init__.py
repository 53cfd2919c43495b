"""Ends of a run before its last step: signals, errors in one message, and lack of memory."""
