"""Lines of a command's output: paths and names in them are printed as they are."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: neither broken at the width of the terminal, nor with words in brackets taken for markup.

    Args:
        console: the output.
        text: the line.
        style: one of rich's, such as "bold".
    """
    console.print(text, soft_wrap=True, highlight=False, markup=False, style=style)


def warn(console: Console, text: str) -> None:
    """Print a line to take note of."""
    console.print("[bold yellow]Note:[/bold yellow] ", end="")
    say(console, text)
