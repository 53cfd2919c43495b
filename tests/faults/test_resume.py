"""A run that is interrupted and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import re
import shutil
import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.errors import HookFailedError, SplatkitError
from splatkit_ns.methods import gaussian_optimizers
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.reporting.console import collected_notes
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.trainer import SplatkitTrainer
from splatkit_ns.splat import LEARNING_RATES, CheckpointError, read_checkpoint
from tests.faults.runs import (
    CHEAP,
    MAX_STEPS,
    REFINE_EVERY,
    RESET_EVERY,
    At,
    differences,
    make_config,
    make_trainer,
    send,
    train,
)

CUTS = (1, REFINE_EVERY - 2, REFINE_EVERY - 1, REFINE_EVERY, RESET_EVERY - 2, RESET_EVERY - 1, RESET_EVERY, 20, 34)
"""Steps (0-based) after which runs are cut: before, at and after a refinement and an opacity reset, and others."""

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "mcmc": {"densification": "mcmc", "optimizers": gaussian_optimizers(lr_share=0.1, decay_from=0.5)},
    "budget": {"densification": "budget"},
    "fps": {"data_train_cameras_sampling_strategy": "fps", "data_fps_reset_every": 8},
    "black": {"model_background_color": "black", "gradient_accumulation_steps": {"means": 2, "shN": 8}},
}


@pytest.fixture(scope="module")
def uninterrupted(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a variant's run that was not cut, with the checkpoint of every step."""

    @cache
    def run(variant: str) -> Path:
        output = tmp_path_factory.mktemp(variant)
        options = {"steps_per_save": 1, "save_only_latest_checkpoint": False, **VARIANTS[variant]}
        return train(make_config(scene, output, **options)).checkpoint_dir

    return run


def last(folder: Path) -> dict[str, Any]:
    return read_checkpoint(checkpoint_files.path_of(folder, MAX_STEPS - 1))


def test_the_runs_do_what_resuming_could_get_wrong(uninterrupted: Any) -> None:
    """Gaussians come and go, opacities are reset, statistics are kept."""
    folder = uninterrupted("default")
    loaded = [read_checkpoint(path) for path in checkpoint_files.checkpoint_paths(folder)[1:]]
    counts = [len(each["pipeline"]["_model.gauss_params.means"]) for each in loaded]
    assert len(set(counts)) > 3
    opacities = [float(each["pipeline"]["_model.gauss_params.opacities"].sigmoid().max()) for each in loaded]
    assert min(opacities) < 0.02 < max(opacities)
    assert loaded[-1]["splatkit"]["modules"]["SplatDefaultDensification"]["count"].any()
    assert loaded[10]["splatkit"]["sampler"] != loaded[11]["splatkit"]["sampler"]


