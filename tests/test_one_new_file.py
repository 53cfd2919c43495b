"""A new densification, loss, renderer, module or file format is one new file, and no edit elsewhere."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatkit_ns import formats
from splatkit_ns.methods import make_method
from splatkit_ns.splat import SplatModel
from tests.plugin.helpers import forget_writers, make_trainer, run_config

HEADER = """from dataclasses import dataclass
from typing import Any
import torch
"""

DENSIFICATION = """
from splatkit_ns.densification import SplatDensification

@dataclass
class Thinning(SplatDensification):
    every: int = 4
    def densify(self, step, training_state):
        if step % self.every == 0:
            faintest = training_state.opacities.argmin()
            mask = torch.zeros(len(training_state), dtype=torch.bool)
            mask[faintest] = True
            training_state.remove(mask)
"""

LOSS = """
from splatkit_ns.loss_fn import SplatLossFn

@dataclass
class Squares(SplatLossFn):
    weight: float = 2.0
    def compute_loss(self, rendered_frames, target_frames):
        return {"squares": self.weight * (rendered_frames - target_frames).square().mean()}
"""

RENDERER = """
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer

@dataclass
class Grey(Splat3DGSRenderer):
    def render(self, training_state, view, options=RenderOptions()):
        payload = super().render(training_state, view, options)
        payload.renders = payload.renders.mean(-1, keepdim=True).expand_as(payload.renders)
        return payload
"""

MODULE = """
from splatkit_ns.modules import SplatBaseModule

class Counter(SplatBaseModule):
    seen = 0
    def post_step(self, rendered_frames):
        type(self).seen += 1
        assert torch.equal(rendered_frames[..., 0], rendered_frames[..., 1])
"""

FORMAT = """
import numpy as np
from splatkit_ns.formats import Gaussians, SplatFormat, register

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")

def write(path, gaussians, options=None):
    with open(path, "wb") as file:
        np.savez(file, **{name: getattr(gaussians, name) for name in NAMES})

def read(path):
    with np.load(path) as stored:
        return Gaussians(**{name: stored[name] for name in stored.files})

register(SplatFormat("npzsplat", (".npzsplat",), "NumPy arrays", read=read, write=write))
"""


def load(folder: Path, name: str, text: str) -> Any:
    """The module that one new file makes."""
    (folder / f"{name}.py").write_text(HEADER + text)
    importlib.invalidate_caches()
    return importlib.import_module(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own, from which Python imports."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("one_new_"):
            del sys.modules[name]


def test_four_parts_of_one_file_each_train_together(folder: Path, tiny_scene: Path) -> None:
    method = make_method(
        "new",
        densification=load(folder, "one_new_densification", DENSIFICATION).Thinning(every=3),
        loss_fn=load(folder, "one_new_loss", LOSS).Squares(weight=1.0),
        renderer=load(folder, "one_new_renderer", RENDERER).Grey(),
        background_color="black",
    )
    counter = load(folder, "one_new_module", MODULE).Counter
    config = run_config(tiny_scene, folder / "out", steps=9, method=method)
    config.modules.own = ("one_new_module:Counter",)
    trainer = make_trainer(config)
    trainer.train()
    forget_writers()
    assert counter.seen == 9
    assert trainer.pipeline.model.num_points == 48 - 3
    assert set(trainer.pipeline.model.context.loss_terms) == {"squares"}


def test_a_file_format_is_one_file(folder: Path, tiny_scene: Path) -> None:
    load(folder, "one_new_format", FORMAT)
    try:
        config = run_config(tiny_scene, folder / "out", steps=2)
        config.modules.exporter.export_steps, config.modules.exporter.splat_format = [2], "npzsplat"
        trainer = make_trainer(config)
        trainer.train()
        forget_writers()
        path = trainer.base_dir / "export/splats/step_000002.npzsplat"
        found = SplatModel.load(path)
        np.testing.assert_array_equal(found.means.numpy(), trainer.pipeline.model.means.detach().numpy())
        again = run_config(tiny_scene, folder / "again", steps=1)
        again.pipeline.model.init_ply = path
        assert make_trainer(again).pipeline.model.num_points == len(found.means)
        forget_writers()
    finally:
        formats.registry._FORMATS.pop("npzsplat", None)
