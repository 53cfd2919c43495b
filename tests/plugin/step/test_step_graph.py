"""Steps as CUDA graphs: when they can be, and that training is the same with them."""

from __future__ import annotations

import dataclasses
import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from PIL import Image

from splatkit_ns.densification import SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.image_model import PPISP, AffineColor, BilateralGrid
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn
from splatkit_ns.methods import make_method
from splatkit_ns.modules import SplatBaseModule, SplatTimer, SplatTransientMasks, transients
from splatkit_ns.plugin.run.processes.roll_call import RollCall
from splatkit_ns.plugin.run.processes.together import Together
from splatkit_ns.plugin.step import graph as step_graph
from splatkit_ns.plugin.step import graph_or_plain
from splatkit_ns.plugin.step.plain import PlainForwardBackward
from splatkit_ns.plugin.step.rank_gradients import RankGradients
from splatkit_ns.plugin.step.side_stream import SideStream
from splatkit_ns.plugin.step.training_step import TrainingStep
from splatkit_ns.plugin.step.update_graph import CapturedUpdate
from splatkit_ns.ranks import Ranks
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from tests.plugin.helpers import forget_writers, make_trainer, run_config
from tests.tiny_scene import paint_block, write_tiny_scene


@dataclass
class OwnRenderer(Splat3DGSRenderer):
    """May do anything."""


@dataclass
class OwnCapturableRenderer(Splat3DGSRenderer):
    """Says that it does nothing that a graph cannot hold."""

    capturable: ClassVar[bool] = True


@dataclass
class Watcher(SplatBaseModule[Any]):
    """Looks at a step between render and backward pass."""

    def post_compute_loss(self, step: int) -> None: ...


@dataclass
class Onlooker(SplatBaseModule[Any]):
    """Looks at a step when it is over."""

    def post_step(self, step: int) -> None: ...


