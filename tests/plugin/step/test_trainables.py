"""Parts that own what they train: optimised, saved, restored, resumed, refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from splatkit_ns.densification import SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.errors import HookFailedError, ModuleError, OptionsError, SplatkitError
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.parts.trainables import RowTrainable, Trainable
from splatkit_ns.plugin.loading import load_run
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState, read_checkpoint
from tests.plugin.helpers import forget_writers, make_trainer
from tests.plugin.step.part_runs import STEPS, config_of, differing, resumed_is_the_same, train
from tests.splat.helpers import make_tensors


@dataclass
class Exposure(SplatImageModel):
    """A gain for each photograph and channel."""

    capturable: ClassVar[bool] = True
    lr: float = 0.01

    def trainables(self, num_train_images: int) -> dict[str, Trainable]:
        self.log_gain = nn.Parameter(torch.zeros(num_train_images, 3))
        return {"log_gain": Trainable(self.log_gain, lr=self.lr, lr_final=self.lr / 10)}

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return rendered if frame.image_index is None else rendered * self.log_gain[frame.image_index].exp()


@dataclass
class Features(SplatBaseModule[Any]):
    """Eight features a Gaussian, drawn towards its position so that they are trained."""

    weight: float = 0.1

    def trainables(self) -> dict[str, RowTrainable]:
        return {"features": RowTrainable(shape=(8,), lr=0.01, initial=lambda state: state.means.repeat(1, 3)[:, :8])}


class FeatureLoss(Splat3DGSLossFn):
    """3DGS's, and a term of the features."""

    def compute_loss(self, training_state: Any, **others: Any) -> dict[str, Tensor]:
        terms = super().compute_loss(training_state=training_state, **others)
        features = training_state.params["features"]
        return {
            **terms,
            "features": 0.1 * (features - training_state.means.detach().repeat(1, 3)[:, :8] - 1).square().mean(),
        }


class Tone(nn.Module, SplatImageModel):
    """A small network on the colours, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(1))
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(3))
            self.net.bias.zero_()

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        self.seen += 1
        return self.net(rendered)


class ToneOtherWay(SplatImageModel, nn.Module):
    """The same with its bases the other way round."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.net = nn.Linear(3, 3)

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return self.net(rendered)


def test_an_exposure_is_trained_saved_resumed_and_opened(tiny_scene: Path, tmp_path: Path) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, image_model=Exposure())
    model = whole.pipeline.model
    gains = model.image_model.log_gain
    assert gains is model.part_params.groups()["Exposure.log_gain"][0]
    assert float(gains.abs().sum()) > 0
    seen = gains.abs().sum(1) > 0
    assert int(seen.sum()) > 3
    rate = whole.optimizers.optimizers["Exposure.log_gain"].param_groups[0]["lr"]
    assert rate == pytest.approx(0.001)
    stored = read_checkpoint(checkpoint_files.path_of(whole.checkpoint_dir, STEPS - 1))
    assert torch.equal(stored["pipeline"]["_model.part_params.Exposure.log_gain"], gains)


def test_what_a_run_learnt_is_there_when_it_is_opened(tiny_scene: Path, tmp_path: Path) -> None:
    config = config_of(tiny_scene, tmp_path, image_model=Exposure(), modules=[Features()], loss_fn=FeatureLoss())
    config.save_config()
    trainer = train(config)
    run = load_run(trainer.base_dir / "config.yml", device="cpu", trust=["tests"])
    opened, trained = run.pipeline.model, trainer.pipeline.model
    assert torch.equal(opened.image_model.log_gain, trained.image_model.log_gain)
    assert torch.equal(opened.gauss_params["features"], trained.gauss_params["features"])
    state = SplatTrainingState.from_ckpt(run.checkpoint)
    assert torch.equal(state.params["features"], trained.gauss_params["features"])
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    ours = trainer.pipeline.eval().model.get_outputs_for_camera(camera)["rgb"]
    assert torch.equal(opened.get_outputs_for_camera(camera)["rgb"], ours)


