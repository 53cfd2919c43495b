"""What importing the package costs: no GPU, no compiler, no optional package, nothing heavy that can wait."""

from __future__ import annotations

import json
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
# Where the numba kernels are: the only place that may import numba when it is imported itself.
NUMBA_KERNELS = "splatkit_ns.rasterize.cpu"

PROBE = """
import builtins, importlib, json, sys

FORBIDDEN = set(json.loads(sys.argv[2]))
MINE = []
real_import = builtins.__import__

def watched(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("splatkit_ns"):
        names = [name, *(f"{name}.{item}" for item in fromlist or ())]
        MINE.extend(f"{importer} imports {n}" for n in names if level == 0 and any(
            n == bad or n.startswith(bad + ".") for bad in FORBIDDEN))
    return real_import(name, globals, locals, fromlist, level)

builtins.__import__ = watched
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
print("RESULT", json.dumps({"mine": MINE, "loaded": sorted(sys.modules)}))
"""


def imported(modules: list[str], forbidden: list[str], **environment: str) -> dict[str, list[str]]:
    """Imports `modules` in a fresh process: which `forbidden` imports our own code made, and all modules loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps(modules), json.dumps(forbidden)],
        capture_output=True, text=True, check=False, env={**_environment(), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("RESULT", 1)[1])


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def entry_points() -> list[str]:
    found = metadata.entry_points(group="nerfstudio.method_configs")
    return sorted({point.module for point in found if point.module.startswith("splatkit_ns")})


@pytest.fixture(scope="module")
def methods() -> dict[str, list[str]]:
    """What every `ns-train`, `ns-eval` … pays for having this plugin installed."""
    return imported(
        ["splatkit_ns.methods"],
        ["fused_ssim", "gsplat.cuda._backend", "lpips", "numba", "open3d", "torchmetrics", "tensorboard",
         "torch.utils.tensorboard"],
    )  # fmt: skip


def test_methods_import_nothing_heavy_or_optional(methods: dict[str, list[str]]) -> None:
    assert methods["mine"] == []


def test_methods_do_not_build_gsplats_cuda_code(methods: dict[str, list[str]]) -> None:
    """Importing `gsplat.cuda._backend` starts a compiler where there is one."""
    assert "gsplat.cuda._backend" not in methods["loaded"]
    assert "numba" not in methods["loaded"]
    assert "fused_ssim" not in methods["loaded"]


def test_every_module_imports_without_gpu_and_optional_packages() -> None:
    """Numba may come with the kernels themselves; nothing else may be needed."""
    answer = imported(MODULES, ["fused_ssim", "gsplat.cuda._backend"])
    assert answer["mine"] == []
    assert "gsplat.cuda._backend" not in answer["loaded"]
    assert set(MODULES) <= set(answer["loaded"])


def test_entry_points_of_the_installed_package_exist() -> None:
    assert entry_points() == ["splatkit_ns.methods"]
    if "splatkit_ns.methods" in MODULES:
        from nerfstudio.plugins.types import MethodSpecification

        for point in metadata.entry_points(group="nerfstudio.method_configs"):
            if point.module.startswith("splatkit_ns"):
                method = point.load()
                assert isinstance(method, MethodSpecification)
                assert method.config.method_name == point.name
