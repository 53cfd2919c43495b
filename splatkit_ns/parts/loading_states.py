"""The loading of the states of modules and hooks from a checkpoint."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from splatkit_ns.errors import HookFailedError, SplatkitError, describe_error


def load_states(parts: Iterable[tuple[str, Any]], states: Mapping[str, Any]) -> None:
    """Call `load_state_dict` of every part that has a state; the others keep theirs.

    Args:
        parts: modules or hooks, with their names.
        states: by name.

    Raises:
        HookFailedError: a part cannot take its state; names it and the line, and keeps the cause.
    """
    for name, part in parts:
        if name not in states:
            continue
        try:
            part.load_state_dict(states[name])
        except (SplatkitError, HookFailedError):
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"at {frame.filename}, line {frame.lineno}"
            raise HookFailedError(f"{name}.load_state_dict failed: {describe_error(error)}, {where}") from error