def test_so_does_the_one_that_draws_views_and_gaussians(uninterrupted: Any) -> None:
    paths = checkpoint_files.checkpoint_paths(uninterrupted("budget"))[1:]
    loaded = [read_checkpoint(path) for path in paths]
    counts = [len(each["pipeline"]["_model.gauss_params.means"]) for each in loaded]
    assert len(set(counts)) > 2
    assert max(counts) > loaded[-1]["splatkit"]["modules"]["SplatBudgetDensification"]["number_at_start"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_run(scene: Path, tmp_path: Path, uninterrupted: Any, variant: str) -> None:
    """And saving at every step changes nothing."""
    again = train(make_config(scene, tmp_path, **VARIANTS[variant]))
    assert differences(last(uninterrupted(variant)), last(again.checkpoint_dir)) == []


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_ends_with_the_same_bits(
    scene: Path, tmp_path: Path, uninterrupted: Any, variant: str, cut: int
) -> None:
    path = checkpoint_files.path_of(uninterrupted(variant), cut)
    config = make_config(scene, tmp_path, load_checkpoint=path, **VARIANTS[variant])
    steps = At(0, lambda: None)
    resumed = train(config, steps)
    assert steps.steps == list(range(cut + 2, MAX_STEPS + 1))
    assert differences(last(uninterrupted(variant)), last(resumed.checkpoint_dir)) == []


@pytest.mark.parametrize("variant", ["default", "mcmc"])
def test_stopped_by_a_signal_and_resumed_twice(scene: Path, tmp_path: Path, uninterrupted: Any, variant: str) -> None:
    folder = None
    for number, when in enumerate((7, RESET_EVERY)):
        config = make_config(scene, tmp_path / str(number), load_dir=folder, **VARIANTS[variant])
        with pytest.raises(SystemExit):
            train(config, At(when, send(signal.SIGTERM)))
        folder = config.get_checkpoint_dir()
        assert checkpoint_files.checkpoint_paths(folder)[-1] == checkpoint_files.path_of(folder, when - 1)
    resumed = train(make_config(scene, tmp_path / "end", load_dir=folder, **VARIANTS[variant]))
    assert differences(last(uninterrupted(variant)), last(resumed.checkpoint_dir)) == []


def test_random_numbers_drawn_while_setting_up_do_not_matter(
    scene: Path, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The viewer, modules and the loading of images may draw some; a fresh process has another seed anyway."""

    class Draws(At):
        def on_setup(self) -> None:
            torch.rand(5), np.random.rand(5)  # noqa: NPY002

    config = make_config(scene, tmp_path, load_checkpoint=checkpoint_files.path_of(uninterrupted("default"), 9))
    trainer = make_trainer(config, Draws(0, lambda: None), seed=7)
    load = trainer.pipeline.datamanager._load_images

    def load_and_draw(split: Any, **options: Any) -> Any:
        if split == "train":  # evaluation images are loaded when they are first looked at, resumed or not
            torch.rand(3), np.random.rand(3)  # noqa: NPY002
        return load(split, **options)

    monkeypatch.setattr(trainer.pipeline.datamanager, "_load_images", load_and_draw)
    trainer.train()
    assert differences(last(uninterrupted("default")), last(trainer.checkpoint_dir)) == []


def test_a_finished_run_has_nothing_to_train(
    scene: Path, tmp_path: Path, uninterrupted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, config = At(0, lambda: None), make_config(scene, tmp_path, load_dir=uninterrupted("default"))
    config.max_num_iterations = 3
    config.pipeline.model.init_ply = Path("other.ply")
    with collected_notes() as notes:  # an earlier test may have seen them printed, once a process
        again = train(config, steps)
    text = " ".join(capsys.readouterr().out.split())
    assert f"The checkpoint has {MAX_STEPS} steps already, and --max-num-iterations is no larger" in text
    assert any("--pipeline.model.init-ply does not count" in note for note in notes)
    assert steps.steps == []
    assert steps.cleaned_up == 1
    assert differences(last(uninterrupted("default")), last(again.checkpoint_dir)) == []


def test_more_steps_after_a_finished_run(scene: Path, tmp_path: Path, uninterrupted: Any) -> None:
    """The learning rate goes to where the longer run's schedule stands."""
    longer = MAX_STEPS + 14
    config = make_config(scene, tmp_path, load_dir=uninterrupted("default"), max_num_iterations=longer)
    trainer = make_trainer(config)
    schedule = trainer.optimizers.schedulers["means"]
    first, final = schedule.base_lrs[0], schedule.base_lrs[0] / 100
    expected = first * (final / first) ** (MAX_STEPS / longer)
    assert trainer.optimizers.optimizers["means"].param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
    trainer.train()
    assert trainer.step == longer - 1
    assert trainer.optimizers.optimizers["means"].param_groups[0]["lr"] == pytest.approx(final, rel=1e-9)
    assert checkpoint_files.path_of(trainer.checkpoint_dir, longer - 1).is_file()


@pytest.mark.parametrize("rate", [LEARNING_RATES["quats"], 0.5])
def test_a_schedule_that_the_checkpoint_does_not_know(
    scene: Path, tmp_path: Path, uninterrupted: Any, rate: float
) -> None:
    """It goes on as if it had been there from the first step."""
    optimizers = gaussian_optimizers({"quats": rate}, lr_share=0.01, decay_from=0.0)
    trainer = make_trainer(
        make_config(scene, tmp_path, load_dir=uninterrupted("default"), load_step=19, optimizers=optimizers)
    )
    rates = rate * 0.01 ** (torch.arange(20, MAX_STEPS + 1) / MAX_STEPS)
    assert trainer.optimizers.optimizers["quats"].param_groups[0]["lr"] == pytest.approx(float(rates[0]), rel=1e-6)
    trainer.train()
    assert trainer.optimizers.optimizers["quats"].param_groups[0]["lr"] == pytest.approx(float(rates[-1]), rel=1e-6)


def test_learning_rates_that_a_resumed_run_changes_count_and_are_told(
    scene: Path, tmp_path: Path, uninterrupted: Any, messages: Any
) -> None:
    """With a schedule (means) and without one (scales); the others stay the checkpoint's."""
    folder, longer = uninterrupted("default"), 2 * MAX_STEPS

    def rates(**changed: float) -> dict[str, float]:
        optimizers = gaussian_optimizers(changed)
        options = {"load_dir": folder, "max_num_iterations": longer, "optimizers": optimizers}
        trainer = make_trainer(make_config(scene, tmp_path / str(len(changed)), **options))
        made = {name: one.param_groups[0]["lr"] for name, one in trainer.optimizers.optimizers.items()}
        trainer.train()
        state = read_checkpoint(checkpoint_files.path_of(trainer.checkpoint_dir, longer - 1))
        assert state["splatkit"]["learning_rates"] == trainer._state.configured_rates, (
            "for the run that goes on from it"
        )
        return made

    plain = rates()
    assert "learning rate" not in messages.text
    changed = rates(means=10 * LEARNING_RATES["means"], scales=0.05)
    assert changed["means"] == pytest.approx(10 * plain["means"])
    assert changed["scales"] == 0.05
    for name in ("quats", "opacities", "sh0", "shN"):
        assert changed[name] == plain[name], name
    assert "The learning rate of scales is now 0.05; the checkpoint's run had 0.005." in messages.text


def test_decay_rates_and_eps_that_a_resumed_run_changes_count_and_are_told(
    scene: Path, tmp_path: Path, uninterrupted: Any, messages: Any
) -> None:
    optimizers = gaussian_optimizers()
    optimizers["scales"]["optimizer"].beta2 = 0.99
    optimizers["quats"]["optimizer"].eps = 1e-12
    trainer = make_trainer(
        make_config(scene, tmp_path, load_dir=uninterrupted("default"), load_step=19, optimizers=optimizers)
    )
    trainer.train()
    groups = {name: one.param_groups[0] for name, one in trainer.optimizers.optimizers.items()}
    assert groups["scales"]["betas"] == (0.9, 0.99)
    assert groups["quats"]["eps"] == 1e-12
    assert groups["opacities"]["betas"] == (0.9, 0.999)
    told = [line for line in messages.text.splitlines() if "Adam's" in line]
    assert len(told) == 2, told
    assert "Adam's betas of scales are now (0.9, 0.99); the checkpoint's run had (0.9, 0.999)." in messages.text


def test_on_checkpoint_loaded_sees_the_optimizers(scene: Path, tmp_path: Path, uninterrupted: Any) -> None:
    seen: dict[str, float] = {}

    class Looks(SplatBaseModule[Any]):
        def on_checkpoint_loaded(self, training_state: Any, step: int) -> None:
            for name, optimizer in training_state.optimizers.items():
                seen[name] = float(optimizer.state[training_state.params[name]]["step"])

        def on_setup(self) -> None:
            assert seen, "it comes before"

    config = make_config(scene, tmp_path, load_dir=uninterrupted("default"), max_num_iterations=MAX_STEPS + 1)
    trainer = SplatkitTrainer(config)
    trainer.modules.append(Looks())
    trainer.setup()
    trainer.train()
    steps = dict.fromkeys(("means", "scales", "quats", "opacities", "sh0"), float(MAX_STEPS))
    assert seen == {**steps, "shN": MAX_STEPS - 6.0}, "which has no gradient while the SH degree is 0"


def test_schedules_can_begin_anew(scene: Path, tmp_path: Path, uninterrupted: Any) -> None:
    options = {"load_dir": uninterrupted("mcmc"), "load_scheduler": False, **VARIANTS["mcmc"]}
    trainer = make_trainer(make_config(scene, tmp_path, **options))
    for name, schedule in trainer.optimizers.schedulers.items():
        assert trainer.optimizers.optimizers[name].param_groups[0]["lr"] == pytest.approx(schedule.base_lrs[0]), name


def test_load_dir_and_load_step(scene: Path, tmp_path: Path, uninterrupted: Any) -> None:
    folder = uninterrupted("default")
    with CONSOLE.capture() as capture:
        trainer = make_trainer(make_config(scene, tmp_path, load_dir=folder, load_step=9))
    assert trainer._start_step == 10
    assert "Resuming after step 10 from" in " ".join(capture.get().split()), "steps are counted from 1"
    with pytest.raises(
        SplatkitError, match=r"no checkpoint of step 1000 .* those of step [\d, ]*\b9, .*: the first step is 0"
    ):
        make_trainer(make_config(scene, tmp_path, load_dir=folder, load_step=1000))
    with pytest.raises(SplatkitError, match=rf"Did you mean {re.escape(str(folder))}\?$"):
        make_trainer(make_config(scene, tmp_path, load_dir=folder.parent))


def test_a_folder_whose_name_is_too_long_holds_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_files.checkpoint_paths(tmp_path / ("x" * 300)) == []


def test_a_modules_state_that_it_cannot_take_is_told_with_module_and_line(scene: Path, tmp_path: Path) -> None:
    class Forgetful(SplatBaseModule[Any]):
        key = "best"

        def state_dict(self) -> dict[str, Any]:
            return {self.key: 1.0}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["b"]

    first = make_config(scene, tmp_path / "first", **CHEAP)
    make_trainer(first, Forgetful()).train()
    second = make_config(scene, tmp_path / "second", load_dir=first.get_checkpoint_dir(), **CHEAP)
    message = r"ckpt does not fit this run: Forgetful\.load_state_dict failed: KeyError: 'b', at .*test_resume\.py"
    with pytest.raises(CheckpointError, match=message) as caught:
        make_trainer(second, Forgetful())
    assert isinstance(caught.value.__cause__, HookFailedError)
    assert isinstance(caught.value.__cause__.__cause__, KeyError)


def test_a_damaged_newest_checkpoint_is_skipped(
    scene: Path, tmp_path: Path, uninterrupted: Any, messages: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for step in (8, 9, 10):
        shutil.copy(checkpoint_files.path_of(uninterrupted("default"), step), folder)
    newest, before = checkpoint_files.path_of(folder, 10), checkpoint_files.path_of(folder, 9)
    newest.write_bytes(newest.read_bytes()[:-100])
    content = bytearray(before.read_bytes())
    content[len(content) // 2] ^= 1
    before.write_bytes(content)
    resumed = train(make_config(scene, tmp_path, load_dir=folder))
    assert [name in messages.text for name in (newest.name, before.name)] == [True, True]
    assert "It is skipped" in messages.text
    assert differences(last(uninterrupted("default")), last(resumed.checkpoint_dir)) == []


def test_two_checkpoints_are_kept(scene: Path, tmp_path: Path) -> None:
    trainer = train(make_config(scene, tmp_path, steps_per_save=10))
    paths = checkpoint_files.checkpoint_paths(trainer.checkpoint_dir)
    assert [checkpoint_files.step_of(path) for path in paths] == [30, 35]


def test_going_back_to_an_earlier_step_in_the_same_folder(scene: Path, tmp_path: Path) -> None:
    """Later checkpoints of the abandoned course would be taken for the newest."""
    first = train(make_config(scene, tmp_path, steps_per_save=10))
    folder = first.checkpoint_dir
    config = make_config(scene, tmp_path, load_dir=folder, load_step=30)
    with pytest.raises(SystemExit):
        train(config, At(33, send(signal.SIGINT)))
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.checkpoint_paths(folder)] == [30, 32]


def test_a_checkpoint_of_splatfacto_is_told_with_the_way_to_use_its_gaussians(scene: Path, tmp_path: Path) -> None:
    names = {
        "means": (3,),
        "scales": (3,),
        "quats": (4,),
        "opacities": (1,),
        "features_dc": (3,),
        "features_rest": (15, 3),
    }
    weights = {f"_model.gauss_params.{name}": torch.zeros(5, *shape) for name, shape in names.items()}
    path = tmp_path / "step-000000009.ckpt"
    torch.save({"step": 9, "pipeline": weights, "optimizers": {}, "schedulers": {}, "scalers": {}}, path)
    with pytest.raises(
        SplatkitError, match=r"step-000000009.ckpt: This is a checkpoint of splatfacto\. .*--pipeline.model"
    ):
        make_trainer(make_config(scene, tmp_path / "out", load_checkpoint=path, **CHEAP))
