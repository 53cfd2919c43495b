"""What the documents' code blocks do, for those that no other test here runs.

The others: modules and gsplat's strategy in `test_users_parts`, densification in `test_densification_document`, and
the hook and the trainer that it sees in `tests/hooks/test_view.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.image_metrics.ssim import ssim
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.loss_fn.base import SplatLossFn
from splatkit_ns.modules import SplatBaseModule, SplatEvaluator, SplatExporter, SplatProgressTracker
from splatkit_ns.modules.frame import SplatRenderPayload
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import SplatModel
from splatkit_ns.splat.training_state import SplatTrainingState
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.tiny_scene import write_tiny_scene
from tests.trainer.helpers import make_trainer, train
from tests.trainer.test_splat_trainer import assert_same_gaussians


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def names(folder: str, suffix: str, *steps: int) -> list[str]:
    return [f"{folder}/step_{step:06d}.{suffix}" for step in steps]


def test_exports_beside_other_modules_resume_and_load(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter's quick start, its other modules, going on from a checkpoint, and loading a file."""
    monkeypatch.chdir(tmp_path)
    parts = {
        "config": SplatTrainerConfig(max_steps=6, lpips=False, device="cpu"),
        "data_provider": NerfstudioDataProvider(tiny_scene),
        "renderer": Splat3DGSRenderer(),
        "loss_fn": Splat3DGSLossFn(),
        "densification": SplatDefaultDensification(),
    }
    modules = [
        SplatProgressTracker(update_every=10),
        SplatEvaluator(output_dir="results/eval", eval_steps=[2, 4, 6]),
        SplatExporter(output_dir="results/output", export_steps=[2, 4, 6], save_splat=True, save_ckpt=True),
    ]
    whole = SplatTrainer(**parts, modules=modules).run()
    assert files(Path("results/output")) == [*names("ckpts", "ckpt", 2, 4, 6), *names("splats", "ply", 2, 4, 6)]
    assert [name for name in files(Path("results/eval/stats")) if name.endswith("json")] == [
        f"step_{step:06d}.json" for step in (2, 4, 6)
    ]

    resumed = SplatTrainer(**parts, ckpt_path="results/output/ckpts/step_000004.ckpt").run()
    assert resumed.step == 6
    assert_same_gaussians(whole.training_state, resumed.training_state)

    model = SplatModel.load_ply("results/output/splats/step_000006.ply")
    state = model.to_training_state(learning_rates={"means": 1e-4}, device="cpu")
    assert_same_gaussians(whole.training_state, state)
    assert state.optimizers["means"].param_groups[0]["lr"] == 1e-4


def test_every_way_to_set_up_an_exporter(tiny_scene: Path, tmp_path: Path) -> None:
    basic = SplatExporter(output_dir=str(tmp_path / "basic"), export_steps=[4])
    frequent = SplatExporter(
        output_dir=str(tmp_path / "frequent"), export_steps=list(range(1, 5, 1)), save_splat=True, save_ckpt=True
    )
    splats = SplatExporter(output_dir=str(tmp_path / "splats"), export_steps=[2, 4], save_splat=True, save_ckpt=False)
    ckpts = SplatExporter(output_dir=str(tmp_path / "ckpts"), export_steps=[2, 3], save_splat=False, save_ckpt=True)
    never = SplatExporter(output_dir=str(tmp_path / "never"))
    train(tiny_scene, tmp_path / "runs", 4, modules=[basic, frequent, splats, ckpts, never])
    assert files(tmp_path / "basic") == [*names("ckpts", "ckpt", 4), *names("splats", "ply", 4)]
    assert files(tmp_path / "frequent") == [*names("ckpts", "ckpt", 1, 2, 3, 4), *names("splats", "ply", 1, 2, 3, 4)]
    assert files(tmp_path / "splats") == names("splats", "ply", 2, 4)
    assert files(tmp_path / "ckpts") == names("ckpts", "ckpt", 2, 3)
    assert files(tmp_path / "never") == []


