"""`batch_size`: several images a step in one process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import GsplatStrategy
from splatkit_ns.errors import HookFailedError, ModuleError, OptionsError, SplatkitError
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.data.sampling.dealing import DealtImages
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.processes.roll_call import RollCall
from splatkit_ns.plugin.step.batch_gradients import BatchGradients
from splatkit_ns.plugin.step.finite import NotFiniteError
from splatkit_ns.plugin.step.frame import TrainingFrame
from splatkit_ns.plugin.step.parts import StepParts
from splatkit_ns.plugin.step.plain import PlainForwardBackward
from splatkit_ns.plugin.step.rank_gradients import RankGradients
from splatkit_ns.ranks import ONE_RANK
from splatkit_ns.rasterize.color_gradients import ColorGradients, current_color_gradients
from splatkit_ns.renderer import Splat3DGSRenderer
from splatkit_ns.splat import SplatTrainingState, read_checkpoint
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.faults.runs import CHEAP, At, CheapLoss, CheapRenderer, differences, make_config, run_command, send, train
from tests.ranks.bodies import in_one_process, in_ranks
from tests.tiny_scene import write_tiny_scene


def test_the_mean_of_gradients_and_losses() -> None:
    """Of a parameter which two of three images show, one that none does, and one whose gradients are summed up."""
    names = ("seen", "unseen", "kept")
    params = {name: torch.nn.Parameter(torch.zeros(2)) for name in names}
    optimizers = {name: torch.optim.SGD([param]) for name, param in params.items()}
    batch, places = BatchGradients(3, optimizers), list[int]()
    params["kept"].grad = torch.tensor([1.0, 1.0])  # of the steps before
    for factor in (1.0, 2.0):
        batch.begin()
        for image in (1.0, 2.0, 3.0):
            seen = params["seen"].sum() if image > 1 else 0.0
            loss = image * factor * (seen + params["kept"] @ torch.tensor([1.0, 2.0])) + image
            loss.backward()
            batch.add(loss)
        assert batch.finish().item() == 2.0
        assert params["seen"].grad is not None
        assert params["seen"].grad.tolist() == pytest.approx([5 / 3 * factor] * 2)
        assert params["unseen"].grad is None
        places.append(params["seen"].grad.data_ptr())
        params["seen"].grad = None
    assert params["kept"].grad.tolist() == pytest.approx([1 + 2 + 4, 1 + 4 + 8])
    assert places[0] == places[1], "as a CUDA graph of the optimizers' step needs it"


class Gradients(SplatBaseModule[Any]):
    """Compares the gradient at the optimizers' step with the mean of those of the images; notes what hooks see."""

    def __init__(self) -> None:
        self.images: list[list[int]] = []
        self.steps: list[int] = []
        self.found: list[Tensor] = []

    def pre_batch(self) -> None:
        self.images.append([])

    def pre_step(self, image_index: int) -> None:
        self.images[-1].append(image_index)

    def post_compute_loss(self, loss: Tensor, training_state: SplatTrainingState) -> None:
        self.found += torch.autograd.grad(loss, training_state.params["means"], retain_graph=True)

    def on_optimize(self, step: int, image_index: int, training_state: SplatTrainingState) -> None:
        assert training_state.params["means"].grad is not None
        assert image_index == self.images[-1][-1]
        mean = torch.stack(self.found).mean(0)
        assert mean.count_nonzero() > 0
        torch.testing.assert_close(training_state.params["means"].grad, mean, rtol=1e-3, atol=1e-7)
        self.steps.append(step)
        self.found = []


def test_a_step_of_three_images(scene: Path, tmp_path: Path) -> None:
    watch = Gradients()
    trainer = train(make_config(scene, tmp_path, **CHEAP, batch_size=3, max_num_iterations=20), watch)
    assert watch.steps == [3, 6, 9, 12, 15, 18, 21], "steps count images; the last one reaches 20"
    assert all(len(set(images)) == 3 for images in watch.images)
    first = [image for images in watch.images[:3] for image in images]
    assert len(set(first)) == 9, "no image twice in a round of eleven"
    stored = read_checkpoint(checkpoint_files.path_of(trainer.checkpoint_dir, 20))
    assert float(stored["optimizers"]["means"]["state"][0]["step"]) == 21
    assert stored["optimizers"]["means"]["param_groups"][0]["betas"] == (0.9, 0.999), "those of one image a step"


