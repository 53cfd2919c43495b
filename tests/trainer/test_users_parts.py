"""Losses, densification and modules as the documents' readers write them: plain classes, every documented signature."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor, nn

from splatkit_ns import View, render
from splatkit_ns.densification import GsplatStrategy as BuiltInGsplatStrategy
from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.densification.base import SplatDensification
from splatkit_ns.errors import HookFailedError, ModuleError, SplatkitError
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.loss_fn.base import SplatLossFn
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.image_frame import ImageFrame
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.renderer import RenderOptions, Splat2DGSPayload, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import MissingRowsError
from splatkit_ns.splat.training_state import SplatTrainingState
from tests.tiny_scene import tiny_gaussians, write_tiny_scene
from tests.trainer.helpers import train


class SavesCheckpoints(SplatBaseModule[SplatRenderPayload]):
    """The custom module of the documents."""

    def __init__(self, output_dir: str, save_every: int = 1000) -> None:
        self.output_dir = Path(output_dir)
        self.save_every = save_every

    def on_setup(
        self, logger, renderer, data_provider, loss_fn, densification, modules, max_steps, **kwargs
    ) -> None:  # fmt: skip
        super().on_setup(logger, renderer, data_provider, loss_fn, densification, modules, max_steps, **kwargs)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        assert renderer in modules
        assert densification in modules
        logger.info("to %s", self.output_dir)

    def post_step(self, logger, step, max_steps, loss, training_state, rend_out, target_frames, **kwargs) -> None:
        assert loss.ndim == 0
        assert rend_out["renders"].shape == target_frames.shape == kwargs["rendered_frames"].shape
        if step % self.save_every == 0 or step == max_steps:
            training_state.save_ckpt(str(self.output_dir / f"step_{step:06d}.pth"))


class Combined(SplatLossFn[SplatRenderPayload]):
    """L1, SSIM and depth, as a plain tensor."""

    def __init__(self, ssim_weight: float = 0.2, depth_weight: float = 0.0) -> None:
        self.ssim_weight = ssim_weight
        self.depth_weight = depth_weight

    def compute_loss(
        self,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        masks: Tensor | None = None,
        step: int = 0,
        max_steps: int = 30000,
    ) -> Tensor:
        difference = (rendered_frames - target_frames).abs()
        if masks is not None:
            difference = difference * masks.unsqueeze(-1)
        loss = difference.mean()
        similarity = ssim(rendered_frames.permute(0, 3, 1, 2), target_frames.permute(0, 3, 1, 2))
        loss = loss + self.ssim_weight * (1 - similarity)
        if self.depth_weight > 0:
            assert rend_out.depths is not None
            loss = loss + self.depth_weight * rend_out.depths.mean()
        return loss


class Scheduled(SplatLossFn[SplatRenderPayload]):
    """Named terms, one of which grows with the steps."""

    def compute_loss(self, rendered_frames, target_frames, training_state, step=0, max_steps=30000):
        weight = min(step / max_steps, 1.0)
        return {
            "image": (rendered_frames - target_frames).abs().mean(),
            "thin": weight * training_state.scales.mean(),
        }


class Simple(SplatDensification[SplatRenderPayload]):
    """Clones by gradient and prunes by opacity, with masks of (C, N) and (N,)."""

    def __init__(self, every: int = 2) -> None:
        self.every = every

    def densify(
        self,
        step: int,
        max_steps: int,
        rendered_frames: Tensor,
        target_frames: Tensor,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        masks: Tensor | None = None,
        world_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert (world_rank, world_size) == (0, 1)
        if step % self.every != 0:
            return
        grads = rend_out.means2d.grad
        assert grads is not None
        norms = grads.norm(dim=-1)
        training_state.duplicate(norms > norms.median())
        least = training_state.opacities.kthvalue(3).values
        training_state.remove(training_state.opacities < least)


class GsplatStrategy(SplatDensification[SplatRenderPayload]):
    """gsplat's own strategy on our parameters; with the documents' defect if `defect`."""

    def __init__(self, defect: bool) -> None:
        self.defect = defect
        self.strategy = DefaultStrategy(grow_grad2d=1e-6, refine_start_iter=0, refine_every=2, reset_every=10_000)
        self.state: dict[str, Any] = {}

    def on_setup(
        self, logger, renderer, data_provider, loss_fn, densification, modules, max_steps, **kwargs
    ) -> None:  # fmt: skip
        super().on_setup(logger, renderer, data_provider, loss_fn, densification, modules, max_steps, **kwargs)
        if self.defect:
            len(training_state.params["means"])  # type: ignore[name-defined]  # noqa: F821
        assert len(kwargs["training_state"].params["means"]) > 0
        self.state = self.strategy.initialize_state(scene_scale=1.0)

    def densify(
        self, step, max_steps, rendered_frames, target_frames, training_state, rend_out, masks=None, **kwargs
    ) -> None:  # fmt: skip
        self.strategy.step_post_backward(
            params=training_state.params,
            optimizers=training_state.optimizers,
            state=self.state,
            step=step,
            info=rend_out.info,
        )


class MultiCriterion(SplatDensification[SplatRenderPayload]):
    """Splits, clones and prunes in turn; each mask is made when the operation before it is done."""

    def densify(self, step, training_state, rend_out, **kwargs) -> None:
        norms = rend_out.means2d.grad.norm(dim=-1)[0]
        high = norms > norms.median()
        large = rend_out.radii[0] > rend_out.radii[0].median()
        splits, clones = high & large, high & ~large
        grown = training_state.scales.amax(-1)
        training_state.duplicate(clones)
        num_new = len(training_state) - len(splits)
        training_state.split(torch.nn.functional.pad(splits, (0, num_new)))
        assert grown.numel() < len(training_state)
        training_state.remove(training_state.opacities < 0.005)


class LeaderDecides(SplatDensification[SplatRenderPayload]):
    """The distributed example's signature."""

    def densify(
        self, step, max_steps, rendered_frames, target_frames, training_state, rend_out, masks=None,
        world_rank=0, world_size=1,
    ) -> None:  # fmt: skip
        if world_rank == 0:
            training_state.duplicate(torch.arange(len(training_state)) < 2)


