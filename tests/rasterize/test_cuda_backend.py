"""The CUDA path as far as it can be told without a GPU: messages, versions, and what an import pulls in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from splatkit_ns.rasterize import BackendUnavailableError, gsplat_version, radii_in_pixels
from splatkit_ns.rasterize.cuda import CudaFacts, explain_unavailable
from splatkit_ns.rasterize.versions import parse_version
from tests.fork_server import run_code

GOOD = CudaFacts(
    torch_version="2.5.1+cu124", torch_cuda="12.4", gpu="NVIDIA A100", nvcc_path="/usr/local/cuda/bin/nvcc",
    nvcc_version="12.4", gsplat_version="1.4.0",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gsplat_version": None}, ["gsplat  not found", "pip install gsplat==1.4.0"]),
        ({"torch_cuda": None}, ["without CUDA", "install a CUDA build of torch"]),
        ({"gpu": None}, ["GPU     not found", "nvidia-smi"]),
        ({"nvcc_path": None, "nvcc_version": None}, ["nvcc    not found", "install the CUDA toolkit 12.4"]),
        ({"nvcc_version": "11.8"}, ["nvcc 11.8 does not fit a torch built for CUDA 12.4"]),
        ({"failure": "RuntimeError: Error building extension"}, ["error   RuntimeError: Error building extension"]),
    ],
)
def test_the_message_says_what_was_found_and_what_to_do(change: dict, expected: list[str]) -> None:
    message = explain_unavailable(dataclasses.replace(GOOD, **change))
    for part in [*expected, "2.5.1+cu124"]:
        assert part in message


def test_the_whole_message() -> None:
    assert explain_unavailable(dataclasses.replace(GOOD, nvcc_path=None, nvcc_version=None)) == (
        "gsplat's CUDA code cannot be used here. Found:\n"
        "  torch   2.5.1+cu124, CUDA 12.4\n"
        "  GPU     NVIDIA A100\n"
        "  nvcc    not found\n"
        "  gsplat  1.4.0\n"
        "gsplat compiles its CUDA code at first use and needs nvcc: install the CUDA toolkit 12.4 and put its bin "
        "folder on PATH, or install a gsplat wheel with compiled code for this torch."
    )


def test_the_error_is_a_runtime_error() -> None:
    assert issubclass(BackendUnavailableError, RuntimeError)


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.4.0", (1, 4, 0)), ("1.5.3+pt24cu124", (1, 5, 3)), ("1.6", (1, 6, 0)), ("1.6.0rc1", (1, 6, 1))],
)
def test_parse_version(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text)[:2] == version[:2]


def test_radii_in_pixels_reads_both_versions_shapes() -> None:
    means2d = torch.zeros(1, 4, 2)
    old = torch.tensor([[3, 0, 7, 1]], dtype=torch.int32)
    new = torch.tensor([[[3, 2], [0, 0], [5, 7], [1, 1]]], dtype=torch.int32)
    assert torch.equal(radii_in_pixels({"radii": old, "means2d": means2d}), old)
    assert torch.equal(radii_in_pixels({"radii": new, "means2d": means2d}), old)
    assert radii_in_pixels({"radii": new, "means2d": means2d}).dtype == torch.int32


def test_importing_and_rendering_on_the_cpu_touches_no_gsplat() -> None:
    script = (
        "import sys, torch\n"
        "from splatkit_ns.rasterize import rasterization, gsplat_version\n"
        "gsplat_version()\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('gsplat', 'numba')]\n"
        "rasterization(torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1), torch.ones(1, 3),\n"
        "              torch.eye(4)[None], torch.eye(3)[None], 8, 8)\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'gsplat']\n"
    )
    done = run_code(script)
    assert done.returncode == 0, done.stderr


def test_the_version_is_that_of_the_gsplat_that_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "gsplat"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "version.py").write_text('__version__ = "1.9.7"\n')
    script = "import sys; sys.path.insert(0, sys.argv[1])\nfrom splatkit_ns.rasterize import gsplat_version\n"
    script += "assert gsplat_version() == (1, 9, 7), gsplat_version()"
    done = run_code(script, str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_info_radii_have_the_installed_version_s_shape() -> None:
    from raster_scenes import random_scene

    from splatkit_ns.rasterize import rasterization

    info = rasterization(**random_scene(n=5))[2]
    assert info["radii"].shape == ((1, 5, 2) if gsplat_version() >= (1, 5, 0) else (1, 5))
    assert info["radii"].dtype == torch.int32
