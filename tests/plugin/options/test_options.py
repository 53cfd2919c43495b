"""Options out of range are told all at once, before any data is loaded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from splatkit_ns.densification import (
    GsplatStrategy,
    SplatBudgetDensification,
    SplatDefaultDensification,
    SplatDensification,
    SplatMCMCDensification,
)
from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.methods import make_method, splatkit_2dgs
from splatkit_ns.modules.timer import SplatTimer
from splatkit_ns.plugin.optimizers import FusedAdamConfig, LateDecayConfig
from splatkit_ns.plugin.options import check
from splatkit_ns.plugin.options.check import check_device, check_options, check_renderer
from splatkit_ns.plugin.options.nerfstudio_ranges import RANGES
from splatkit_ns.plugin.run.opaque_parts import opaque_part
from splatkit_ns.plugin.run.parts.modules import import_module
from splatkit_ns.ranges import from_to
from splatkit_ns.rasterize import unscented
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from tests.plugin.helpers import run_config

NOWHERE = Path("there is no such folder")
HERE = Path(__file__)
NAN = float("nan")
PARSER = "pipeline__datamanager__dataparser"


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


@pytest.mark.parametrize("renderer", [Splat3DGSRenderer(backend="gsplat"), Splat2DGSRenderer(backend="gsplat")])
def test_gsplat_is_for_gpus(renderer: Any) -> None:
    check_options(config(pipeline__model__renderer=renderer, machine__device_type="cuda"))
    with pytest.raises(
        OptionsError, match=r"renderer\.backend is gsplat, expected splatkit with --machine\.device-type"
    ):
        check_options(config(pipeline__model__renderer=renderer, machine__device_type="cpu"))


@dataclass
class CountsGradients(SplatDensification):
    """A strategy of a user's that cannot do without gradients on the screen."""

    @property
    def needs_screen_gradients(self) -> bool:
        return True

    def densify(self) -> None:
        """Nothing."""


@dataclass
class Traced(SplatRenderer):
    """A renderer of a user's that knows nothing of places on the screen."""

    def screen_gradients(self, lenses: Any = ()) -> None:
        return None

    def render(self, training_state: Any, view: Any, options: Any = None) -> Any:
        raise NotImplementedError


def test_a_renderer_may_say_that_it_has_no_gradients_on_the_screen() -> None:
    traced: Any = {"pipeline__model__renderer": Traced()}
    check_options(config(**traced, pipeline__model__densification=SplatMCMCDensification(gradient_power=1.0)))
    with pytest.raises(OptionsError, match="the renderer is Traced, which has no gradients of places on the screen"):
        check_options(config(**traced, pipeline__model__densification=SplatDefaultDensification()))


