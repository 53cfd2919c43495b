"""The result of one check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from splatkit_ns.errors import describe_error

Status = Literal["ok", "note", "fault"]
"""ok: as it should be. note: training works, but something is slower, or a command of the rest does not work. fault:
training fails, or its results would be lost."""


@dataclass(frozen=True)
class Finding:
    """The result of a check."""

    name: str
    """The name of the check: the same in all versions."""
    status: Status
    text: str
    """The finding, as a sentence to be read."""
    advice: str = ""
    """Advice on a note or fault, as a sentence to be read."""
    command: str = ""
    """A shell command that mends it, if there is one."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The same for programs, as JSON can hold it."""


def worst(findings: Sequence[Finding]) -> Status:
    """The most severe status of all; ok if there are none."""
    present = {finding.status for finding in findings}
    if "fault" in present:
        return "fault"
    return "note" if "note" in present else "ok"


def checked(name: str, check: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """Run a check; an exception that it does not expect becomes a fault of this name."""
    try:
        return list(check())
    except Exception as error:  # a damaged installation raises anything
        return [Finding(name, "fault", f"the check failed: {describe_error(error)}")]