class CountsRows(SplatBaseModule[SplatRenderPayload]):
    """Keeps a number for each Gaussian."""

    def on_setup(self, training_state: SplatTrainingState) -> None:
        self.ids = torch.arange(len(training_state))

    def on_gaussians_changed(self, row_change) -> None:
        self.ids = row_change.apply(self.ids, fill=-1)

    def post_step(self, training_state: SplatTrainingState) -> None:
        assert len(self.ids) == len(training_state)
        for name, param in training_state.params.items():
            state = training_state.optimizers[name].state.get(param, {})
            assert state or name == "shN", "which has no gradient while the SH degree in use is 0"
            assert all(entry.shape == param.shape for key, entry in state.items() if key != "step")


def test_checkpoint_module(tiny_scene: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    train(tiny_scene, tmp_path, 5, modules=[SavesCheckpoints(str(folder), save_every=2)])
    assert sorted(path.name for path in folder.iterdir()) == [f"step_{step:06d}.pth" for step in (2, 4, 5)]
    resumed = train(tiny_scene, tmp_path, 5, ckpt_path=folder / "step_000004.pth")
    assert resumed.step == 5


def test_combined_loss(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 2, loss_fn=Combined(depth_weight=0.1), config={"render_depth": True})
    assert result.metrics["loss"] == result.metrics["loss/loss"] > 0


def test_scheduled_loss_is_summed_and_reported_by_term(tiny_scene: Path, tmp_path: Path) -> None:
    class Sizes(SplatBaseModule[SplatRenderPayload]):
        def pre_step(self, training_state: SplatTrainingState) -> None:
            self.mean = float(training_state.scales.mean())

    result = train(tiny_scene, tmp_path, 4, loss_fn=Scheduled(), modules=[Sizes()])
    metrics = result.metrics
    sizes = result.modules[-1]
    assert isinstance(sizes, Sizes)
    assert metrics["loss/thin"] == pytest.approx(sizes.mean), "the weight is 1 at the last step"
    assert metrics["loss"] == pytest.approx(metrics["loss/image"] + metrics["loss/thin"])


BUILT_IN = BuiltInGsplatStrategy(DefaultStrategy(grow_grad2d=1e-6, refine_start_iter=0, refine_every=2))


@pytest.mark.parametrize(
    "densification", [Simple(), GsplatStrategy(defect=False), BUILT_IN, MultiCriterion(), LeaderDecides()]
)
def test_densification(tiny_scene: Path, tmp_path: Path, densification: Any) -> None:
    result = train(tiny_scene, tmp_path, 5, densification=densification, modules=[CountsRows()])
    rows = result.modules[-1]
    assert isinstance(rows, CountsRows)
    assert len(result.training_state) != 48, "it did something"
    kept = rows.ids[rows.ids >= 0]
    assert len(kept.unique()) == len(kept)
    assert all(torch.isfinite(param).all() for param in result.training_state.params.values())


def test_a_resumed_run_with_gsplats_strategy_ends_with_the_same_bits(tiny_scene: Path, tmp_path: Path) -> None:
    saves = SavesCheckpoints(str(tmp_path / "checkpoints"), save_every=3)
    whole = train(tiny_scene, tmp_path, 5, densification=BUILT_IN, modules=[saves])
    path = tmp_path / "checkpoints" / "step_000003.pth"
    resumed = train(tiny_scene, tmp_path, 5, densification=BUILT_IN, ckpt_path=path)
    assert len(whole.training_state) != 48
    for name, param in whole.training_state.params.items():
        assert torch.equal(param, resumed.training_state.params[name]), name


class Projects(Splat3DGSLossFn):
    """3DGS's loss, and the difference of both images in a random projection."""

    def on_setup(self):
        self.projection = torch.randn(3, 2)

    def compute_loss(self, rendered_frames, target_frames, **others):
        terms = super().compute_loss(rendered_frames=rendered_frames, target_frames=target_frames, **others)
        return {**terms, "projected": ((rendered_frames - target_frames) @ self.projection).abs().mean()}


class DrawsAtTheStart(Splat3DGSRenderer):
    """Draws random numbers before the first step, if the run is new; before the loss does."""

    def on_setup(self, step, **others):
        self.numbers = torch.rand(4) if step == 0 else None


def test_a_resumed_run_draws_the_same_random_numbers_in_set_up(tiny_scene: Path, tmp_path: Path) -> None:
    saves = SavesCheckpoints(str(tmp_path / "checkpoints"), save_every=3)
    parts = {"renderer": DrawsAtTheStart(), "loss_fn": Projects()}
    whole = train(tiny_scene, tmp_path, 5, modules=[saves], **parts)
    path = tmp_path / "checkpoints" / "step_000003.pth"
    resumed = train(tiny_scene, tmp_path, 5, ckpt_path=path, **parts)
    for name, param in whole.training_state.params.items():
        assert torch.equal(param, resumed.training_state.params[name]), name


def test_the_documents_gsplat_example_fails_with_module_and_hook(tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(HookFailedError, match=r"GsplatStrategy\.on_setup failed .* NameError") as caught:
        train(tiny_scene, tmp_path, 1, densification=GsplatStrategy(defect=True))
    assert isinstance(caught.value.__cause__, NameError)
    assert caught.value.__cause__.__traceback__ is not None


class Renders(Splat3DGSRenderer):
    """A renderer that makes something else of the payload."""

    def __init__(self, change: Callable[[SplatRenderPayload], Any]) -> None:
        super().__init__()
        self.change = change

    def render(self, *cameras: Any, **options: Any) -> Any:
        return self.change(super().render(*cameras, **options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda payload: None,
            r"returned None, expected SplatRenderPayload\(renders=…, alphas=…, width=…, height=…, n_cameras=…, info=…, "
            r"means2d=…\)\.$",
        ),
        (lambda payload: payload.renders, r"returned an object of type Tensor, expected SplatRenderPayload\(renders=…"),
        (
            lambda payload: replace(payload, renders=payload.renders[0]),
            r"renders of its payload is torch\.float32 of shape \(24, 32, 3\), expected floats of shape "
            r"\(1, 24, 32, 3\)",
        ),
        (
            lambda payload: replace(payload, alphas=payload.alphas > 0),
            r"alphas of its payload is torch\.bool of shape \(1, 24, 32, 1\), expected floats of shape",
        ),
        (lambda payload: replace(payload, means2d=None), r"means2d of its payload is NoneType, expected a tensor"),
        (lambda payload: replace(payload, renders=[payload]), r"renders of its payload is list, expected a tensor"),
    ],
)
def test_what_a_renderer_returns_is_checked(
    tiny_scene: Path, tmp_path: Path, change: Callable[[SplatRenderPayload], Any], message: str
) -> None:
    with pytest.raises(ModuleError, match=rf"^Renders\.render at step 1 on image frame_\d+\.png:? {message}"):
        train(tiny_scene, tmp_path, 1, renderer=Renders(change))


def test_a_renderer_that_reads_rows_which_are_not_there(tiny_scene: Path, tmp_path: Path) -> None:
    class ReadsFeatures(Splat3DGSRenderer):
        def render(self, training_state: SplatTrainingState, view: View, options: Any = RenderOptions()) -> Any:
            assert "features" not in training_state.params
            return super().render(training_state, view, options)[training_state.params["features"]]

    expected = r"^ReadsFeatures\.render: these Gaussians have no rows 'features'; they have .*sh0.*RowTrainable"
    with pytest.raises(ModuleError, match=expected):
        train(tiny_scene, tmp_path, 1, renderer=ReadsFeatures())
    with pytest.raises(ModuleError, match=expected):
        render(tiny_gaussians().to_splat_model(), View.look_at((2, 0, 1), (0, 0, 0)), renderer=ReadsFeatures())


def test_a_loss_that_reads_rows_which_are_not_there(tiny_scene: Path, tmp_path: Path) -> None:
    class ReadsFeatures(SplatLossFn[SplatRenderPayload]):
        def compute_loss(self, training_state: SplatTrainingState) -> Tensor:
            return training_state.params["features"].mean()

    with pytest.raises(HookFailedError, match=r"compute_loss failed .* have no rows 'features'; they have") as caught:
        train(tiny_scene, tmp_path, 1, loss_fn=ReadsFeatures())
    assert isinstance(caught.value.__cause__, MissingRowsError)


def test_a_renderer_that_returns_another_payload_than_its_class_declares(tiny_scene: Path, tmp_path: Path) -> None:
    class Promises(SplatRenderer[Splat2DGSPayload]):
        def render(self, *cameras: Any, **options: Any) -> Any:
            return Splat3DGSRenderer().render(*cameras, **options)

    with pytest.raises(ModuleError, match="returned an object of type SplatRenderPayload, expected Splat2DGSPayload"):
        train(tiny_scene, tmp_path, 1, renderer=Promises())


def test_a_renderer_that_fails_is_named_with_the_step(tiny_scene: Path, tmp_path: Path) -> None:
    def fail(payload: SplatRenderPayload) -> None:
        raise RuntimeError("no light")

    with pytest.raises(HookFailedError, match=r"^Renders\.render failed at step 1: RuntimeError: no light$") as caught:
        train(tiny_scene, tmp_path, 1, renderer=Renders(fail))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_renderer_that_does_not_take_its_options_is_found_before_training(tiny_scene: Path, tmp_path: Path) -> None:
    class NoOptions(SplatRenderer[SplatRenderPayload]):
        def render(self, training_state, view):
            raise AssertionError("it is not called")

    class OneMore(NoOptions):
        def render(self, training_state, view, options, gamma):
            raise AssertionError("it is not called")

    with pytest.raises(ModuleError, match=r"^NoOptions\.render .*too many positional arguments\. Expected render\("):
        train(tiny_scene, tmp_path, 1, renderer=NoOptions())
    with pytest.raises(ModuleError, match=r"^OneMore\.render .*missing a required argument: 'gamma'") as caught:
        train(tiny_scene, tmp_path, 1, renderer=OneMore())
    assert "view.cam_to_worlds" not in str(caught.value)


def test_a_renderer_that_takes_a_camera_in_parts_is_told_of_the_view(tiny_scene: Path, tmp_path: Path) -> None:
    class Old(SplatRenderer[SplatRenderPayload]):
        def render(self, training_state, cam_to_worlds, Ks, width, height, *, sh_degree=None, **options):
            raise AssertionError("it is not called")

    class OldAndLoose(Old):
        def render(self, training_state, cam_to_worlds, Ks, *size, **options):
            raise AssertionError("it is not called")

    for renderer, problem in ((Old(), "missing a required argument"), (OldAndLoose(), "it takes Ks and cam_to_worlds")):
        with pytest.raises(ModuleError, match=rf"{problem}.*one value: view\.cam_to_worlds.* fields of options\.$"):
            train(tiny_scene, tmp_path, 1, renderer=renderer)


def test_a_hook_argument_that_does_not_exist_is_found_before_training(tiny_scene: Path, tmp_path: Path) -> None:
    class Asks(SplatBaseModule[SplatRenderPayload]):
        def post_step(self, gaussians: Any) -> None: ...

    with pytest.raises(ModuleError, match=r"Asks\.post_step takes 'gaussians'.*\n.*may take: logger"):
        train(tiny_scene, tmp_path, 1, modules=[Asks()])


def test_a_loss_without_a_gradient(tiny_scene: Path, tmp_path: Path) -> None:
    class Detached(SplatLossFn[SplatRenderPayload]):
        def compute_loss(self, rendered_frames, target_frames):
            return (rendered_frames.detach() - target_frames).abs().mean()

    with pytest.raises(ModuleError, match=r"Detached\.compute_loss at step 1 on image frame_\d+\.png: no term"):
        train(tiny_scene, tmp_path, 1, loss_fn=Detached())


class Returns(SplatImageModel):
    """Returns something else than an image and named terms."""

    def __init__(self, image: Any = None, terms: Any = None) -> None:
        self.image, self.terms = image, terms

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Any:
        return rendered if self.image is None else self.image(rendered)

    def regularizers(self, frame: ImageFrame) -> Any:
        return {} if self.terms is None else self.terms


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Returns(image=lambda rendered: rendered[0]),
            r"apply returned a tensor of shape \(24, 32, 3\), expected one of",
        ),
        (Returns(image=Tensor.double), r"apply returned an image of torch\.float64, expected torch\.float32"),
        (Returns(terms=0.1), r"Returns.regularizers returned 0.1, expected a dict of named scalar tensors"),
        (
            Returns(terms={"tv": torch.zeros(3)}),
            r"regularizers: term 'tv' is \(3,\), expected a tensor with one element",
        ),
        (Returns(terms={"tv": 0.1}), r"regularizers: term 'tv' is float, expected a tensor with one element"),
    ],
)
def test_what_an_image_model_returns_is_checked(tiny_scene: Path, tmp_path: Path, model: Any, message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        train(tiny_scene, tmp_path, max_steps=2, image_model=model)


class Forward(nn.Module, SplatImageModel):
    """Has the method of a network in place of `apply`."""

    def forward(self, rendered: Tensor, frame: ImageFrame) -> Tensor:
        raise AssertionError("it is not called")


class OneArgument(SplatImageModel):
    """Takes no frame."""

    def apply(self, rendered: Tensor) -> Tensor:  # type: ignore[override]
        raise AssertionError("it is not called")


class NotSetUp(nn.Module, SplatImageModel):
    """Has forgotten what all networks have to call."""

    def __init__(self) -> None:
        self.factor = 1.0

    def apply(self, rendered: Tensor, frame: ImageFrame) -> Tensor:  # type: ignore[override]
        raise AssertionError("it is not called")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Forward(), r"^image_model: Forward has no apply\(\) of its own"),
        (OneArgument(), r"^OneArgument\.apply does not fit how .* Expected apply\(self, rendered, frame\);"),
        (NotSetUp(), r"^NotSetUp is an nn\.Module .*: its __init__ has to call super\(\)\.__init__\(\) first\.$"),
    ],
)
def test_mistakes_in_networks_are_told_before_training(
    tiny_scene: Path, tmp_path: Path, model: Any, message: str
) -> None:
    with pytest.raises(ModuleError, match=message):
        train(tiny_scene, tmp_path, max_steps=1, image_model=model)


