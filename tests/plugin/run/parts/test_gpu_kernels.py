"""Which kernels a run loads ahead, and when."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.densification.mcmc import noise_kernel
from splatkit_ns.image_metrics.ssim import triton_kernel as ssim_kernel
from splatkit_ns.image_model import ImageModelChoice
from splatkit_ns.image_model.bilateral_grid import grid_kernels
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.methods import make_method, splatkit_3dgs_adc, splatkit_3dgs_fast
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.run.parts.modules import gpu_kernels
from splatkit_ns.rasterize.cuda_rasterization import own_kernels, sh_kernel
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat.joint_step import joint_kernel
from splatkit_ns.triton_kernels import LazyKernel

OWN: LazyKernel[Any] = LazyKernel(lambda: max, "not said")


class WithKernels(SplatBaseModule[Any]):
    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (OWN, ssim_kernel)


class NoDataclass(SplatMCMCDensification):
    """Kept whole in a config."""

    def __init__(self, secret: int) -> None:
        super().__init__(max_gaussians=secret)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (splatkit_3dgs_fast, {own_kernels, sh_kernel, ssim_kernel, joint_kernel, noise_kernel}),
        (splatkit_3dgs_adc, {own_kernels, sh_kernel, ssim_kernel, joint_kernel}),
        (make_method("no-ssim", loss_fn=Splat3DGSLossFn(ssim_lambda=0.0)), {own_kernels, sh_kernel, joint_kernel}),
        (make_method("packed", renderer=Splat3DGSRenderer(packed=True)), {ssim_kernel, joint_kernel}),
        (
            make_method("grid", image_model=ImageModelChoice(kind="bilateral-grid")),
            {own_kernels, sh_kernel, ssim_kernel, joint_kernel, grid_kernels},
        ),
        (
            make_method("held", densification=NoDataclass(100)),
            {own_kernels, sh_kernel, ssim_kernel, joint_kernel, noise_kernel},
        ),
    ],
    ids=["fast", "adc", "no ssim", "packed", "grid", "held"],
)
def test_those_of_its_parts(method: Any, expected: set[LazyKernel[Any]]) -> None:
    assert set(gpu_kernels(method.config, [])) == expected


def test_those_of_its_modules_each_once() -> None:
    kernels = gpu_kernels(splatkit_3dgs_fast.config, [WithKernels(), WithKernels()])
    assert len(kernels) == len(set(kernels))
    assert set(kernels) == {OWN, own_kernels, sh_kernel, ssim_kernel, joint_kernel, noise_kernel}


TWO_THREADS = """
import importlib, threading

from splatkit_ns.plugin.run.parts import modules

names = ("rasterize.cpu.rasterization", "rasterize.cpu.parallel", "image_metrics._ssim_cpu")
errors = []

def load(name):
    try:
        importlib.import_module("splatkit_ns." + name)
    except Exception as error:
        errors.append(repr(error))

modules.load_kernels(None, [], "cpu")
threads = [threading.Thread(target=load, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(errors)
"""


def test_on_the_cpu_before_threads_may_want_them() -> None:
    """Training and viewer would import numba at the same time, which fails."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TWO_THREADS], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "[]"
