"""What importing the package costs: no GPU, no compiler, no optional package, nothing heavy that can wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import splatkit_ns

ROOT = Path(splatkit_ns.__file__).parent
MODULES = sorted(
    ".".join(["splatkit_ns", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)

PROBE = """
import builtins, importlib, json, sys

FORBIDDEN, MINE = [], []
real_import = builtins.__import__

def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("splatkit_ns"):
        names = [name, *(f"{name}.{item}" for item in fromlist or ())]
        MINE.extend(f"{importer} imports {n}" for n in names if level == 0 and any(
            n == bad or n.startswith(bad + ".") for bad in FORBIDDEN))
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = watched
answers = []
for modules, forbidden in json.loads(sys.argv[1]):
    FORBIDDEN[:] = forbidden
    MINE.clear()
    for module in modules:
        importlib.import_module(module)
    answers.append({"mine": MINE[:], "loaded": sorted(sys.modules)})
print("RESULT", json.dumps(answers))
"""
OPTIONAL = ["fused_ssim", "gsplat.cuda._backend"]
HEAVY = ["lpips", "numba", "open3d", "torchmetrics", "tensorboard", "torch.utils.tensorboard"]


@pytest.fixture(scope="module")
def answers() -> list[dict[str, list[str]]]:
    """For the methods' module in a fresh process, and then all others: forbidden imports that our own code made, and
    all modules loaded."""
    stages = [(["splatkit_ns.methods"], [*OPTIONAL, *HEAVY]), (MODULES, OPTIONAL)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps(stages)],
        capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


def entry_points() -> list[str]:
    found = metadata.entry_points(group="nerfstudio.method_configs")
    return sorted({point.module for point in found if point.module.startswith("splatkit_ns")})


def test_methods_import_nothing_heavy_or_optional(answers: list[dict[str, list[str]]]) -> None:
    """What every `ns-train`, `ns-eval` … pays for having this plugin installed."""
    assert answers[0]["mine"] == []


def test_methods_do_not_build_gsplats_cuda_code(answers: list[dict[str, list[str]]]) -> None:
    """Importing `gsplat.cuda._backend` starts a compiler where there is one."""
    assert not {"gsplat.cuda._backend", "numba", "fused_ssim"} & set(answers[0]["loaded"])


def test_every_module_imports_without_gpu_and_optional_packages(answers: list[dict[str, list[str]]]) -> None:
    """Numba may come with the kernels themselves; nothing else may be needed."""
    assert answers[1]["mine"] == []
    assert "gsplat.cuda._backend" not in answers[1]["loaded"]
    assert set(MODULES) <= set(answers[1]["loaded"])


def test_entry_points_of_the_installed_package_exist() -> None:
    assert entry_points() == ["splatkit_ns.methods"]
    if "splatkit_ns.methods" in MODULES:
        from nerfstudio.plugins.types import MethodSpecification

        for point in metadata.entry_points(group="nerfstudio.method_configs"):
            if point.module.startswith("splatkit_ns"):
                method = point.load()
                assert isinstance(method, MethodSpecification)
                assert method.config.method_name == point.name
