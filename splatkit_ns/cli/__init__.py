"""The command ``splatkit``.

`commands` lists the subcommands. The options of each are in a module of its name, and its work in others.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import tyro
from rich.console import Console
from rich.markup import escape

from splatkit_ns.cli.commands import COMMANDS
from splatkit_ns.cli.info import InfoOptions
from splatkit_ns.doctor.options import DoctorOptions, split_arguments
from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.lasting_output import make_all_text_printable, make_output_last

__all__ = ["COMMANDS", "main"]

LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""The errors of an output that takes no more, such as a file on a full disk."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: without the program's name; None means those of the process, which Ctrl-C then ends at once.

    Returns:
        The exit status: 0, 1 after a mistake that a message has explained or if ``splatkit doctor`` finds a fault, 130
        after Ctrl-C. Arguments that do not parse end the process with 2.
    """
    given = [_with_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    _silence_other_packages()
    make_all_text_printable()
    data_options: tuple[str, ...] = ()
    if given[:1] == ["doctor"]:
        own, data_options = split_arguments(given[1:])
        given = ["doctor", *own]
    try:
        options = _parsed(given)
    except OSError as error:  # of the help
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it goes nowhere
        enough = isinstance(error, BrokenPipeError)  # as `head` has
        return 1 if enough else _refused(f"The help cannot be printed: {describe_os_error(error)}.")
    if isinstance(options, DoctorOptions):
        options.data_options = data_options
    run = next(run for kind, run in COMMANDS.values() if isinstance(options, kind))
    prints_result = isinstance(options, DoctorOptions | InfoOptions)
    if not prints_result:
        make_output_last()  # files are written all the same
    try:
        status = run(options)
    except SplatkitError as error:
        return _refused(str(error))
    except OSError as error:
        if prints_result and error.errno in LOST:
            return _refused(f"The result cannot be printed: {describe_os_error(error)}.")
        raise
    except KeyboardInterrupt:
        if arguments is None:
            _end_at_once(130)
        return 130
    return status or 0


def _with_home(argument: str) -> str:
    """An argument of a command with the user's folder in place of ~, which shells leave in quotes and after =."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + (os.path.expanduser(value) if value.startswith("~/") else value)


def _parsed(arguments: Sequence[str]) -> Any:
    """The options of the subcommand that the arguments name.

    Raises:
        OSError: the help cannot be printed.
        SystemExit: it has been printed, or the arguments do not parse.
    """
    if sys.stdout is None:  # closed before Python started, as by `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {name: kind for name, (kind, _) in COMMANDS.items()},
            prog="splatkit",
            description="Commands for camera poses, for trained Gaussians, and to check a machine.",
            args=arguments,
        )
    finally:
        sys.stdout.flush()


def _refused(message: str) -> int:
    """Print the message of an error."""
    Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(message)}", soft_wrap=True)
    return 1


def _silence_other_packages() -> None:
    """Leave out what PyTorch says of its own future and of nerfstudio's code, which no user of a command can change."""
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|nerfstudio)\b")


def _end_at_once(status: int) -> NoReturn:
    """End the process: to take down all that has been imported would take Python seconds after nerfstudio."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]  # what others want done at the end
    os._exit(status)