class Accumulators(SplatBaseModule[Any]):
    """Marks the node of autograd that adds to the gradient of the means; it lives as long as a graph that needs it."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def pre_step(self, training_state: SplatTrainingState) -> None:
        self.found.append("mark" in self.of_means(training_state).metadata)

    def post_compute_loss(self, training_state: SplatTrainingState) -> None:
        self.of_means(training_state).metadata["mark"] = True

    def of_means(self, training_state: SplatTrainingState) -> Any:
        means = training_state.params["means"]
        function: Any = means.expand_as(means).grad_fn
        return function.next_functions[0][0]


def test_no_graph_of_autograd_of_the_image_before_lives(scene: Path, tmp_path: Path) -> None:
    """A CUDA graph cannot be captured beside one: its node has the stream of the image before."""
    watch = Accumulators()
    train(make_config(scene, tmp_path, **CHEAP, batch_size=3, max_num_iterations=12), watch)
    assert watch.found == [False] * 12


def test_one_process_that_takes_four_images_is_two_that_take_two(scene: Path, tmp_path: Path) -> None:
    """But for the order in which four numbers are added up."""
    options: dict[str, Any] = {**CHEAP, "max_num_iterations": 12}
    two = in_ranks(make_config(scene, tmp_path / "two", **options, batch_size=2))
    one = in_one_process(make_config(scene, tmp_path / "one", **options), batch_size=4)
    assert all(torch.equal(two.parameters[0][name], value) for name, value in two.parameters[1].items())
    assert two.images[1] == one.images[0], "the last image of each step"
    assert two.numbers == one.numbers
    for name, value in one.parameters[0].items():
        torch.testing.assert_close(two.parameters[0][name], value, rtol=1e-3, atol=1e-4)


def test_images_whose_graphs_would_run_beside_each_other_are_those_that_take_turns(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs, backgrounds and dropout are those of each, though all are taken before the first is rendered."""
    begun: list[str] = []
    run, take = PlainForwardBackward.run, StepParts.take_frame
    found: list[Any] = []

    def noted_run(self: Any, frame: TrainingFrame, batch: dict[str, Any]) -> Any:
        begun.append(f"run {frame.image_name}")
        return run(self, frame, batch)

    def noted_take(self: Any, *arguments: Any) -> TrainingFrame:
        frame = take(self, *arguments)
        begun.append(f"take {frame.image_name}")
        return frame

    monkeypatch.setattr(PlainForwardBackward, "run", noted_run)
    monkeypatch.setattr(StepParts, "take_frame", noted_take)
    for beside in (False, True):
        begun.clear()
        monkeypatch.setattr(PlainForwardBackward, "runs_beside", beside)
        options: dict[str, Any] = {"renderer": Splat3DGSRenderer(dropout=0.3), "max_num_iterations": 12}
        found.append(in_one_process(make_config(scene, tmp_path / str(beside), **options), batch_size=3))
        names = [note.split()[1] for note in begun[:6]]
        kinds = [note.split()[0] for note in begun[:6]]
        assert kinds == (["take"] * 3 + ["run"] * 3 if beside else ["take", "run"] * 3)
        assert names == (names[:3] * 2 if beside else [name for name in names[::2] for _ in range(2)])
    assert found[0].images == found[1].images
    for name, value in found[0].parameters[0].items():
        assert torch.equal(found[1].parameters[0][name], value), name


@pytest.mark.parametrize("densification", ["default", "mcmc"])
def test_a_run_that_is_stopped_and_goes_on_ends_with_the_same_bits(
    scene: Path, tmp_path: Path, densification: str
) -> None:
    options: dict[str, Any] = {**CHEAP, "densification": densification, "batch_size": 2}
    train(make_config(scene, tmp_path / "whole", **options))
    with pytest.raises(SystemExit):
        run_command(make_config(scene, tmp_path / "cut", **options), [At(18, send(signal.SIGTERM))])
    load_dir = make_config(scene, tmp_path / "cut").get_checkpoint_dir()
    assert checkpoint_files.path_of(load_dir, 17).is_file()
    train(make_config(scene, tmp_path / "rest", **options, load_dir=load_dir))
    whole, rest = (
        read_checkpoint(checkpoint_files.path_of(make_config(scene, tmp_path / name).get_checkpoint_dir(), 35))
        for name in ("whole", "rest")
    )
    for key in ("pipeline", "optimizers", "schedulers", "splatkit"):
        assert differences(whole[key], rest[key], key) == []


