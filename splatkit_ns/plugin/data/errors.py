"""The error of broken or unusable data."""

from __future__ import annotations

from splatkit_ns.errors import SplatkitError


class DataError(SplatkitError):
    """A data set that cannot be trained on, and what to do about it."""
