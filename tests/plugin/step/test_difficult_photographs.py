"""Parts for difficult photographs in runs: resumed with the same bits."""

from __future__ import annotations

from pathlib import Path

from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.step.part_runs import resumed_is_the_same
from tests.tiny_scene import write_tiny_scene


def test_noise_dropout_and_depth_whose_weight_falls(tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", depth=True)
    loss = Splat3DGSLossFn(depth_kind="inverse", depth_lambda=0.1, depth_lambda_final=0.001)
    renderer = Splat3DGSRenderer(dropout=0.3, opacity_noise=0.3)
    whole = resumed_is_the_same(scene, tmp_path, loss_fn=loss, renderer=renderer)
    assert float(whole.pipeline.model.context.loss_terms["depth"].detach()) > 0