def test_gsplat_draws_lenses_by_its_unscented_transform_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    raw: dict[str, Any] = {
        "pipeline__datamanager__undistort": False,
        "pipeline__model__renderer": Splat3DGSRenderer(backend="gsplat"),
        "pipeline__model__densification": SplatMCMCDensification(),
        "machine__device_type": "cuda",
    }
    monkeypatch.setattr(unscented, "gsplat_version", lambda: (1, 4, 0))
    with pytest.raises(OptionsError, match=r"undistort is False, expected True with the backend gsplat \d.*1\.5\.3"):
        check_options(config(**raw))
    monkeypatch.setattr(unscented, "gsplat_version", lambda: (1, 5, 3))
    check_options(config(**raw))
    counting = {**raw, "pipeline__model__densification": SplatDefaultDensification()}
    with pytest.raises(OptionsError, match="no gradients of places on the screen, expected another densification than"):
        check_options(config(**counting))
    counting["pipeline__model__densification"] = SplatMCMCDensification(gradient_power=0.5)
    check_options(config(**counting))
    counting["pipeline__model__densification"] = CountsGradients()
    with pytest.raises(OptionsError, match="screen, expected another densification than CountsGradients"):
        check_options(config(**counting))
    for strategy, refused in ((MCMCStrategy(), False), (DefaultStrategy(), True)):
        counting["pipeline__model__densification"] = GsplatStrategy(strategy)
        with pytest.raises(OptionsError, match="than GsplatStrategy") if refused else nullcontext():
            check_options(config(**counting))
    with pytest.raises(OptionsError, match=r"camera-optimizer\.mode is SO3xR3, expected off with lenses and"):
        check_options(config(**raw, pipeline__model__camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")))


@pytest.mark.parametrize(
    ("renderer", "reason"),
    [
        (Splat3DGSRenderer(), None),
        (Splat2DGSRenderer(), None),
        (Splat3DGSRenderer(packed=True), "packed is gsplat's"),
        (Splat3DGSRenderer(backend="gsplat"), "The backend gsplat was chosen"),
        (Splat2DGSRenderer(backend="gsplat"), "The backend gsplat was chosen"),
    ],
    ids=["3dgs", "2dgs", "packed", "3dgs by gsplat", "2dgs by gsplat"],
)
def test_gsplats_code_is_looked_for_where_it_is_needed(
    renderer: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="without Triton gsplat is always needed on a GPU")
    reasons: list[str] = []
    monkeypatch.setattr(check, "require_gsplat", reasons.append)
    check_renderer(renderer, "cpu")
    assert reasons == []
    check_renderer(renderer, "cuda")
    assert [each.split(";")[0] for each in reasons] == ([] if reason is None else [reason])


class DrawsLenses(SplatRenderer[Any]):
    """No dataclass, so that a config holds it in a wrapper."""

    lenses = ("pinhole", "opencv")

    @property
    def gsplat_need(self) -> str | None:
        return "It needs it."


def test_wrapped_renderers_are_asked_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = opaque_part(DrawsLenses())
    assert type(renderer) is not DrawsLenses
    check_options(config(pipeline__model__renderer=renderer, pipeline__datamanager__undistort=False))
    reasons: list[str] = []
    monkeypatch.setattr(check, "require_gsplat", reasons.append)
    check_renderer(renderer, "cuda")
    assert reasons == ["It needs it."]


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
        (
            {"pipeline__datamanager__max_seed_points": 0},
            "--pipeline.datamanager.max-seed-points is 0, expected a number above 0",
        ),
        ({"mixed_precision": True}, "--mixed-precision and --use-grad-scaler must be False"),
        ({"machine__num_devices": 99, "machine__device_type": "cuda"}, "num-devices is 99, but PyTorch finds"),
        ({"load_checkpoint": Path("gone.ckpt")}, "--load-checkpoint: there is no file gone.ckpt"),
        ({"load_checkpoint": Path("/tmp")}, "--load-checkpoint: there is no file /tmp: that is a folder"),
        ({"load_dir": Path("gone")}, "--load-dir: there is no folder gone"),
        ({"load_dir": HERE.parent, "load_checkpoint": HERE}, "--load-dir and --load-checkpoint: both are given"),
        ({"load_step": 5}, "--load-step is 5, expected --load-dir beside it"),
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
        ({"pipeline__model__random_scale": 1e30}, "random-scale is 1e+30, expected at most 1000000"),
        ({"pipeline__model__global_scale": 0.0}, "--pipeline.model.global-scale is 0.0, expected a number above 0"),
        ({"pipeline__model__global_scale": NAN}, "--pipeline.model.global-scale is nan, expected a number above 0"),
        ({"optimizers": {"sh0": {"optimizer": FusedAdamConfig(eps=0.0)}}}, "--optimizers.sh0.optimizer.eps is 0.0"),
        ({"optimizers": {"sh0": {"optimizer": FusedAdamConfig(eps=NAN)}}}, "--optimizers.sh0.optimizer.eps is nan"),
        ({"optimizers": {"sh0": {"optimizer": FusedAdamConfig(max_norm=-1.0)}}}, "optimizer.max-norm is -1.0, expect"),
        ({"optimizers": {"sh0": {"optimizer": FusedAdamConfig(max_norm=NAN)}}}, "optimizer.max-norm is nan, expected"),
        ({"logging__max_buffer_size": 0}, "--logging.max-buffer-size is 0, expected a number above 0"),
        ({"machine__seed": -1}, "--machine.seed is -1, expected a number of at least 0"),
        (
            {"viewer__websocket_port": 99999},
            "--viewer.websocket-port is 99999, expected a number between 1 and 65535",
        ),
        ({"machine__seed": 2**32}, "--machine.seed is 4294967296, expected at most 4294967295"),
        ({"machine__num_devices": 0}, "--machine.num-devices is 0, expected at least 1"),
        ({"machine__num_machines": 0}, "--machine.num-machines is 0, expected at least 1"),
        ({"machine__num_devices": "2"}, "--machine.num-devices is '2', expected a whole number"),
        ({"machine__num_machines": 2, "machine__dist_url": 3}, "--machine.dist-url is 3, expected tcp://HOST:PORT"),
        ({"machine__num_machines": 2}, "--machine.dist-url is auto, expected tcp://HOST:PORT with several machines"),
        ({"machine__machine_rank": 1}, "--machine.machine-rank is 1, expected 0 with --machine.num-machines 1"),
        ({"steps_per_eval_batch": -1}, "--steps-per-eval-batch is -1, expected a number of at least 0"),
        ({"steps_per_eval_image": -1}, "--steps-per-eval-image is -1, expected a number of at least 0"),
        ({"steps_per_eval_all_images": -1}, "--steps-per-eval-all-images is -1, expected a number of at least 0"),
        ({"pipeline__model__camera_optimizer__trans_l2_penalty": NAN}, "trans-l2-penalty is nan, expected a number"),
        ({"pipeline__model__camera_optimizer__rot_l2_penalty": NAN}, "rot-l2-penalty is nan, expected a number"),
        ({"pipeline__datamanager__fps_reset_every": 0}, "--pipeline.datamanager.fps-reset-every is 0, expected"),
        ({f"{PARSER}__scale_factor": 0.0}, "--scale-factor of the dataparser is 0.0, expected a number above 0"),
        ({f"{PARSER}__depth_unit_scale_factor": -1.0}, "--depth-unit-scale-factor of the dataparser is -1.0"),
        ({f"{PARSER}__eval_interval": -3}, "--eval-interval of the dataparser is -3, expected a number above 0"),
        ({f"{PARSER}__train_split_fraction": 2.0}, "--train-split-fraction of the dataparser is 2.0, expected a"),
        ({f"{PARSER}__eval_mode": "intervall"}, "--eval-mode of the dataparser is 'intervall', expected one of: frac"),
        ({f"{PARSER}__orientation_method": "upp"}, "--orientation-method of the dataparser is 'upp', expected one of"),
        ({"gradient_accumulation_steps": {"shX": 16}}, "names the group 'shX', which does not exist; did you mean sh"),
        (
            {"learning_rates": {"mean": 0.1}},
            "--learning-rates names the group 'mean', which does not exist; did you mean",
        ),
        ({"learning_rates": {"means": 0.0}}, "--learning-rates of means is 0.0, expected a number above 0"),
        ({"final_learning_rates": {"sh0": NAN}}, "--final-learning-rates of sh0 is nan, expected a number above 0"),
        ({"warmup_steps": {"sh0": -1}}, "--warmup-steps of sh0 is -1, expected a number of at least 0"),
        ({"warmup_steps": {"sh0": 2.5}}, "--warmup-steps of sh0 is 2.5, expected a whole number"),
        ({"max_norms": {"sh0": 0}}, "--max-norms of sh0 is 0, expected a number above 0"),
        ({"modules__resolution__full_from": NAN}, "--modules.resolution.full-from is nan, expected a number above 0"),
        ({"modules__resolution__max_downscale": 0}, "--modules.resolution.max-downscale is 0, expected a number above"),
        ({"modules__exporter__export_steps": [7, 0]}, "--modules.exporter.export-steps holds 0, expected whole numb"),
        ({"output_dir": Path("~/runs")}, "--output-dir is ~/runs, where the shell has left the ~ for your folder"),
        ({"data": Path("~/fox")}, "--data is ~/fox, where the shell has left the ~ for your folder"),
        ({"modules__exporter__splat_format": "obj"}, "--modules.exporter.splat-format is 'obj', expected one of: ply"),
    ],
)
def test_single_mistakes(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(OptionsError) as caught:
        check_options(config(**options))
    assert len(caught.value.problems) == 1
    assert fragment in caught.value.problems[0]


def test_options_of_modules_hooks_and_writers_are_told_with_the_others() -> None:
    """Modules checked their own one after the other at set-up, when the data had been loaded."""
    bad = config(
        modules__checkpointer__every=-1,
        modules__checkpointer__keep=-1,
        modules__timer__every=-1,
        modules__progress__update_every=-1,
        modules__tensorboard__scalars_every=-1,
        modules__tensorboard__images_every=-1,
        modules__evaluator__eval_steps=[-1],
        hooks=("LogHok",),
        writers=("JsonWriter",),
    )
    with pytest.raises(OptionsError) as caught:
        check_options(bad)
    numbers = ("checkpointer.every", "checkpointer.keep", "timer.every", "progress.update-every")
    for name in (*numbers, "tensorboard.scalars-every", "tensorboard.images-every"):
        assert f"--modules.{name} is -1, expected a number of at least 0" in caught.value.problems
    assert "--modules.evaluator.eval-steps holds -1, expected whole numbers of at least 1" in caught.value.problems
    hook, writer = caught.value.problems[-2:]
    assert hook.startswith("There is no hook named 'LogHok'. Did you mean LogHook")
    assert writer.startswith("There is no writer named 'JsonWriter'")


@dataclass
class OwnLoss(Splat3DGSLossFn):
    """A user's own loss, whose fields have the names of others' and mean something else."""

    eps: float = 0.0
    every: int = -1
    growth: float = -1.0
    warmup_steps: int = -1
    dropout: float = 1.0
    seed: int = -1
    scale_factor: float = 0.0
    sharpness: Annotated[float, from_to(1, 2)] = 1.5


def test_a_name_means_nothing_where_its_owner_is_another() -> None:
    """A loss of one's own may well have an eps of 0."""
    check_options(config(pipeline__model__loss_fn=OwnLoss()))
    assert isinstance(make_method("own", loss_fn=OwnLoss()).config.pipeline.model.loss_fn, OwnLoss)


def test_a_users_own_ranges_are_checked_with_the_others() -> None:
    bad = config(pipeline__model__loss_fn=OwnLoss(sharpness=2.5, ssim_lambda=-1.0), machine__seed=-1)
    with pytest.raises(OptionsError) as caught:
        check_options(bad)
    assert caught.value.problems == [
        "--machine.seed is -1, expected a number of at least 0",
        "--pipeline.model.loss-fn.ssim-lambda is -1.0, expected a number between 0 and 1",
        "--pipeline.model.loss-fn.sharpness is 2.5, expected a number between 1 and 2",
    ]


def test_parts_from_python_are_checked_all_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        make_method(
            "wrong",
            loss_fn=OwnLoss(sharpness=2.5),
            densification=SplatBudgetDensification(refine_every=0),
            modules=[SplatTimer(-1), SplatTimer(-2)],
        )
    assert caught.value.problems == [
        "OwnLoss.sharpness is 2.5, expected a number between 1 and 2",
        "SplatBudgetDensification.refine_every is 0, expected a number above 0",
        "SplatTimer.every is -1, expected a number of at least 0",
        "SplatTimer_2.every is -2, expected a number of at least 0",
    ]


BAD_TIMER = SplatTimer(-5)


def test_a_module_by_import_path_is_checked_before_the_data() -> None:
    with pytest.raises(OptionsError, match=rf"--modules.own {__name__}:BAD_TIMER: SplatTimer.every is -5, expected"):
        import_module(f"{__name__}:BAD_TIMER")


def test_a_users_own_dataparser_may_mean_something_else() -> None:
    @dataclass
    class OwnDataParserConfig(NerfstudioDataParserConfig):
        scale_factor: float = -1.0

    own = OwnDataParserConfig(scene_scale=-1.0)
    with pytest.raises(OptionsError) as caught:
        check_options(config(**{PARSER: own}))
    assert caught.value.problems == ["--scene-scale of the dataparser is -1.0, expected a number above 0"]


def test_every_range_of_nerfstudios_fields_is_of_a_field_there_is() -> None:
    def subclasses(base: type) -> list[type]:
        return [base, *(found for child in base.__subclasses__() for found in subclasses(child))]

    for base, fields in RANGES.items():
        known = {name for cls in subclasses(base) for name in getattr(cls, "__dataclass_fields__", {})}
        assert fields.keys() <= known, base


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
