"""The trainer that hooks see has what the document's listing shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import HookFailedError
from splatkit_ns.hooks import HOOK_REGISTRY, Hook, HookModule, LogHook
from splatkit_ns.modules import SplatEvaluator
from splatkit_ns.renderer import Splat3DGSRenderer
from tests.hooks.runs import Recorder, make_trainer, run
from tests.trainer.helpers import train


def test_what_the_listing_shows(tiny_scene: Path, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Looks(Hook):
        def before_run(self, trainer: Any) -> None:
            assert trainer.hooks[1] is self

        def before_train(self, trainer: Any) -> None:
            seen["start"] = (trainer.start_steps, trainer.optimizer_dict)

        def after_train_iter(self, trainer: Any) -> None:
            seen["interval"] = trainer.cfg.val_interval
            seen["renderer"] = trainer.renderer
            seen["rates"] = {name: one.get_last_lr()[0] for name, one in trainer.schedulers.items()}
            values = trainer.optimizer_dict
            assert values["loss"] is trainer.context.loss
            assert values["uv_points"].grad.shape == (1, len(trainer.model.point_cloud), 2)
            assert torch.equal(values["visibility"], values["radii"] > 0)
            seen["visible"] = int(values["visibility"].sum())
            data = trainer.datapipeline
            seen["sizes"] = (len(data.training_dataset), len(data.validation_dataset))
            batch = data.next_val(1)
            assert batch["image"].shape[:2] == (int(batch["camera"].height), int(batch["camera"].width))
            assert batch["image_idx"] == 1
            seen["drawn"] = data.next_train(trainer.global_step)["image"].shape

    first = run(make_trainer(tiny_scene, tmp_path / "first", Recorder(), Looks(), steps=2))
    assert seen["start"] == (1, {})
    assert seen["interval"] == 1000
    assert isinstance(seen["renderer"], Splat3DGSRenderer)
    assert set(seen["rates"]) == {"point_cloud.position"}
    assert seen["visible"] > 0
    assert seen["sizes"] == (6, 2)
    assert seen["drawn"][-1] == 3
    run(make_trainer(tiny_scene, tmp_path / "second", Recorder(), Looks(), steps=3, load_dir=first.checkpoint_dir))
    assert seen["start"] == (3, {})


@pytest.mark.parametrize("evaluator_first", [True, False])
def test_an_evaluators_evaluation_comes_after_the_end_of_the_step(
    tiny_scene: Path, tmp_path: Path, evaluator_first: bool
) -> None:
    """Wherever the hooks are among the modules; checkpoints that were asked for are written last."""
    hooks = HookModule([Recorder()])
    evaluator = SplatEvaluator(tmp_path / "eval", [1], save_images=False, save_stats=False)
    modules = [evaluator, hooks] if evaluator_first else [hooks, evaluator]
    result = train(tiny_scene, tmp_path, 2, modules=modules)
    (ran,) = (module for module in result.modules if isinstance(module, HookModule))
    assert isinstance(ran.hooks[0], Recorder)
    names = ran.hooks[0].names()
    start = names.index("after_train_iter")
    assert names[start : start + 3] == ["after_train_iter", "before_val", "before_val_iter"]
    assert names[names.index("after_val") + 1] == "before_train_iter"


def test_the_documents_log_hook_takes_the_place_of_ours(
    tiny_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HOOK_REGISTRY, "_classes", dict(HOOK_REGISTRY._classes))  # type: ignore[attr-defined]
    written: list[str] = []
    ours = LogHook

    def register() -> type[Hook]:
        @HOOK_REGISTRY.register()
        class LogHook(Hook):
            def __init__(self) -> None:
                self.ema_loss_for_log = 0.0
                self.bar_info: dict[str, str] = {}

            def after_train_iter(self, trainner: Any) -> None:
                rates = [g["lr"] for g in trainner.optimizer.param_groups if g["name"] == "point_cloud." + "position"]
                values = {"num_pt": len(trainner.model.point_cloud), "pos_lr": rates[0], **trainner.loss_dict}
                for key, value in values.items():
                    if key == "loss":
                        self.ema_loss_for_log = 0.4 * value.item() + 0.6 * self.ema_loss_for_log
                        self.bar_info.update({key: f"{self.ema_loss_for_log:.7f}"})
                    if trainner.logger and key != "optimizer_params":
                        trainner.logger.write_scalar(key, value, trainner.global_step)
                    written.append(key)

        return LogHook

    theirs = register()
    assert ", in place of splatkit_ns.hooks.log.LogHook." in messages.text
    trainer = run(make_trainer(tiny_scene, tmp_path, "LogHook", steps=1, writers=("JsonLinesWriter",)))
    (module,) = trainer.run_hooks.modules
    assert type(module.hooks[0]) is theirs
    assert not isinstance(module.hooks[0], ours)
    assert {"num_pt", "pos_lr", "loss"} <= set(written)
    assert '"num_pt"' in (trainer.base_dir / "metrics.jsonl").read_text()


def test_before_run_there_is_no_model_yet(tiny_scene: Path, tmp_path: Path) -> None:
    class Early(Hook):
        def before_run(self, trainer: Any) -> None:
            assert not hasattr(trainer, "datapipeline")
            len(trainer.model.point_cloud)

    with pytest.raises(
        HookFailedError, match=r"^Early\.before_run failed .*: data and model are loaded after before_run"
    ):
        train(tiny_scene, tmp_path, 1, modules=[HookModule([Early()])])
