"""Parts that only the program knows which trained a run, as its ``config.yml`` names them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from splatkit_ns.plugin.reporting.console import report_once


def note_if_unreadable(path: Path, text: str) -> None:
    """Print a note if ``ns-eval`` and the other commands will not be able to read a run's config back."""
    names = _program_names(text)
    if names:
        report_once(
            f"ns-eval, ns-export and ns-viewer cannot open {path}: it names {', '.join(names)}, which only this "
            "program knows. Put such classes and functions into a module of their own, outside of other functions, and "
            "import them."
        )


def _program_names(text: str) -> list[str]:
    """The names in a config's text that only the program knows which trained it: its own, and those in functions."""
    found = re.findall(r"!!python/\w+(?:/\w+)*:(__main__\.[\w.%]+|\S*%3C\S*)", text)
    return sorted({unquote(name) for name in found})


def advice_on_program_parts(text: str) -> str | None:
    """A sentence about parts in a config's text that other programs cannot import; None if there are none."""
    names = _program_names(text)
    if not names:
        return None
    name, last = names[0], names[0].rpartition(".")[2]
    return (
        f"{name} is known to the program alone that trained the run: it is of its script or notebook, or within a "
        f"function. Move {last} into a module, such as my_parts.py on PYTHONPATH, write my_parts.{last} in place of "
        f"{name} in config.yml, and add --trust my_parts to commands of splatkit."
    )
