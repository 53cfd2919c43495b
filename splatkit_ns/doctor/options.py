"""Options of ``splatkit doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import Suppress


@dataclass
class DoctorOptions:
    """Check this machine, and a data set, before training.

    Each line is ok, note or fault, with the command that mends it. The exit status is 1 if there is a fault. After
    --data, options of ns-train about the data may follow, such as --pipeline.datamanager.mask-mode segment, and at the
    end a dataparser with its options: splatkit doctor --data FOLDER colmap --eval-mode all.
    """

    data: Path | None = None
    """Also check this data set, as training would, and read each photograph once."""
    outputs: Path = Path("outputs")
    """The folder that runs are written to: --output-dir of ns-train."""
    json: bool = False
    """Print a JSON object."""
    data_options: Annotated[tuple[str, ...], Suppress] = ()
    """Options of ns-train, which `split_arguments` sets apart."""


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Set the arguments of ``splatkit doctor`` apart from those that ns-train would read.

    Args:
        arguments: those after ``doctor``.

    Returns:
        The leading options that are fields of `DoctorOptions`, and all arguments after these.
    """
    kinds = {f"--{field.name}": field.type for field in fields(DoctorOptions) if field.name != "data_options"}
    flags = {"--json", "--no-json", "-h", "--help"}
    index = 0
    while index < len(arguments):
        name, _, value = arguments[index].partition("=")
        if name in flags or (name in kinds and value):
            index += 1
        elif name in kinds:
            index += 2
        else:
            break
    return list(arguments[:index]), tuple(arguments[index:])