def test_a_backward_pass_that_fails_is_named_with_the_step(tiny_scene: Path, tmp_path: Path) -> None:
    class KeepsItsGraph(SplatLossFn[SplatRenderPayload]):
        mean: Any = 0.0

        def compute_loss(self, rendered_frames, target_frames):
            self.mean = 0.9 * self.mean + 0.1 * (rendered_frames - target_frames).abs().mean()
            return self.mean

    expected = (
        r"^The backward pass of image frame_\d+\.png failed at step 2: RuntimeError: .*keep it with detach\(\)\.$"
    )
    with pytest.raises(HookFailedError, match=expected) as caught:
        train(tiny_scene, tmp_path, 3, loss_fn=KeepsItsGraph())
    assert type(caught.value.__cause__) is RuntimeError


def test_a_plain_message_out_of_a_backward_pass_stays_one(tiny_scene: Path, tmp_path: Path) -> None:
    class Refuses(SplatLossFn[SplatRenderPayload]):
        def compute_loss(self, rendered_frames):
            def refuse(gradient: torch.Tensor) -> torch.Tensor:
                raise SplatkitError("This gradient cannot be computed here: use another part.")

            rendered_frames.register_hook(refuse)
            return rendered_frames.mean()

    with pytest.raises(SplatkitError, match=r"^This gradient cannot be computed here: use another part\.") as caught:
        train(tiny_scene, tmp_path, 1, loss_fn=Refuses())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"wants_depth": True}, r"^Wants\.wants_depth is True, expected a method: def wants_depth\(self, step\)\.$"),
        ({"wanted_targets": "target_depths"}, r"^Wants\.wanted_targets is 'target_depths', expected a set: frozenset"),
        (
            {"wanted_targets": lambda self: {"target_depths"}},
            r"^Wants\.wanted_targets is <.*, expected a set: frozenset",
        ),
        ({"post_step": 5}, r"^Wants\.post_step is 5, expected a method: give the attribute another name\.$"),
    ],
)
def test_attributes_of_another_kind_than_the_run_reads(
    tiny_scene: Path, tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    loss = type("Wants", (Combined,), attributes)
    with pytest.raises(ModuleError, match=message):
        train(tiny_scene, tmp_path, 1, loss_fn=loss())


def test_what_a_part_writes_to_images_ends_with_the_step(tmp_path: Path) -> None:
    class Writes(SplatLossFn[SplatRenderPayload]):
        wanted_targets = frozenset({"target_depths"})

        def on_setup(self) -> None:
            self.seen: dict[str, set[tuple[float, ...]]] = {}

        def compute_loss(self, rendered_frames, target_frames, masks, target_depths, image_name):
            loss = (rendered_frames - target_frames).abs().mean()
            images = (target_frames, masks, target_depths)
            sums = tuple(float(image.nan_to_num().sum()) for image in images)
            self.seen.setdefault(image_name, set()).add(sums)
            target_frames.mul_(0.5)
            masks.logical_not_()
            target_depths.add_(1.0)
            return loss

    scene = write_tiny_scene(tmp_path / "scene", num_views=3, masks=True, depth=True)
    settings = {"pipeline.datamanager.cache_images_type": "float32"}
    result = train(scene, tmp_path, 6, loss_fn=Writes(), config={"settings": settings})
    (loss,) = (part for part in result.modules if isinstance(part, Writes))
    assert [len(sums) for sums in loss.seen.values()] == [1, 1], "each photograph is the same in all steps"


class MeanOfTwo(SplatRenderer):
    """The mean of two cameras, which are the same here."""

    def render(self, training_state, view, options=RenderOptions()):
        backgrounds = None if options.backgrounds is None else options.backgrounds.expand(2, -1)
        twice = replace(view, cam_to_worlds=view.cam_to_worlds.expand(2, -1, -1), Ks=view.Ks.expand(2, -1, -1))
        payload = Splat3DGSRenderer().render(training_state, twice, replace(options, backgrounds=backgrounds))
        means = {name: payload[name].mean(0, keepdim=True) for name in ("renders", "alphas")}
        return replace(payload, **means)


def test_an_image_may_be_the_mean_of_several_cameras(tiny_scene: Path, tmp_path: Path) -> None:
    settings: Any = {"refine_start_iter": 2, "refine_every": 3, "refine_stop_iter": 6, "grow_grad2d": 1e-4}
    growing = SplatDefaultDensification(**settings)
    mean, plain = (
        train(tiny_scene, tmp_path, 6, renderer=renderer, densification=growing).training_state
        for renderer in (MeanOfTwo(), Splat3DGSRenderer())
    )
    assert len(mean) == len(plain) > 48
    assert torch.allclose(mean.params["sh0"], plain.params["sh0"], atol=1e-4)


def test_a_mask_that_densify_returns_in_vain_is_told_once(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    class Returns(SplatDensification[SplatRenderPayload]):
        def densify(self, training_state):
            return training_state.opacities < 0.5

    train(tiny_scene, tmp_path, 2, densification=Returns())
    (told,) = [text for text in messages.messages if "returned" in text]
    assert told == (
        "Returns.densify returned an object of type Tensor, which nothing uses: give masks to "
        "training_state.duplicate, split or remove."
    )


class ReadsDepth(SplatBaseModule[SplatRenderPayload]):
    """Notes in which steps there is depth, which it wants in each second one."""

    def on_setup(self):
        self.found = []

    def wants_depth(self, step):
        return step % 2 == 0

    def post_step(self, rend_out):
        self.found.append(rend_out.depths_expected is not None)


def test_depth_is_rendered_in_the_steps_for_which_a_module_wants_it(tiny_scene: Path, tmp_path: Path) -> None:
    result = train(tiny_scene, tmp_path, 4, modules=[ReadsDepth()])
    assert next(part for part in result.modules if isinstance(part, ReadsDepth)).found == [False, True, False, True]


def test_a_loss_that_is_not_a_number(tiny_scene: Path, tmp_path: Path) -> None:
    class Breaks(SplatLossFn[SplatRenderPayload]):
        def compute_loss(self, rendered_frames, target_frames, step):
            l1 = (rendered_frames - target_frames).abs().mean()
            return {"l1": l1, "bad": l1 * (float("nan") if step == 2 else 1.0)}

    with pytest.raises(SplatkitError, match=r"at step 2 on image frame_\d+\.png: .*bad = nan"):
        train(tiny_scene, tmp_path, 3, loss_fn=Breaks())


def test_clean_up_runs_after_a_failure(tiny_scene: Path, tmp_path: Path) -> None:
    cleaned: list[int] = []

    class Fails(SplatBaseModule[SplatRenderPayload]):
        def post_step(self, step: int) -> None:
            raise RuntimeError("full")

        def on_cleanup(self, step: int) -> None:
            cleaned.append(step)

    with pytest.raises(HookFailedError, match=r"Fails\.post_step failed at step 1: RuntimeError: full"):
        train(tiny_scene, tmp_path, 2, modules=[Fails()])
    assert cleaned == [1]


def test_a_module_whose_set_up_fails_is_cleaned_up_and_so_are_those_before_it(tiny_scene: Path, tmp_path: Path) -> None:
    cleaned: list[str] = []

    class Opens(SplatBaseModule[SplatRenderPayload]):
        def on_setup(self) -> None:
            self.file = "open"

        def on_cleanup(self) -> None:
            cleaned.append(self.file)

    class Fails(Opens):
        def on_setup(self) -> None:
            self.file = "half open"
            raise RuntimeError("no room")

    with pytest.raises(HookFailedError, match=r"Fails\.on_setup failed at step 0: RuntimeError: no room"):
        train(tiny_scene, tmp_path, 2, modules=[Opens(), Fails(), Opens()])
    assert cleaned == ["open", "half open"]


@pytest.mark.parametrize("hook", ["pre_compute_loss", "post_compute_loss", "on_optimize"])
def test_gaussians_stay_between_render_and_densification(tiny_scene: Path, tmp_path: Path, hook: str) -> None:
    """New parameters would have no gradient, and densification would see gradients of other rows."""

    class Grows(SplatBaseModule[SplatRenderPayload]):
        def grow(self, training_state: SplatTrainingState) -> None:
            training_state.add(torch.zeros(1, 3))

    setattr(Grows, hook, Grows.grow)
    with pytest.raises(
        HookFailedError, match=rf"Grows\.{hook} failed at step 1: RuntimeError: Gaussians cannot be added"
    ):
        train(tiny_scene, tmp_path, 1, modules=[Grows()])


@pytest.mark.parametrize("hook", ["pre_batch", "pre_step", "post_step", "on_evaluate"])
def test_gaussians_come_before_rendering_and_at_the_end(tiny_scene: Path, tmp_path: Path, hook: str) -> None:
    class Grows(SplatBaseModule[SplatRenderPayload]):
        def grow(self, training_state: SplatTrainingState) -> None:
            training_state.add(torch.zeros(1, 3))

    setattr(Grows, hook, Grows.grow)
    assert len(train(tiny_scene, tmp_path, 2, modules=[Grows()]).training_state) == 48 + 2


def test_modules_log_to_the_packages_logger(tiny_scene: Path, tmp_path: Path) -> None:
    class Names(SplatBaseModule[SplatRenderPayload]):
        def on_setup(self, logger: logging.Logger, data_provider: Any) -> None:
            self.logger_name = logger.name
            self.names = [path.name for path in data_provider.train_image_paths]
            self.shape = tuple(data_provider.train_image(0).shape)
            self.numbers = (data_provider.num_train_images, data_provider.num_eval_images)

    names = train(tiny_scene, tmp_path, 1, modules=[Names()]).modules[-1]
    assert isinstance(names, Names)
    assert names.logger_name == "splatkit_ns"
    assert names.numbers == (7, 1)
    assert len(names.names) == 7
    assert names.shape == (24, 32, 3)
