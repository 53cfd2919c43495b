"""The page about the code names its folders and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = set(re.findall(r"`([\w/]+)`", (ROOT / "docs/developing.md").read_text()))


def names(folder: str) -> set[str]:
    """Modules and packages of a folder."""
    found = {
        path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    return found - {"__init__"}


OF_RUN = [f"plugin/run/{folder}" for folder in ("checkpoints", "processes", "parts", "ending", "folder")]
LARGEST = ["plugin/step", "plugin/run", *OF_RUN, "plugin/data"]


@pytest.mark.parametrize("folder", ["", *LARGEST])
def test_the_page_names_every_file(folder: str) -> None:
    assert names(f"splatkit_ns/{folder}") - NAMED == set()


def test_the_page_names_every_folder_of_the_plugin_and_none_that_is_gone() -> None:
    plugin = {path.name for path in (ROOT / "splatkit_ns/plugin").iterdir() if (path / "__init__.py").is_file()}
    assert plugin - NAMED == set()
    table = (
        (ROOT / "docs/developing.md").read_text().partition("The files of the three largest:")[2].partition("## ")[0]
    )
    files = {name for folder in LARGEST for name in names(f"splatkit_ns/{folder}")}
    assert set(re.findall(r"`(\w+)`", table)) - files - {"step", "run", "data"} == set()
