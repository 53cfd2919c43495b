"""Errors that a user can act on: one message with the place, the expected and the found value, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SplatkitError(Exception):
    """A mistake in the input (data, options, a user's module) that its message explains.

    The command line prints the message alone, without a traceback, and exits with status 1
    (`splatkit_ns.plugin.run.ending.excepthook`, `splatkit_ns.cli`); from Python it is an ordinary exception.
    """


class OptionsError(SplatkitError):
    """Options out of their range; `problems` names all of them, one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{len(problems)} option(s) cannot be used:\n{lines}")


class ModuleError(SplatkitError):
    """A module does not fit its place: wrong hook arguments, wrong payload, a class instead of an instance."""


class HookFailedError(RuntimeError):
    """A method of a part raised, or the backward pass of what parts computed; the original exception, with its
    traceback, is the `__cause__`.

    Not a `SplatkitError`: a fault in code deserves its traceback.
    """


class HookTypeError(HookFailedError, TypeError):
    """A `HookFailedError` with a `TypeError` as its cause: the hook got or used a value of a wrong type."""


def hook_failure(where: str, step: int, error: Exception) -> HookFailedError:
    """Make the error to raise for an exception of a hook, which becomes its cause.

    Args:
        where: name of the hook, like ``"LogHook.after_train_iter"``.
        step: the training step, 1-based.
        error: the exception that the hook raised.
    """
    kind = HookTypeError if isinstance(error, TypeError) else HookFailedError
    failure = kind(f"{where} failed at step {step}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def describe_os_error(error: OSError) -> str:
    """Describe the problem, and name the file if there is one."""
    return f"{error.strerror or error} ({error.filename})" if error.filename else str(error)


def describe_error(error: BaseException, most: int = 400) -> str:
    """Describe an exception that may be of any kind: its class and its message, in one line of so many characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:most]


def listed(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first names, and the number of the others if there are more than ``most``."""
    return separator.join([*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])])


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "there are", most: int = 2) -> str:
    """The end of a message about a name that is not known: the nearest ones, at most so many, or else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=most)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise}: {', '.join(known)}"
