"""Every example of the documentation runs.

The Python blocks of a page run in order, in one namespace and an empty folder with tiny data sets under the names that
the pages use. Numbers of steps are divided by a thousand: every number that ends in three zeros is, also in file names
(step_007000.ply becomes step_000007.ply). Shell blocks do not run, but their commands and options must exist.
"""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import tyro

from splatkit_ns import formats
from splatkit_ns.cli import COMMANDS
from splatkit_ns.hooks import HOOK_REGISTRY, WRITER_REGISTRY
from splatkit_ns.image_metrics.metrics import ImageMetrics
from tests.tiny_scene import write_tiny_blender, write_tiny_colmap, write_tiny_scene

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [*sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), "../README.md"]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
THOUSANDS = re.compile(r"(?<![\d.])\d[\d_]*000\b")


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """Blocks of a page in one language, with the line that each starts at."""
    text = (DOCS / page).read_text()
    return [
        (text.count("\n", 0, match.start(2)) + 1, match[2]) for match in FENCE.finditer(text) if match[1] == language
    ]


def in_thousandths(code: str) -> str:
    """Divide numbers that end in three zeros by 1000; leading zeros keep their width."""

    def scaled(match: re.Match[str]) -> str:
        digits = match[0].replace("_", "")
        return str(int(digits) // 1000).zfill(len(digits) if digits.startswith("0") else 0)

    return THOUSANDS.sub(scaled, code)


def test_thousandths() -> None:
    code = "max_steps=30_000, every=1000, n=50_000, 'step_007000.ply', rate=0.001, low=0.2000, size=100, 10000.5"
    assert in_thousandths(code) == (
        "max_steps=30, every=1, n=50, 'step_000007.ply', rate=0.001, low=0.2000, size=100, 10.5"
    )


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tiny_scene(folder / "my_scene")
    write_tiny_scene(folder / "my_scene_with_depth", depth=True)
    write_tiny_colmap(folder / "my_colmap_scene")
    write_tiny_blender(folder / "lego")
    return folder


@pytest.fixture
def page_module(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable module for a page's names, in a folder of its own; what the page registers is forgotten."""
    (tmp_path / "data").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageMetrics, "_network", lambda *_: None)  # LPIPS would download its weights
    for registry in (HOOK_REGISTRY, WRITER_REGISTRY):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # type: ignore[attr-defined]
    module = types.ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    formats.all_formats()  # all that the package has, before the copy
    monkeypatch.setattr(formats.registry, "_FORMATS", dict(formats.registry._FORMATS))
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page: str, page_module: types.ModuleType) -> None:
    for line, code in blocks(page, "python"):
        # The newlines make tracebacks point to the page.
        exec(compile("\n" * (line - 1) + in_thousandths(code), str(DOCS / page), "exec"), vars(page_module))


def shell_commands(page: str) -> list[list[str]]:
    """Commands of a page's shell blocks, split into words, without assignments of variables."""
    lines = [line for _, code in blocks(page, "shell") for line in code.replace("\\\n", " ").splitlines() if line]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Options of the commands that the pages use, by command."""
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
    from nerfstudio.scripts import eval as ns_eval
    from nerfstudio.scripts.exporter import ExportGaussianSplat
    from nerfstudio.scripts.viewer.run_viewer import RunViewer

    from splatkit_ns.methods import splatkit_2dgs, splatkit_3dgs

    def named(target: Any, **more: Any) -> set[str]:
        parser = tyro.extras.get_parser(target, **more)
        return {option for action in parser._actions for option in action.option_strings}

    return {
        "ns-train": named(type(splatkit_3dgs.config), default=splatkit_3dgs.config)
        | named(type(splatkit_2dgs.config), default=splatkit_2dgs.config)
        | named(NerfstudioDataParserConfig)
        | named(ColmapDataParserConfig)
        | {"--data", "--pipeline.model.loss-fn.delta", "--pipeline.model.loss-fn.polarise"},
        "ns-eval": named(ns_eval.ComputePSNR),
        "ns-viewer": named(RunViewer),
        "ns-export": named(ExportGaussianSplat),
        "splatkit": named(ColmapDataParserConfig).union(*(named(kind) for kind, _ in COMMANDS.values())),
        "ns-process-data": {"--data", "--output-dir"},
        "nerfbaselines": {"--method", "--backend", "--data", "--set"},
        "pip": {"-e"},
        "export": set(),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "shell")])
def test_shell_blocks_name_commands_and_options_that_exist(page: str, options: dict[str, set[str]]) -> None:
    for command in shell_commands(page):
        if command[0] == "make":
            assert f"\n{command[1]}:" in (DOCS.parent / "Makefile").read_text(), command
            continue
        if command[0] == "python" and command[1] != "-m":
            script = (DOCS.parent / command[1]).read_text()
            assert all(f'"{word}"' in script for word in command if word.startswith("--")), command
            continue
        assert command[0] in options, command
        used = {word.partition("=")[0] for word in command if word.startswith("-")}
        assert used <= options[command[0]], (command, used - options[command[0]])


def test_options_named_in_the_text_exist(options: dict[str, set[str]]) -> None:
    known = {option for of_command in options.values() for option in of_command} | {"--help", "--logdir"}
    for page in PAGES:
        named = set(
            re.findall(r"`(--[a-z0-9.-]+)", re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.M | re.S))
        )
        assert named <= known, (page, named - known)


def test_every_page_is_in_a_contents_list() -> None:
    contents = "\n".join(
        code for _, code in re.findall(r"^```\{(toctree)\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.M | re.S)
    )
    missing = [
        page
        for page in PAGES
        if page not in ("index.md", "../README.md")
        and page.removesuffix(".md") not in contents
        and not page.startswith("api/")
    ]
    assert missing == []