@pytest.mark.parametrize("densification", ["adc", "mcmc"])
def test_a_feature_for_each_gaussian_follows_the_rows(densification: str, tiny_scene: Path, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"modules": [Features()], "loss_fn": FeatureLoss()}
    if densification == "mcmc":
        parts["densification"] = SplatMCMCDensification(
            refine_start_iter=2, refine_every=5, max_gaussians=80, min_opacity=0.09, growth=0.2
        )
    whole = resumed_is_the_same(tiny_scene, tmp_path, **parts)
    params = whole.pipeline.model.gauss_params
    assert len(params["features"]) == len(params["means"]) > 48
    assert params["features"] is whole.optimizers.optimizers["features"].param_groups[0]["params"][0]
    # each began as its Gaussian's position, and the term draws all of them the same way
    moved = params["features"][:, :3] - params["means"]
    assert float(moved.mean()) > 0.05


def test_a_run_starts_with_the_rows_of_a_file(tiny_scene: Path, tmp_path: Path) -> None:
    """Those that a part declares, in another number of Gaussians than the stand-in has."""
    rows = torch.randn(5, 8)
    path = tmp_path / "start.ply"
    tensors: dict[str, Any] = make_tensors(5, 3)
    SplatModel(**tensors, extra={"features": rows, "unknown": rows[:, 0]}).save_ply(path)
    config = config_of(tiny_scene, tmp_path, modules=[Features()], loss_fn=FeatureLoss())
    config.pipeline.model.init_ply = path
    trainer = make_trainer(config)
    params = trainer.pipeline.model.gauss_params
    assert torch.equal(params["features"], rows)
    assert "unknown" not in params
    assert params["features"] is trainer.optimizers.optimizers["features"].param_groups[0]["params"][0]
    SplatModel(**tensors).save_ply(path)
    params = make_trainer(config).pipeline.model.gauss_params
    assert torch.equal(params["features"], params["means"].repeat(1, 3)[:, :8]), "as the part says"


@dataclass
class AddsPoints(SplatBaseModule[Any]):
    """Appends three Gaussians in the first step, and two with labels of their own in the next."""

    def trainables(self) -> dict[str, RowTrainable]:
        return {
            "labels": RowTrainable(shape=(2,), lr=0.01, initial=0.5),
            "places": RowTrainable(shape=(3,), lr=0.01, initial=lambda state: 2 * state.means),
        }

    def post_step(self, step: int, training_state: SplatTrainingState) -> None:
        if step == 1:
            training_state.add(torch.ones(3, 3))
            assert torch.equal(training_state.params["labels"][-3:], torch.full((3, 2), 0.5))
        elif step == 2:
            training_state.add(torch.ones(2, 3), labels=torch.ones(2, 2))
            assert torch.equal(training_state.params["labels"][-2:], torch.ones(2, 2))
            assert torch.equal(training_state.params["places"][-2:], torch.full((2, 3), 2.0))


def test_rows_of_added_gaussians_start_as_the_part_says(tiny_scene: Path, tmp_path: Path) -> None:
    none = SplatDefaultDensification(refine_start_iter=1000)
    trainer = train(config_of(tiny_scene, tmp_path, modules=[AddsPoints()], densification=none))
    assert len(trainer.pipeline.model.gauss_params["labels"]) == 48 + 5


def test_an_nn_module_is_taken_as_it_is(tiny_scene: Path, tmp_path: Path) -> None:
    whole = resumed_is_the_same(tiny_scene, tmp_path, image_model=Tone())
    model = whole.pipeline.model
    assert set(model.part_params.groups()) == {"Tone.net/weight", "Tone.net/bias"}
    assert not torch.equal(model.image_model.net.weight, torch.eye(3))
    assert float(model.image_model.seen) == STEPS
    opened = train(config_of(tiny_scene, tmp_path / "other", image_model=ToneOtherWay()))
    assert set(opened.pipeline.model.part_params.groups()) == {"ToneOtherWay.net/weight", "ToneOtherWay.net/bias"}


class Forgetful(SplatImageModel):
    """Holds parameters, but declares one alone."""

    def __init__(self) -> None:
        self.gain = nn.Parameter(torch.ones(3))
        self.offset = nn.Parameter(torch.zeros(3))
        self.net = nn.Linear(3, 3)
        self.fixed = nn.Linear(3, 3).requires_grad_(False)

    def trainables(self) -> dict[str, Trainable]:
        return {"gain": Trainable(self.gain, lr=0.01)}

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return self.fixed(self.net(rendered * self.gain + self.offset))


