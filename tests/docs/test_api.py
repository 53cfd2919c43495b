"""The API reference leaves nothing public out, and shows types."""

from __future__ import annotations

import ast
import importlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DIRECTIVES = re.findall(
    r"^\.\. auto(module|class|function|data):: (\S+)$",
    "\n".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md"))),
    re.MULTILINE,
)
MODULES = {name for kind, name in DIRECTIVES if kind == "module"}
SINGLE = {name.rpartition(".")[2] for kind, name in DIRECTIVES if kind != "module"}
PUBLIC = (
    "", ".data_provider", ".densification", ".formats", ".hooks", ".hooks.writers", ".image_model", ".loss_fn",
    ".methods", ".modules", ".rasterize", ".renderer", ".splat", ".trainer",
)  # fmt: skip


def documented_data(module: str) -> set[str]:
    """The constants and type aliases of a module that have a docstring, as autodoc finds them."""
    body = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text()).body
    return {
        target.id
        for statement, text in pairwise(body)
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(text, ast.Expr)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    }


DATA = {name for module in MODULES for name in documented_data(module)}
SINGLE |= {name for module in MODULES for name in getattr(importlib.import_module(module), "__all__", ())}


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    module: Any = importlib.import_module(f"splatkit_ns{package}")
    missing: list[str] = []
    for name in module.__all__:
        thing = getattr(module, name)
        home = getattr(thing, "__module__", "") if hasattr(thing, "__qualname__") else ""
        if home.startswith("nerfstudio") or home in MODULES or name in SINGLE:
            continue
        if home in ("", "typing") and (name in DATA or name in (DOCS / "api" / "trainer.md").read_text()):
            continue
        missing.append(name)
    assert missing == []


def test_the_reference_shows_types() -> None:
    settings: dict[str, Any] = {"__file__": str(DOCS / "conf.py")}
    exec((DOCS / "conf.py").read_text(), settings)
    assert settings["autodoc_typehints"] == "signature"
