"""Memory runs out: what was in use, what helps, and what is saved."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.plugin.run.ending import out_of_memory
from splatkit_ns.plugin.run.ending.out_of_memory import OutOfMemory
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.ranks import Ranks
from splatkit_ns.splat import read_checkpoint
from tests.faults.children import Child
from tests.faults.runs import CHEAP, MAX_STEPS, CheapRenderer, make_config, make_trainer, run_command, train

KIND = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


@dataclasses.dataclass
class HungryRenderer(CheapRenderer):
    """Runs out of memory in one render."""

    renders_left: int = 9
    packed: bool = False

    def render(self, *arguments: Any, **options: Any) -> Any:
        self.renders_left -= 1
        if self.renders_left == 0:
            raise KIND("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().render(*arguments, **options)


def hungry(scene: Path, output: Path, **options: Any) -> Any:
    return make_config(scene, output, steps_per_save=5, **{**CHEAP, "model_renderer": HungryRenderer(), **options})


def test_the_message_says_what_helps_and_the_state_is_saved(scene: Path, tmp_path: Path) -> None:
    config = hungry(scene, tmp_path)
    with pytest.raises(OutOfMemory) as caught:
        train(config)
    text = str(caught.value)
    assert "Out of memory at step 9 with 50 Gaussians" in text
    assert "--pipeline.model.densification.max-gaussians 37 (now 120)" in text
    assert "--modules.resolution.max-downscale 4 (now 2)" in text
    assert "--pipeline.datamanager.cache-gib 0.5 (now at most 1)" in text
    assert "packed" not in text, "the CPU cannot"
    assert "Tried to allocate 2.00 GiB" in text
    path = checkpoint_files.path_of(config.get_checkpoint_dir(), 7)
    assert f"The last checkpoint is {path}" in text
    assert read_checkpoint(path)["step"] == 7, "eight whole steps; the ninth failed"
    resumed = make_config(scene, tmp_path / "again", load_dir=config.get_checkpoint_dir(), **CHEAP)
    assert train(resumed).step == MAX_STEPS - 1


@pytest.mark.parametrize(("packed", "named"), [(False, True), (True, False)])
def test_packing_helps_on_a_gpu(scene: Path, tmp_path: Path, packed: bool, named: bool) -> None:
    config = hungry(scene, tmp_path, model_renderer=HungryRenderer(packed=packed))
    config.machine.device_type = "cuda"
    text = out_of_memory.message(KIND("no room"), 9, 50, "on cuda:0", "There is no checkpoint yet.", config)
    assert ("--pipeline.model.renderer.packed True (now False)" in text) == named
    assert "--pipeline.datamanager.cache-images cpu (now gpu)" in text
    assert "--batch-size" not in text


def test_several_images_a_step_and_several_ranks(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image has memory of its own, and photographs of ranks are in main memory already."""
    config = hungry(scene, tmp_path)
    config.machine.device_type = "cuda"
    monkeypatch.setattr(Ranks, "current", lambda: Ranks(0, 2))
    text = out_of_memory.message(KIND("no room"), 9, 50, "on cuda:0", "There is no checkpoint yet.", config, 2)
    assert "--batch-size 1 (now 2)" in text
    assert "cache-images" not in text


def test_memory_of_graphs_is_given_back_when_the_gpu_has_done_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """They run on other streams than those on which they were captured, for which alone PyTorch waits."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, functools.partial(calls.append, name))
    out_of_memory.free(KIND("no room"))
    assert calls == ["synchronize", "empty_cache"]


class HungryModule(SplatBaseModule[Any]):
    """Runs out of memory in the middle of the changes that a step makes."""

    def on_optimize(self, step: int) -> None:
        if step == 9:
            raise KIND("CUDA out of memory.")


def test_a_state_in_the_middle_of_a_step_is_not_saved(scene: Path, tmp_path: Path) -> None:
    """Half of the parameters may have moved, or half of the rows: the last whole checkpoint is named."""
    config = make_config(scene, tmp_path, steps_per_save=5, **CHEAP)
    with pytest.raises(OutOfMemory, match=r"Out of memory at step 9.*step-000000005\.ckpt"):
        train(config, HungryModule())
    paths = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert [path.name for path in paths] == ["step-000000005.ckpt"]


def test_before_the_first_step_there_is_nothing_to_save(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="There is no checkpoint yet"):
        train(hungry(scene, tmp_path, model_renderer=HungryRenderer(renders_left=1)))


def test_the_command_ends_without_a_traceback(scene: Path, tmp_path: Path) -> None:
    child = Child(run_command, tmp_path / "log", config=hungry(scene, tmp_path))
    assert child.wait() == 1
    assert "Error: Out of memory at step 9" in child.text()
    assert "Traceback" not in child.text()


def test_other_errors_stay_what_they_are(scene: Path, tmp_path: Path) -> None:
    class Broken(SplatBaseModule[Any]):
        def post_step(self) -> None:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match=r"Broken\.post_step failed at step 1: RuntimeError: a bug"):
        train(make_config(scene, tmp_path, **CHEAP), Broken())


def test_main_memory_counts_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16)
    assert out_of_memory.find(caught.value) is caught.value
    assert out_of_memory.find(MemoryError()) is not None
    assert out_of_memory.find(RuntimeError("a bug")) is None


def test_a_failing_clean_up_does_not_hide_the_error(
    scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    class FailsTwice(SplatBaseModule[Any]):
        def post_step(self) -> None:
            raise SplatkitError("the first")

        def on_cleanup(self) -> None:
            raise RuntimeError("the second")

    trainer = make_trainer(make_config(scene, tmp_path, **CHEAP), FailsTwice())
    with pytest.raises(SplatkitError, match="the first"):
        trainer.train()
    assert "the second" in messages.text