def test_the_python_entry_and_steps_that_are_kept(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hands, next_hand = list[list[int]](), DealtImages.next_hand

    def noted(self: DealtImages) -> list[int]:
        hands.append(next_hand(self))
        return hands[-1]

    monkeypatch.setattr(DealtImages, "next_hand", noted)
    config = SplatTrainerConfig(
        max_steps=5, batch_size=2, output_dir=tmp_path, device="cpu", lpips=False, settings={"count_images": False}
    )
    data = NerfstudioDataProvider(scene)
    assert SplatTrainer(config, data, renderer=CheapRenderer(), loss_fn=CheapLoss()).run().step == 5
    assert [len(images) for images in hands] == [2] * 5


def test_what_cannot_be_is_refused(scene: Path, tmp_path: Path) -> None:
    from gsplat.strategy import MCMCStrategy

    wrong: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, r"--batch-size is 0, expected"),
        ({"batch_size": "2"}, r"--batch-size is '2', expected a number above 0"),
        ({"batch_size": 2, "on_nan": "skip"}, r"--on-nan is skip, expected stop with --batch-size 2"),
    ]
    for options, message in wrong:
        with pytest.raises(OptionsError, match=message):
            train(make_config(scene, tmp_path / "a", **options))
    few = write_tiny_scene(tmp_path / "few", num_views=2)
    with pytest.raises(SplatkitError, match=r"^--batch-size is 3, but there are 2 training images: each process needs"):
        train(make_config(few, tmp_path / "b", batch_size=3))
    config = make_config(scene, tmp_path / "c", model_densification=GsplatStrategy(MCMCStrategy()), batch_size=2)
    with pytest.raises(ModuleError, match=r"^GsplatStrategy cannot be used with several images a step"):
        train(config)


class Phases(SplatBaseModule[Any]):
    """Notes what takes time in each step."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def on_phase(self, phase: str) -> None:
        self.phases.append(phase)


def test_the_time_of_each_image_is_measured(scene: Path, tmp_path: Path) -> None:
    watch = Phases()
    train(make_config(scene, tmp_path, **CHEAP, batch_size=2, max_num_iterations=2), watch)
    image = ["data", "modules", "render", "modules", "loss", "modules", "backward"]
    first = watch.phases.index("data")
    assert watch.phases[first : first + 2 * len(image)] == 2 * image


def test_gradients_of_colours_are_kept_for_each_image() -> None:
    """The exchange then gets them in one tensor, (images, N + 1, 3)."""
    kept: ColorGradients | None = None
    gradients = RankGradients(ONE_RANK, RollCall(ONE_RANK, lambda works: None), batch_size=3)
    for step in range(2):
        with gradients.collected():
            for image in range(3):
                kept = current_color_gradients()
                assert kept is not None
                assert kept.found is None
                kept.found = torch.full((4, 3), 10.0 * step + image)
                gradients.take_image()
        assert kept is not None
        assert kept.found is not None
        assert kept.found.tolist() == [[[10.0 * step + image] * 3] * 4 for image in range(3)]


class Grows(SplatBaseModule[Any]):
    """Adds a Gaussian before each image."""

    def pre_step(self, training_state: SplatTrainingState) -> None:
        training_state.add(torch.zeros(1, 3))


def test_gaussians_stay_from_the_first_image_on(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, batch_size=2)
    with pytest.raises(HookFailedError, match=r"Grows\.pre_step failed at step 2: .* pre_step of a step's first image"):
        train(config, Grows())


class Spoils(CheapLoss):
    """Is NaN for one image of the second step."""

    def compute_loss(self, step: int, rendered_frames: Any, target_frames: Any, image_index: int) -> Any:  # type: ignore[override]
        terms = super().compute_loss(rendered_frames, target_frames)
        self.seen = [*getattr(self, "seen", []), image_index]
        return {name: term * (float("nan") if len(self.seen) == 3 else 1) for name, term in terms.items()}


def test_a_loss_that_is_nan_names_the_images_of_the_step(scene: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**CHEAP, "model_loss_fn": Spoils()}
    config = make_config(scene, tmp_path, **options, batch_size=2)
    with pytest.raises(NotFiniteError, match=r"^Not finite at step 4 on image frame_\d+\S* or image frame_\d+\S*: "):
        train(config)