def test_parameters_that_a_part_does_not_declare_are_told(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    make_trainer(config_of(tiny_scene, tmp_path, image_model=Forgetful()))
    forget_writers()
    assert "Forgetful.trainables does not return them: offset, net.weight, net.bias. Return" in messages.text
    messages.clear()
    make_trainer(config_of(tiny_scene, tmp_path / "other", image_model=Tone(), modules=[Features()]))
    forget_writers()
    assert "not trained" not in messages.text


class HiddenAway(nn.Module, SplatImageModel):
    """Holds parameters where PyTorch does not find them, and a plain tensor that wants a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = [nn.Linear(3, 3, bias=False)]
        self.gains = {"red": nn.Parameter(torch.ones(1))}
        self.offset = torch.zeros(3, requires_grad=True)
        self.images = [torch.zeros(3)]

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:  # type: ignore[override]
        return self.nets[0](rendered * self.gains["red"] + self.offset)


def test_parameters_in_lists_and_dicts_and_tensors_that_want_gradients_are_told(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    make_trainer(config_of(tiny_scene, tmp_path, image_model=HiddenAway()))
    forget_writers()
    assert "HiddenAway.trainables does not return them: nets.0.weight, gains.red, offset. Return" in messages.text


class OneForEachGaussian(SplatBaseModule[Any]):
    """Would make a single row: when it is asked, a placeholder is all there is."""

    def trainables(self, training_state: Any) -> dict[str, Trainable]:
        raise AssertionError("it is not called")


def test_parameters_cannot_be_made_of_gaussians_that_are_not_there_yet(tiny_scene: Path, tmp_path: Path) -> None:
    expected = r"^OneForEachGaussian\.trainables takes 'training_state', which does not exist there\."
    with pytest.raises(ModuleError, match=expected):
        make_trainer(config_of(tiny_scene, tmp_path, modules=[OneForEachGaussian()]))
    forget_writers()


class Detached(Forgetful):
    """Uses the values of a parameter in a way that no gradient comes back from."""

    def trainables(self) -> dict[str, Trainable | RowTrainable]:
        declared = {"gain": self.gain, "offset": self.offset, "weight": self.net.weight, "bias": self.net.bias}
        rows = RowTrainable(shape=(2,), lr=0.01)
        return {name: Trainable(parameter, lr=0.01) for name, parameter in declared.items()} | {"labels": rows}

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return rendered * self.gain + self.offset.detach() + 0 * self.net(rendered)


def test_parameters_that_no_gradient_reaches_are_told(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    train(config_of(tiny_scene, tmp_path, image_model=Detached(), modules=[Features()], loss_fn=FeatureLoss()))
    (told,) = [record.getMessage() for record in messages.records if "No gradient" in record.getMessage()]
    assert told.startswith("No gradient has reached Detached.offset, labels in this run:")


class DrawsCopies(Splat3DGSRenderer):
    """Draws new parameters with the values of the Gaussians, which no optimizer has."""

    def render(self, training_state: Any, view: Any, options: Any = RenderOptions()) -> Any:
        return super().render(SplatTrainingState.from_tensors(training_state.params), view, options)


def test_gaussians_that_no_gradient_reaches_are_told_at_the_first_step(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    train(config_of(tiny_scene, tmp_path, renderer=DrawsCopies()))
    (told,) = [record.getMessage() for record in messages.records if "No gradient" in record.getMessage()]
    assert told.startswith("No gradient has reached the Gaussians at step 1: they stay as they are, if that goes on.")


class MadeLate(SplatImageModel):
    """Makes its parameter when it first needs it."""

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        if not hasattr(self, "gain"):
            self.gain = nn.Parameter(torch.ones(3))
        return rendered * self.gain


def test_a_parameter_that_is_made_in_a_step_is_told(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    train(config_of(tiny_scene, tmp_path, image_model=MadeLate()))
    assert "MadeLate has made parameters during the run, which were not trained: gain. Make" in messages.text


@dataclass
class Replaces(SplatBaseModule[Any]):
    """Puts another parameter into the Gaussians."""

    name: str

    def post_step(self, step: int, training_state: Any) -> None:
        if step == 3:
            training_state.params[self.name] = nn.Parameter(training_state.params["means"].detach() + 1)


@pytest.mark.parametrize("name", ["means", "means_of_my_own"])
def test_another_parameter_in_the_place_of_that_which_is_trained_is_refused(
    name: str, tiny_scene: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModuleError, match=rf"^At step 3 .* no optimizer trains into training_state.params: {name}\. "):
        train(config_of(tiny_scene, tmp_path, modules=[Replaces(name)]))
    forget_writers()


class OtherOptimizer(SplatBaseModule[Any]):
    """Replaces an optimizer."""

    def on_setup(self, training_state: Any) -> None:
        training_state.optimizers["sh0"] = torch.optim.SGD([training_state.params["sh0"]], lr=0.1)


def test_an_optimizer_that_a_part_replaces_is_refused(tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=r"^At step 1 .* does not use into training_state.optimizers: sh0\. "):
        train(config_of(tiny_scene, tmp_path, modules=[OtherOptimizer()]))
    forget_writers()


class Named(Forgetful):
    """Has a name of its own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def module_name(self) -> str:
        return self.name


@pytest.mark.parametrize("name", ["gain_0.5", "", "rows"])
def test_a_name_that_cannot_be_that_of_parameters_is_refused(name: str, tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ModuleError, match=rf"^'{name}' cannot be the module_name of a part with parameters"):
        make_trainer(config_of(tiny_scene, tmp_path, image_model=Named(name)))
    forget_writers()


def test_gradients_of_parts_are_accumulated_and_resumed(tiny_scene: Path, tmp_path: Path) -> None:
    def accumulating(output: Path) -> Any:
        config = config_of(tiny_scene, output, image_model=Exposure())
        config.gradient_accumulation_steps = {"Exposure.log_gain": 4, "means": 2}
        return config

    config = accumulating(tmp_path / "whole")
    config.steps_per_save, config.save_only_latest_checkpoint = 6, False
    whole = train(config)
    resumed = train(accumulating(tmp_path / "resumed"), load=checkpoint_files.path_of(whole.checkpoint_dir, 6))
    last = checkpoint_files.path_of(whole.checkpoint_dir, STEPS - 1)
    assert differing(last, checkpoint_files.path_of(resumed.checkpoint_dir, STEPS - 1)) == []


def test_options_of_a_part_s_groups_reach_its_optimizers(tiny_scene: Path, tmp_path: Path) -> None:
    def run(**options: Any) -> Any:
        config = config_of(tiny_scene, tmp_path, image_model=Exposure(), modules=[Features()], loss_fn=FeatureLoss())
        for name, value in options.items():
            setattr(config, name, value)
        return config

    changes = {
        "learning_rates": {"Exposure.log_gain": 0.05, "features": 0.02},
        "final_learning_rates": {"features": 0.002},
        "warmup_steps": {"Exposure.log_gain": 4},
        "max_norms": {"features": 1e-6},
    }
    trainer = make_trainer(run(**changes))
    gain, features = (trainer.optimizers.optimizers[name] for name in ("Exposure.log_gain", "features"))
    assert (gain.param_groups[0]["initial_lr"], features.param_groups[0]["initial_lr"]) == (0.05, 0.02)
    assert gain.param_groups[0]["lr"] == 0, "it warms up"
    start = trainer.pipeline.model.image_model.log_gain.detach().clone()
    trainer.train()
    forget_writers()
    assert gain.param_groups[0]["lr"] == pytest.approx(0.005), "it falls to a tenth, as the part says"
    assert features.param_groups[0]["lr"] == pytest.approx(0.002)
    assert not torch.equal(trainer.pipeline.model.image_model.log_gain, start)
    assert float(features.state[trainer.pipeline.model.gauss_params["features"]]["exp_avg"].norm()) < 1e-6


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        (
            "learning_rates",
            "Exposure.log_gian",
            "--learning-rates names the group 'Exposure.log_gian', which does not .*; did you mean Exposure.log_gain",
        ),
        (
            "gradient_accumulation_steps",
            "mean",
            "--gradient-accumulation-steps names the group 'mean'.*did you mean means",
        ),
        ("max_norms", "zzz", "--max-norms names the group 'zzz'.*there are: means, .*camera_opt"),
    ],
)
def test_a_group_that_does_not_exist_is_refused(
    option: str, name: str, message: str, tiny_scene: Path, tmp_path: Path
) -> None:
    """What a part owns is known only once there is data; the folder of the refused run goes."""
    config = config_of(tiny_scene, tmp_path, image_model=Exposure())
    setattr(config, option, {name: 2})
    config.save_config()
    with pytest.raises(OptionsError, match=message):
        make_trainer(config)
    forget_writers()
    assert not config.get_base_dir().exists()


