"""Options out of range are told all at once, before any data is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.densification import SplatBudgetDensification
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.methods import splatkit_2dgs
from splatkit_ns.plugin.optimizers import LateDecayConfig
from splatkit_ns.plugin.options import check_device, check_options
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.helpers import run_config

NOWHERE = Path("there is no such folder")


def config(**options: Any) -> Any:
    """A run's config; options by path, with __ for the dots."""
    made = run_config(NOWHERE)
    for path, value in options.items():
        *parents, name = path.split("__")
        target: Any = made
        for parent in parents:
            target = getattr(target, parent)
        assert hasattr(target, name), path
        setattr(target, name, value)
    return made


def late(**settings: Any) -> dict[str, Any]:
    """Options with a late decay of one group."""
    return {"optimizers": {"sh0": {"scheduler": LateDecayConfig(**settings)}}}


def test_the_methods_own_options_are_fine() -> None:
    check_options(config())
    check_options(run_config(NOWHERE, mcmc=True))
    check_options(run_config(NOWHERE, method=splatkit_2dgs))


def test_only_a_gpu_packs() -> None:
    packed = {"pipeline__model__renderer": Splat3DGSRenderer(packed=True)}
    check_options(config(**packed, machine__device_type="cuda"))
    with pytest.raises(OptionsError, match=r"renderer\.packed is True, expected False with --machine\.device-type cpu"):
        check_options(config(**packed, machine__device_type="cpu"))


def test_all_mistakes_are_told_at_once_with_flag_value_and_range() -> None:
    bad = config(
        max_num_iterations=0,
        pipeline__model__sh_degree=4,
        pipeline__model__init_opacity=1.0,
        pipeline__model__loss_fn__ssim_lambda=1.5,
        pipeline__model__densification__refine_every=-1,
        pipeline__model__densification__prune_opa=0.5,
        pipeline__model__renderer__near_plane=200.0,
        pipeline__model__renderer__far_plane=100.0,
    )
    bad.optimizers["means"]["optimizer"].lr = float("nan")
    with pytest.raises(OptionsError) as caught:
        check_options(bad)
    assert str(caught.value).startswith("8 option(s) cannot be used:\n  - --")
    model = "--pipeline.model"
    assert set(caught.value.problems) == {
        "--max-num-iterations is 0, expected a number above 0",
        f"{model}.loss-fn.ssim-lambda is 1.5, expected a number between 0 and 1",
        f"{model}.densification.prune-opa is 0.5, expected a number between 0 and 0.5, both excluded",
        f"{model}.densification.refine-every is -1, expected a number above 0",
        f"{model}.init-opacity is 1.0, expected a number between 0 and 1, both excluded",
        "--optimizers.means.optimizer.lr is nan, expected a number above 0",
        f"{model}.sh-degree is 4, expected 0, 1, 2 or 3",
        f"{model}.renderer.near-plane is 200.0, expected less than far-plane, which is 100.0",
    }


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (
            {"pipeline__model__renderer__dropout_full_from": 1.5},
            "dropout-full-from is 1.5, expected a number between 0",
        ),
        (late(lr_share=0.0), "--optimizers.sh0.scheduler.lr-share is 0.0, expected a number above 0"),
        (late(decay_from=-1.0), "--optimizers.sh0.scheduler.decay-from is -1.0, expected a number between 0 and 1"),
        (late(max_steps=0), "--optimizers.sh0.scheduler.max-steps is 0, expected a number above 0"),
        ({"mixed_precision": True}, "--mixed-precision and --use-grad-scaler must be False"),
        ({"machine__num_devices": 2}, "--machine.num-devices is 2, expected 1"),
        ({"load_checkpoint": Path("gone.ckpt")}, "--load-checkpoint: there is no file gone.ckpt"),
        ({"load_dir": Path("gone")}, "--load-dir: there is no folder gone"),
        ({"gradient_accumulation_steps": {"means": 0}}, "--gradient-accumulation-steps of means is 0"),
        ({"pipeline__datamanager__camera_res_scale_factor": 0.0}, "camera-res-scale-factor is 0.0, expected a number"),
        (
            {"pipeline__model__loss_fn__depth_lambda": -0.1},
            "loss-fn.depth-lambda is -0.1, expected a number of at",
        ),
        (
            {"pipeline__model__densification": SplatBudgetDensification(num_views=0)},
            "densification.num-views is 0, expected a number above 0",
        ),
        (
            {"pipeline__model__densification": SplatBudgetDensification(num_views=2.5)},  # type: ignore[arg-type]
            "densification.num-views is 2.5, expected a whole number",
        ),
        (
            {"pipeline__model__densification": SplatBudgetDensification(error_threshold=-0.1)},
            "densification.error-threshold is -0.1, expected a number between 0 and 1",
        ),
        (
            {"pipeline__model__densification": SplatBudgetDensification(clamp_opacity=1.0)},
            "densification.clamp-opacity is 1.0, expected a number of at least 0 and below 1",
        ),
        ({"pipeline__model__random_scale": float("inf")}, "random-scale is inf, expected a number above 0"),
    ],
)
def test_single_mistakes(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(OptionsError) as caught:
        check_options(config(**options))
    assert len(caught.value.problems) == 1
    assert fragment in caught.value.problems[0]


def test_options_are_looked_at_before_the_data() -> None:
    with pytest.raises(OptionsError, match="sh-degree is -1"):
        config(pipeline__model__sh_degree=-1).setup(local_rank=0, world_size=1)


def test_cuda_without_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        SplatkitError, match=r"--machine.device-type is cuda, but PyTorch .* finds no CUDA device.*cpu$"
    ):
        check_device("cuda")
    with pytest.raises(SplatkitError, match=r"^--device is cuda, but PyTorch .*: --device cpu$"):
        check_device("cuda", option="--device")
    check_device("cpu")


def test_mps_is_not_supported() -> None:
    with pytest.raises(SplatkitError, match=r"--machine.device-type mps is not supported: use cpu"):
        check_device("mps")