@pytest.fixture
def fused_ssim(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of this name, whose kernels need a GPU, with our SSIM in its place."""
    package = ModuleType("fused_ssim")

    def of_images(img1: Tensor, img2: Tensor, padding: str = "same", train: bool = True) -> Tensor:
        assert padding == "valid", "ours has no other"
        return ssim(img1, img2)

    package.fused_ssim = of_images  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fused_ssim", package)


class Mixed(SplatLossFn[SplatRenderPayload]):
    """L1 within the masks, SSIM of fused_ssim, and room for depth."""

    def __init__(self, lambda_l1: float = 0.8, lambda_ssim: float = 0.2, lambda_depth: float = 0.0) -> None:
        self.lambda_l1 = lambda_l1
        self.lambda_ssim = lambda_ssim
        self.lambda_depth = lambda_depth

    def compute_loss(
        self,
        rendered_frames: torch.Tensor,
        target_frames: torch.Tensor,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload,
        masks: torch.Tensor | None = None,
        step: int = 0,
        max_steps: int = 30000,
    ) -> torch.Tensor:
        from fused_ssim import fused_ssim

        l1 = torch.abs(rendered_frames - target_frames)
        if masks is None:
            l1 = l1.mean()
        else:
            l1 = l1 * masks.unsqueeze(-1)
            l1 = l1.sum() / (masks.sum() * 3 + 1e-8)
        dissimilarity = 0.0
        if self.lambda_ssim > 0:
            images = (frames.permute(0, 3, 1, 2) for frames in (rendered_frames, target_frames))
            dissimilarity = 1.0 - fused_ssim(*images, padding="valid").mean()
        depth_loss = 0.0
        if self.lambda_depth > 0 and hasattr(rend_out, "depths") and rend_out.depths is not None:
            depth_loss = rend_out.depths.mean()
        self.values = (float(l1.detach()), float(dissimilarity), masks is not None)
        return self.lambda_l1 * l1 + self.lambda_ssim * dissimilarity + self.lambda_depth * depth_loss


@pytest.mark.usefixtures("fused_ssim")
@pytest.mark.parametrize("masks", [False, True])
def test_a_loss_of_several_terms_with_and_without_masks(tmp_path: Path, masks: bool) -> None:
    class Looks(SplatBaseModule[SplatRenderPayload]):
        def on_cleanup(self, loss_fn: Mixed) -> None:
            self.values = loss_fn.values

    scene = write_tiny_scene(tmp_path / "scene", masks=masks)
    loss_fn = Mixed(lambda_l1=0.9, lambda_ssim=0.1)
    result = make_trainer(scene, tmp_path, 2, loss_fn=loss_fn, modules=[Looks()]).run()
    l1, dissimilarity, has_masks = result.modules[-1].values  # type: ignore[attr-defined]
    assert has_masks is masks
    assert 0 < l1 < 1
    assert 0 < dissimilarity < 1
    assert result.metrics["loss"] == pytest.approx(0.9 * l1 + 0.1 * dissimilarity, rel=1e-5)


class Scheduled(SplatLossFn[SplatRenderPayload]):
    """An image loss, and a regulariser that sets in over many steps; a plain tensor."""

    def compute_loss(self, rendered_frames, target_frames, training_state, rend_out, masks=None, step=0,
                     max_steps=30000):  # fmt: skip
        image = torch.abs(rendered_frames - target_frames).mean()
        weight = min(step / 10000, 1.0)
        return image + weight * self.regularization(training_state)

    def regularization(self, training_state: SplatTrainingState) -> Tensor:
        return 1e4 * training_state.opacities.mean()


def test_a_loss_whose_weight_grows_with_the_step(tiny_scene: Path, tmp_path: Path) -> None:
    class Watches(SplatBaseModule[SplatRenderPayload]):
        def on_setup(self) -> None:
            self.rests: list[float] = []

        def post_compute_loss(self, loss, rendered_frames, target_frames, training_state) -> None:
            rest = loss - (rendered_frames - target_frames).abs().mean()
            self.rests.append(float(rest.detach() / training_state.opacities.detach().mean()))

    result = train(tiny_scene, tmp_path, 3, loss_fn=Scheduled(), modules=[Watches()])
    watches = result.modules[-1]
    assert isinstance(watches, Watches)
    assert watches.rests == pytest.approx([1.0, 2.0, 3.0], rel=1e-4)
