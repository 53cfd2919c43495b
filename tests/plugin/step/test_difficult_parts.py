"""Parts against difficult photographs that train nothing of their own: resumed with the same bits, same in `ns-eval`.

Image models, the sky and the camera optimizer have such tests beside those of what they train.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.modules import SplatTransientMasks, transients
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.plugin.step.part_runs import config_of, opened_is_the_same, resumed_is_the_same, train
from tests.tiny_scene import paint_block, write_tiny_scene

INVERSE = {"depth_kind": "inverse", "depth_lambda": 0.1, "depth_lambda_final": 0.001}
PARTS: dict[str, dict[str, Any]] = {
    "transients": {
        # first masks before the cut after 7 of 16 steps, and a review after it
        "modules": [SplatTransientMasks(begin=0.3, review=(0.6,), same_depth=1.0)]
    },
    "relative depth": {"loss_fn": Splat3DGSLossFn(**INVERSE)},  # type: ignore[arg-type]
    "normals": {"loss_fn": Splat3DGSLossFn(normal_lambda=0.1)},
    "opacity noise": {"renderer": Splat3DGSRenderer(opacity_noise=0.3)},
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a red block that stands in one photograph only."""
    folder = write_tiny_scene(tmp_path_factory.mktemp("priors"), num_views=14, depth=True, normals=True)
    paint_block(folder / "images" / "frame_00002.png")
    return folder


@pytest.fixture(scope="module")
def plain_means(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(config_of(scene, tmp_path_factory.mktemp("plain"))).pipeline.model.gauss_params["means"].detach()


@pytest.mark.parametrize("name", PARTS)
def test_a_run_is_resumed_and_opened(
    name: str, scene: Path, plain_means: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transients, "OUTLIER", 0.0)  # after so few steps the render is wrong everywhere
    whole = resumed_is_the_same(scene, tmp_path, **copy.deepcopy(PARTS[name]))
    assert not torch.equal(whole.pipeline.model.gauss_params["means"].detach(), plain_means)
    opened_is_the_same(whole)
