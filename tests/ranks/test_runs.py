"""Runs of two ranks: parts that change rows on rank 0, the Python entry, resuming with another number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.densification import GsplatStrategy, SplatDefaultDensification, SplatMCMCDensification
from splatkit_ns.errors import ModuleError, SplatkitError
from splatkit_ns.modules import SplatEvaluator, SplatExporter
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import read_checkpoint
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.faults.runs import CHEAP, CheapLoss, CheapRenderer, differences, make_config, train
from tests.ranks.bodies import in_ranks
from tests.ranks.parts import EachDecides, LeaderDecides, ListsByView, OnRank
from tests.tiny_scene import write_tiny_scene


@pytest.mark.parametrize("densification", [LeaderDecides(), EachDecides()], ids=["leader", "each"])
def test_what_rank_0_changes_all_have(scene: Path, tmp_path: Path, densification: Any) -> None:
    found = in_ranks(make_config(scene, tmp_path, **CHEAP, model_densification=densification))
    assert len(set(found.numbers)) > 3, "Gaussians come and go"
    first, second = found.parameters
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_python_entry_returns_what_rank_0_has(scene: Path, tmp_path: Path) -> None:
    trainer = SplatTrainer(
        SplatTrainerConfig(
            max_steps=13, num_devices=2, output_dir=tmp_path, device="cpu", lpips=False, steps_per_log=4
        ),
        NerfstudioDataProvider(scene),
        renderer=CheapRenderer(),
        loss_fn=CheapLoss(),
        modules=[
            SplatEvaluator(tmp_path / "eval", [13], save_images=False),
            SplatExporter(tmp_path / "export", [6, 14], save_splat=False),
        ],
    )
    result = trainer.run()
    assert result.step == 14, "the first step of two images that reaches 13"
    assert result.checkpoint_path.name == "step-000000013.ckpt"
    assert [path.name for path in sorted((tmp_path / "export").rglob("*.ckpt"))] == [
        "step_000006.ckpt",
        "step_000014.ckpt",
    ]
    assert (tmp_path / "eval" / "stats" / "step_000014.json").is_file()
    stored = read_checkpoint(result.checkpoint_path)
    assert torch.equal(result.training_state.means, stored["pipeline"]["_model.gauss_params.means"])
    assert result.history[-1]["step"] == 14
    assert result.metrics["loss"] > 0
    assert "eval/psnr" in result.metrics
    assert [image.name for image in result.images()] != []
    result.training_state.save_ckpt(tmp_path / "again.ckpt")
    assert read_checkpoint(tmp_path / "again.ckpt")["step"] == 13


def test_any_number_of_ranks_goes_on_from_a_checkpoint_of_any_other(scene: Path, tmp_path: Path) -> None:
    first = make_config(scene, tmp_path / "first", **CHEAP, max_num_iterations=10)
    in_ranks(first)
    stored = read_checkpoint(checkpoint_files.path_of(first.get_checkpoint_dir(), 9))
    group = stored["optimizers"]["means"]["param_groups"][0]
    assert group["betas"] == (0.9, 0.999)
    assert float(stored["optimizers"]["means"]["state"][0]["step"]) == 10
    assert stored["schedulers"]["means"]["last_epoch"] == 10
    second = make_config(
        scene, tmp_path / "second", **CHEAP, max_num_iterations=15, load_dir=first.get_checkpoint_dir()
    )
    trainer = train(second)
    assert trainer.start_step == 10
    assert trainer.optimizers.schedulers["means"].last_epoch == 15
    third = make_config(scene, tmp_path / "third", **CHEAP, load_dir=second.get_checkpoint_dir())
    found = in_ranks(third)
    assert len(found.numbers) == 11, "of the 36 - 15 images, two in each step"
    assert checkpoint_files.path_of(third.get_checkpoint_dir(), 36).is_file()


def test_a_run_of_two_ranks_that_is_cut_and_resumed_ends_with_the_same_bits(scene: Path, tmp_path: Path) -> None:
    whole = make_config(scene, tmp_path / "whole", **CHEAP)
    in_ranks(whole)
    cut = make_config(scene, tmp_path / "cut", **CHEAP)
    with pytest.raises(SystemExit):
        in_ranks(cut, [OnRank(1, 14, "terminate")])
    paths = checkpoint_files.checkpoint_paths(cut.get_checkpoint_dir())
    assert [path.name for path in paths] == ["step-000000013.ckpt"]
    rest = make_config(scene, tmp_path / "rest", **CHEAP, load_dir=cut.get_checkpoint_dir())
    in_ranks(rest)
    loaded = [read_checkpoint(checkpoint_files.path_of(each.get_checkpoint_dir(), 35)) for each in (whole, rest)]
    for key in ("pipeline", "optimizers", "schedulers"):
        assert differences(loaded[0][key], loaded[1][key], key) == []


@pytest.mark.parametrize(
    "densification",
    [
        SplatDefaultDensification(refine_start_iter=100, reset_every=0),
        SplatMCMCDensification(refine_start_iter=100, gradient_power=1.0),
    ],
    ids=["default", "mcmc"],
)
def test_what_two_ranks_have_counted_is_not_counted_twice_when_they_go_on(
    scene: Path, tmp_path: Path, densification: Any
) -> None:
    options: dict[str, Any] = {**CHEAP, "max_num_iterations": 12, "model_densification": densification}
    whole = make_config(scene, tmp_path / "whole", **options, steps_per_save=6, save_only_latest_checkpoint=False)
    in_ranks(whole)
    paths = checkpoint_files.checkpoint_paths(whole.get_checkpoint_dir())
    rest = make_config(scene, tmp_path / "rest", **options, load_checkpoint=paths[0])
    in_ranks(rest)
    files = paths[-1], checkpoint_files.path_of(rest.get_checkpoint_dir(), 11)
    counted, found = (read_checkpoint(path)["splatkit"]["modules"][densification.module_name] for path in files)
    sums = {key: value for key, value in counted.items() if isinstance(value, torch.Tensor) and bool(value.any())}
    assert sums
    for key, value in sums.items():
        assert torch.allclose(found[key], value), key


def test_images_of_a_step_are_like_work_also_in_a_run_that_goes_on(scene: Path, tmp_path: Path) -> None:
    """Their work is learnt in the first round, and known to all ranks and to those that resume."""
    options: dict[str, Any] = {**CHEAP, "model_renderer": ListsByView(), "max_num_iterations": 66}
    config = make_config(scene, tmp_path / "whole", **options)
    whole = in_ranks(config)
    steps = list(zip(*whole.images, strict=True))
    stored = read_checkpoint(checkpoint_files.path_of(config.get_checkpoint_dir(), 65))["splatkit"]["sampler"]
    work = dict(stored["train_work"])
    assert sorted(work) == list(range(11))
    assert [{image for image, _ in hand} for hand in stored["last_train_work"]] == [set(hand) for hand in steps[-2:]]
    waits = [abs(work[a] - work[b]) for a, b in steps]
    assert sum(waits[6:]) / len(waits[6:]) < sum(waits[:6]) / 6 / 2
    cut = make_config(scene, tmp_path / "cut", **options)
    with pytest.raises(SystemExit):
        in_ranks(cut, [OnRank(1, 20, "terminate")])
    rest = make_config(scene, tmp_path / "rest", **options, load_dir=cut.get_checkpoint_dir())
    assert in_ranks(rest).images == [images[10:] for images in whole.images]


def test_steps_can_be_kept(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, count_images=False, max_num_iterations=9)
    found = in_ranks(config)
    assert len(found.numbers) == 9
    stored = read_checkpoint(checkpoint_files.path_of(config.get_checkpoint_dir(), 8))
    assert stored["optimizers"]["sh0"]["param_groups"][0]["lr"] == config.optimizers["sh0"]["optimizer"].lr


def test_what_several_ranks_cannot_do_is_refused_with_one_message(scene: Path, tmp_path: Path) -> None:
    from gsplat.strategy import MCMCStrategy

    config = make_config(scene, tmp_path / "a", **CHEAP, model_densification=GsplatStrategy(MCMCStrategy()))
    with pytest.raises(ModuleError, match=r"^GsplatStrategy cannot be used with several processes"):
        in_ranks(config)
    assert not config.get_base_dir().exists()
    two_images = write_tiny_scene(tmp_path / "two", num_views=2)
    with pytest.raises(SplatkitError, match=r"num-devices is 3, but there are 2 training images"):
        in_ranks(make_config(two_images, tmp_path / "b", **CHEAP), size=3)


def test_ns_train_starts_the_ranks_from_its_own_process(scene: Path, tmp_path: Path) -> None:
    """Its launcher, which needs CUDA for several processes, is told of one."""
    from nerfstudio.scripts.train import main

    config = make_config(scene, tmp_path, **CHEAP, max_num_iterations=6, vis="none")
    config.machine.num_devices = 2
    main(config)
    folder = config.get_base_dir()
    assert "num_devices: 2" in (folder / "config.yml").read_text(), "a resumed run has as many"
    stored = read_checkpoint(checkpoint_files.path_of(config.get_checkpoint_dir(), 5))
    assert float(stored["optimizers"]["means"]["state"][0]["step"]) == 6
    names = {"config.yml", "dataparser_transforms.json", "held_out", "nerfstudio_models"}
    assert {path.name for path in folder.iterdir()} == names