def test_optimizers_for_a_part_that_is_not_there_are_told_of(
    tiny_scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    config = config_of(tiny_scene, tmp_path)
    config.optimizers["Exposure.log_gain"] = config.optimizers["camera_opt"]
    make_trainer(config)
    assert "The method has optimizers for Exposure.log_gain, which no part of this run owns." in messages.text


def test_a_checkpoint_is_not_resumed_without_the_part_that_it_trained(tiny_scene: Path, tmp_path: Path) -> None:
    exposed = train(config_of(tiny_scene, tmp_path / "a", image_model=Exposure()))
    path = checkpoint_files.path_of(exposed.checkpoint_dir, STEPS - 1)
    with pytest.raises(SplatkitError, match=r"that no part of this run has: Exposure.log_gain\. Resume with"):
        train(config_of(tiny_scene, tmp_path / "b"), load=path)
    featured = train(config_of(tiny_scene, tmp_path / "c", modules=[Features()], loss_fn=FeatureLoss()))
    path = checkpoint_files.path_of(featured.checkpoint_dir, STEPS - 1)
    with pytest.raises(SplatkitError, match="that no part of this run has: features"):
        train(config_of(tiny_scene, tmp_path / "d"), load=path)


def test_a_part_that_is_new_since_the_checkpoint_starts_as_it_says(tiny_scene: Path, tmp_path: Path) -> None:
    plain_config = config_of(tiny_scene, tmp_path / "a")
    plain_config.steps_per_save, plain_config.save_only_latest_checkpoint = 6, False
    plain = train(plain_config)
    cut = checkpoint_files.path_of(plain.checkpoint_dir, 6)
    parts = {"image_model": Exposure(), "modules": [Features()], "loss_fn": FeatureLoss()}
    later = train(config_of(tiny_scene, tmp_path / "b", **parts), load=cut)
    assert float(later.pipeline.model.image_model.log_gain.detach().abs().sum()) > 0
    assert len(later.pipeline.model.gauss_params["features"]) == len(later.pipeline.model.gauss_params["means"])


class Half(Exposure):
    """Also applies to held-out images, as half of the render."""

    applies_in_evaluation: ClassVar[bool] = True

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return rendered / 2 if frame.image_index is None else super().apply(rendered, frame)


@pytest.mark.parametrize("model", [Exposure, Half])
def test_the_report_says_what_photographs_are_compared_with(model: Any, tiny_scene: Path, tmp_path: Path) -> None:
    pipeline = train(config_of(tiny_scene, tmp_path, image_model=model())).pipeline.eval()
    camera, batch = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    outputs = pipeline.model.get_outputs_for_camera(camera)
    _, images = pipeline.model.get_image_metrics_and_images(outputs, batch)
    compared = images["img"][:, images["img"].shape[1] // 2 :]
    told = pipeline.model.context.data_provider.evaluation_protocol()["compared_with"]
    if model is Half:
        torch.testing.assert_close(compared, outputs["rgb"] / 2)
        assert "what Half makes of the render" in told
    else:
        assert torch.equal(compared, outputs["rgb"])
        assert "without an image model" in told


class AlwaysByNumber(Exposure):
    """Also applies to held-out images, and takes them for photographs with a number."""

    applies_in_evaluation: ClassVar[bool] = True

    def apply(self, rendered: Tensor, frame: Any) -> Tensor:
        return rendered * self.log_gain.index_select(0, frame.image_index).exp()


def test_an_image_model_that_wants_a_number_of_held_out_images_is_told_that_there_is_none(
    tiny_scene: Path, tmp_path: Path
) -> None:
    pipeline = train(config_of(tiny_scene, tmp_path, image_model=AlwaysByNumber())).pipeline.eval()
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    with pytest.raises(HookFailedError, match=r"AlwaysByNumber\.apply failed .* frame\.image_index is None"):
        pipeline.model.get_outputs_for_camera(camera)


SHARED = nn.Parameter(torch.ones(1))
INTEGERS = nn.Parameter(torch.ones(1, dtype=torch.int64), requires_grad=False)


class Declares(SplatBaseModule[Any]):
    def __init__(self, declared: Any) -> None:
        self.declared = declared

    def trainables(self) -> Any:
        return self.declared() if callable(self.declared) else self.declared


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([1], r"Declares.trainables returned \[1\], expected a dict"),
        ({"a.b": Trainable(nn.Parameter(torch.ones(1)), lr=1)}, "'a.b' is no name for a parameter"),
        ({"a": torch.ones(3)}, r"'a' is of type Tensor, expected Trainable"),
        ({"a": Trainable(torch.ones(3), lr=1)}, "'a' holds Tensor, expected a torch.nn.Parameter"),  # type: ignore[arg-type]
        ({"a": Trainable(INTEGERS, lr=1)}, "'a' is a parameter of torch.int64, which has no gradients"),
        ({"a": RowTrainable(shape=(2,), lr=0)}, "of 'a', lr is 0, expected a number above 0"),
        ({"a": RowTrainable(lr="1")}, "of 'a', lr is '1', expected a number above 0"),  # type: ignore[arg-type]
        (
            {"a": RowTrainable(lr=1, lr_final=0, warmup_steps=-1, max_norm=0)},
            "of 'a', lr_final is 0, expected .*; warmup_steps is -1, expected .*; max_norm is 0, expected a number",
        ),
        ({"a": Trainable(SHARED, lr=1), "b": Trainable(SHARED, lr=1)}, "'a' and 'b' hold the same parameter"),
        ({"a": RowTrainable(shape=3, lr=1)}, r"the shape of 'a' is 3, expected that of a row, such as \(3,\)"),  # type: ignore[arg-type]
        (
            {"a": RowTrainable(shape=(3,), lr=1, initial=torch.zeros(5, 3))},  # type: ignore[arg-type]
            "initial of 'a' is of type Tensor, expected a number, or a function that returns the rows",
        ),
        ({"means": RowTrainable(shape=(3,), lr=1)}, "there is a parameter 'means' of the Gaussians already"),
        (lambda: {}["gone"], "Declares.trainables failed at step 0: KeyError: 'gone'"),
        (
            {"a": RowTrainable(shape=(2,), lr=1, initial=lambda _: torch.zeros(3, 3))},
            r"Declares.trainables: the rows 'a' failed at step 0: .* initial returned rows of shape \(3, 3\) for",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_message(declared: Any, message: str, tiny_scene: Path, tmp_path: Path) -> None:
    with pytest.raises((ModuleError, HookFailedError), match=message):
        make_trainer(config_of(tiny_scene, tmp_path, modules=[Declares(declared)]))
    forget_writers()


@pytest.mark.gpu
def test_an_exposure_runs_as_one_graph_with_the_same_bits(tiny_scene: Path, tmp_path: Path) -> None:
    found: list[dict[str, Tensor]] = []
    for graphs in (True, False):
        config = config_of(
            tiny_scene, tmp_path / str(graphs), image_model=Exposure(), renderer=Splat3DGSRenderer(dropout=0.1)
        )
        config.max_num_iterations, config.machine.device_type, config.cuda_graphs = 120, "cuda", graphs
        trainer = train(config)
        model = trainer.pipeline.model
        assert trainer.training_step._forward_backward[0].__class__.__name__.startswith("Graph" if graphs else "Plain")
        found.append(
            {
                **{n: p.detach().cpu() for n, p in model.gauss_params.items()},
                "gain": model.image_model.log_gain.detach().cpu(),
            }
        )
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name