def as_graphs(trainer: Any, device: str = "cuda:0") -> bool:
    """Whether a trainer's steps would run as graphs on a device."""
    found = graph_or_plain.forward_backward(
        trainer.pipeline.model, device, trainer.config.cuda_graphs, trainer.gradient_accumulation_steps
    )
    return not isinstance(found[0], PlainForwardBackward)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, True),
        ({"renderer": Splat3DGSRenderer(dropout=0.2)}, True),
        ({"renderer": OwnRenderer()}, False),
        ({"renderer": OwnCapturableRenderer()}, True),
        ({"renderer": Splat2DGSRenderer(), "loss_fn": Splat2DGSLossFn()}, False),
        ({"modules": [Watcher()]}, False),
        ({"modules": [Onlooker()]}, True),
        ({"modules": [SplatTimer()]}, False),
        ({"cuda_graphs": False}, False),
        ({"camera_optimizer": CameraOptimizerConfig(mode="SO3xR3")}, True),
        ({"camera_optimizer": CameraOptimizerConfig(mode="SE3")}, True),
        ({"renderer": Splat3DGSRenderer(sky_degree=2)}, True),
    ],
    ids=lambda value: "+".join(value) or "plain" if isinstance(value, dict) else "",
)
def test_only_steps_that_nobody_looks_into(
    parts: dict[str, Any], expected: bool, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(run_config(tiny_scene, tmp_path, method=make_method("parts", **parts)))
    forget_writers()
    assert not as_graphs(trainer, "cpu")
    monkeypatch.setattr(graph_or_plain, "GraphForwardBackward", lambda *_: "graphs")
    assert as_graphs(trainer) == expected


@pytest.mark.parametrize("ours", [True, False])
def test_graphs_of_several_images_are_captured_on_one_stream(
    ours: bool, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autograd's nodes belong to it. They run beside each other if no code of users runs in a step."""
    renderer = Splat3DGSRenderer() if ours else OwnCapturableRenderer()
    config = run_config(tiny_scene, tmp_path, method=make_method("parts", renderer=renderer))
    config.batch_size = 3
    trainer = make_trainer(config)
    forget_writers()
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(graph_or_plain, "SideStream", SideStreamOfTests)
    monkeypatch.setattr(graph_or_plain, "GraphForwardBackward", lambda *arguments: arguments[2:])
    found: Any = graph_or_plain.forward_backward(
        trainer.pipeline.model, "cuda:0", True, trainer.gradient_accumulation_steps
    )
    assert len({id(captures) for captures, _ in found}) == 1
    assert len({id(side) for _, side in found}) == (3 if ours else 1)
    assert all((side is not None) == ours for _, side in found)


class SideStreamOfTests:
    """A stream without a GPU."""

    @staticmethod
    def is_possible() -> bool:
        return True


def test_not_where_gradients_are_summed_up(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(run_config(tiny_scene, tmp_path))
    forget_writers()
    monkeypatch.setattr(graph_or_plain, "GraphForwardBackward", lambda *_: "graphs")
    trainer.gradient_accumulation_steps["shN"] = 4
    assert not as_graphs(trainer)


def trained(
    scene: Path,
    output: Path,
    graphs: bool,
    monkeypatch: pytest.MonkeyPatch,
    mask_mode: Any = "ignore",
    undistort: bool = True,
    batch_size: int = 1,
    **parts: Any,
) -> Any:
    """The Gaussians after 300 steps on the GPU, and how many of these were replays, of both graphs of a step."""
    method = make_method("graphs", sh_degree_interval=60 * batch_size, **deepcopy(parts))
    config = run_config(scene, output, steps=300 * batch_size, method=method)
    config.batch_size = batch_size
    config.machine.device_type = "cuda"
    config.cuda_graphs = graphs
    config.pipeline.datamanager.mask_mode = mask_mode
    config.pipeline.datamanager.undistort = undistort
    replays: list[int] = []
    updates: list[int] = []
    replay, update = torch.cuda.CUDAGraph.replay, CapturedUpdate.run

    def counted(self: Any) -> None:
        replays.append(1)
        replay(self)

    def counted_update(self: Any, *arguments: Any) -> Any:
        updates.append(1)
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", counted)
        patch.setattr(CapturedUpdate, "run", counted_update)
        trainer = make_trainer(config)
        torch.manual_seed(0)
        trainer.train()
    forget_writers()
    assert bool(replays) == graphs
    params = trainer.pipeline.model.gauss_params
    return {name: param.detach().cpu() for name, param in params.items()}, len(updates)


def same_in_graphs(scene: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **parts: Any) -> dict[str, torch.Tensor]:
    """The Gaussians after training without graphs, which are the same to the bit with them."""
    plain, _ = trained(scene, folder / "plain", False, monkeypatch, **parts)
    graphs, replays = trained(scene, folder / "graphs", True, monkeypatch, **parts)
    assert replays > 200
    for name, value in plain.items():
        assert torch.equal(graphs[name], value), name
    return plain


@pytest.mark.gpu
def test_masks_that_mark_what_is_empty_are_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_tiny_scene(tmp_path / "scene", masks=True)
    plain, _ = trained(scene, tmp_path / "plain", False, monkeypatch, "segment")
    graphs, replays = trained(scene, tmp_path / "graphs", True, monkeypatch, "segment")
    ignoring, _ = trained(scene, tmp_path / "ignoring", False, monkeypatch)
    assert replays > 200
    assert not torch.equal(plain["means"], ignoring["means"])
    for name, value in plain.items():
        assert torch.equal(graphs[name], value), name


@pytest.mark.gpu
@pytest.mark.parametrize(
    "densification",
    [
        SplatDefaultDensification(refine_start_iter=50, refine_every=50, grow_grad2d=1e-5),
        SplatMCMCDensification(refine_start_iter=50, refine_every=50, max_gaussians=500),
    ],
    ids=["adc", "mcmc"],
)
def test_training_is_the_same_to_the_bit(
    densification: Any, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, none = trained(tiny_scene, tmp_path / "plain", False, monkeypatch, densification=densification)
    again, _ = trained(tiny_scene, tmp_path / "again", False, monkeypatch, densification=densification)
    for name, value in plain.items():
        assert torch.equal(again[name], value), f"{name} differs between two runs without graphs"
    graphs, replays = trained(tiny_scene, tmp_path / "graphs", True, monkeypatch, densification=densification)
    assert none == 0
    assert replays > 200
    for name, value in plain.items():
        assert torch.equal(graphs[name], value), name


@pytest.mark.gpu
@pytest.mark.parametrize("densification", [SplatDefaultDensification(), SplatMCMCDensification()])
def test_several_images_a_step_are_the_same_to_the_bit(
    densification: Any, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their graphs run beside each other, each with random numbers of its own, and densification counts each image."""
    several = {"refine_start_iter": 100, "refine_every": 100, "max_gaussians": 500}
    parts: dict[str, Any] = {
        "densification": dataclasses.replace(densification, **several),
        "renderer": Splat3DGSRenderer(dropout=0.3),
        "background_color": "random",
    }
    launch, launches = SideStream.launching, list[int]()

    def counted(self: SideStream) -> Any:
        launches.append(1)
        return launch(self)

    monkeypatch.setattr(SideStream, "launching", counted)
    same_in_graphs(tiny_scene, tmp_path, monkeypatch, batch_size=2, **parts)
    assert len(launches) > 400


@pytest.mark.gpu
def test_dropout_masks_and_regularisers_in_a_graph(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "renderer": Splat3DGSRenderer(dropout=0.3, opacity_noise=0.3),
        "loss_fn": Splat3DGSLossFn(mse_lambda=4.0, opacity_reg=0.01, scale_reg=0.01),
        "background_color": "random",
    }
    # the same Gaussians are left out, and the same backgrounds drawn
    same_in_graphs(tiny_scene, tmp_path, monkeypatch, **parts)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["SO3xR3", "SE3"])
def test_corrected_poses_in_a_graph(
    mode: Any, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: dict[str, Any] = {
        "renderer": Splat3DGSRenderer(dropout=0.3),
        "camera_optimizer": CameraOptimizerConfig(mode=mode),
    }
    same_in_graphs(tiny_scene, tmp_path, monkeypatch, **parts)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "graphs"])
def test_gradients_made_of_those_of_colours_are_the_same_to_the_bit(
    graphs: bool, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ranks of GPUs make them, here with one; the second graph then holds the exchange, too."""
    densification = SplatMCMCDensification(refine_start_iter=50, refine_every=50, max_gaussians=500)
    usual, _ = trained(tiny_scene, tmp_path / "usual", graphs, monkeypatch, densification=densification)
    exchanges: list[int] = []
    make, run = RankGradients._make_coefficient_gradients, TrainingStep.run
    roll_call = RollCall(Ranks(), learn=lambda work: None)

    def counted(self: Any, *arguments: Any) -> Any:
        exchanges.append(1)
        return make(self, *arguments)

    def begun(self: Any, step: int) -> Any:
        roll_call.call(False, self.works, self.steps_alike())
        return run(self, step)

    monkeypatch.setattr(RankGradients, "_make_coefficient_gradients", counted)
    monkeypatch.setattr(Together, "gradients", lambda self, parts: RankGradients(Ranks(), roll_call))
    monkeypatch.setattr(TrainingStep, "run", begun)
    made, replays = trained(tiny_scene, tmp_path / "made", graphs, monkeypatch, densification=densification)
    assert len(exchanges) == 300 or (graphs and len(exchanges) < 100), "a graph that is replayed calls nothing"
    assert (replays > 200) == graphs
    for name, value in usual.items():
        assert torch.equal(made[name], value), name


@pytest.mark.gpu
def test_gradients_made_of_the_colours_of_several_images(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for name in ("usual", "made"):
        config = run_config(tiny_scene, tmp_path / name, steps=30, method=make_method("several", sh_degree_interval=1))
        config.machine.device_type, config.batch_size = "cuda", 3
        if name == "made":
            roll_call = RollCall(Ranks(), learn=lambda work: None)
            monkeypatch.setattr(Together, "gradients", lambda self, parts: RankGradients(Ranks(), roll_call, 3))  # noqa: B023
        trainer = make_trainer(config)
        trainer.begin_steps()
        trainer.training_step.run(0)
        forget_writers()
        params = trainer.pipeline.model.gauss_params
        found.append({key: param.grad for key, param in params.items() if param.grad is not None})
        trainer.pipeline.datamanager.close()
    assert found[0].keys() == found[1].keys() >= {"means", "sh0", "shN"}
    for key, gradient in found[0].items():
        assert gradient.count_nonzero() > 0
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def two_lenses(folder: Path, model: str, second_k1: float) -> Path:
    """A scene whose photographs take turns between two lenses of one model."""
    scene = write_tiny_scene(folder)
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    for i, each in enumerate(meta["frames"]):
        each |= {"camera_model": model, "k1": second_k1 if i % 2 else -0.03, "k2": 0.004, "k3": 0.0, "k4": 0.0}
    path.write_text(json.dumps(meta))
    return scene


@pytest.mark.gpu
@pytest.mark.parametrize("sky_degree", [None, 2], ids=["", "sky"])
@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_lenses_in_a_graph(model: str, sky_degree: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = two_lenses(tmp_path / "data", model, 0.09)
    parts = {"undistort": False, "renderer": Splat3DGSRenderer(sky_degree=sky_degree)}
    plain = same_in_graphs(data, tmp_path, monkeypatch, **parts)
    one_lens = two_lenses(tmp_path / "one", model, -0.03)
    other, _ = trained(one_lens, tmp_path / "other", True, monkeypatch, **parts)
    assert not torch.equal(other["means"], plain["means"])


def several_sizes(folder: Path) -> Path:
    """A scene whose photographs take turns between two cameras: other sizes, focal lengths and lenses."""
    scene = write_tiny_scene(folder)
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    for each in meta["frames"][1::2]:
        image = scene / each["file_path"]
        with Image.open(image) as photograph:
            width, height = photograph.width * 3 // 4, photograph.height // 2
            photograph.resize((width, height)).save(image)
        each |= {"w": width, "h": height, "fl_x": meta["fl_x"] * 0.75, "fl_y": meta["fl_y"] * 0.5}
        each |= {"cx": meta["cx"] * 0.75, "cy": meta["cy"] * 0.5}
    path.write_text(json.dumps(meta))
    return scene


@pytest.mark.gpu
def test_photographs_of_two_cameras_have_a_graph_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured: set[tuple[int, int]] = set()
    capture = step_graph.GraphForwardBackward._capture

    def noted(self: Any, kind: Any, frame: Any) -> Any:
        captured.add((frame.view.width, frame.view.height))
        return capture(self, kind, frame)

    monkeypatch.setattr(step_graph.GraphForwardBackward, "_capture", noted)
    densification = SplatDefaultDensification(refine_start_iter=50, refine_every=100, grow_grad2d=1e-5)
    parts = {"densification": densification, "renderer": Splat3DGSRenderer(dropout=0.3)}
    same_in_graphs(several_sizes(tmp_path / "data"), tmp_path, monkeypatch, **parts)
    assert len(captured) == 2


@pytest.mark.gpu
def test_a_sky_in_a_graph(tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"renderer": Splat3DGSRenderer(sky_degree=2)}
    same_in_graphs(tiny_scene, tmp_path, monkeypatch, **parts)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["z", "inverse"])
def test_depth_and_normals_of_the_data_in_a_graph(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_tiny_scene(tmp_path / "scene", depth=True, normals=True)
    loss = Splat3DGSLossFn(depth_lambda=0.1, depth_lambda_final=0.001, depth_kind=kind, normal_lambda=0.1)
    same_in_graphs(scene, tmp_path, monkeypatch, loss_fn=loss)


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", [AffineColor, BilateralGrid, PPISP])
def test_image_models_in_a_graph(
    kind: Any, batch_size: int, tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their products of matrices have scratch memory of their own in graphs that run beside each other."""
    same_in_graphs(tiny_scene, tmp_path, monkeypatch, image_model=kind(), batch_size=batch_size)


@pytest.mark.gpu
def test_masks_of_transients_in_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_tiny_scene(tmp_path / "scene", num_views=14)
    paint_block(scene / "images" / "frame_00002.png")
    monkeypatch.setattr(transients, "OUTLIER", 0.0)  # after so few steps the render is wrong everywhere
    masks = SplatTransientMasks(begin=0.2, review=(0.5,), same_depth=1.0)
    same_in_graphs(scene, tmp_path, monkeypatch, modules=[masks])


@pytest.mark.gpu
def test_lists_that_outgrow_their_space_get_more(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_graph, "MARGIN", 0.9)
    monkeypatch.setattr(step_graph, "MIN_SPACE", 1)
    captured: list[int] = []
    capture = step_graph.GraphForwardBackward._capture

    def counted(self: Any, *arguments: Any) -> Any:
        step = capture(self, *arguments)
        captured.append(step.capacity)
        return step

    monkeypatch.setattr(step_graph.GraphForwardBackward, "_capture", counted)
    params, _ = trained(tiny_scene, tmp_path, True, monkeypatch)
    assert len(captured) > 2
    assert all(bool(torch.isfinite(value).all()) for value in params.values())


@pytest.mark.gpu
def test_the_work_of_each_step_is_known_after_the_next_one(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that run again for lack of space, whose graph has blended other lists."""
    from splatkit_ns.rasterize import _compositing_triton as compositing
    from splatkit_ns.rasterize.tile_list_space import LONGEST

    monkeypatch.setattr(step_graph, "MIN_SPACE", 1)
    graphs = step_graph.GraphForwardBackward
    monkeypatch.setattr(graph_or_plain, "GraphForwardBackward", lambda model, *_: graphs(model, measures_work=True))
    blend, begin, run = compositing.blend, graphs.begin, graphs.run
    blended: list[int] = []
    expected: list[int] = []
    works: list[int] = []
    kinds: list[str] = []

    def noted(*arguments: Any) -> Any:
        found, size = blend(*arguments), arguments[7]
        if not torch.cuda.is_current_stream_capturing():
            strips = found[3][0, ..., 0].cpu().split(size)
            tiles = [int(tile.max()) for strip in strips for tile in strip.split(size, dim=1)]
            blended.append(sum(tiles) + LONGEST * max(tiles))
        return found

    def begun(self: Any, frame: Any) -> None:
        self._model.parts.use_frame(dataclasses.replace(frame, list_space=None))
        blended.clear()
        with torch.no_grad():  # or gradients would flow on this stream, which no graph can hold
            self._model.get_outputs(frame.camera)
        expected.append(sum(blended))
        self._model.parts.reseed_render()
        is_short = len(works) in (75, 150)
        monkeypatch.setattr(step_graph, "MARGIN", 0.1 if is_short else 1.5)
        if is_short:
            self._graphs.clear()
        begin(self, frame)

    def checked(self: Any, frame: Any, batch: Any) -> Any:
        outputs = run(self, frame, batch)
        works.append(self.work)
        kinds.append("again" if self.needs_graph else "graph" if self.is_replay else "plain")
        if len(works) % 7 == 0:
            assert self.last_work() == expected[-1]
        return outputs

    monkeypatch.setattr(compositing, "blend", noted)
    monkeypatch.setattr(graphs, "begin", begun)
    monkeypatch.setattr(graphs, "run", checked)
    trained(tiny_scene, tmp_path, True, monkeypatch)
    assert [step for step, kind in enumerate(kinds) if kind == "again"] == [75, 150]
    assert kinds.count("graph") > 200
    assert min(expected) > 0
    assert works == [0, *expected[:-1]]
