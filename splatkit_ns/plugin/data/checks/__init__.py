"""Checks of data sets before training, each mistake in one message, and notes of what is not honoured."""
