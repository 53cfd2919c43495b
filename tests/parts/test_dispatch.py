"""The order of hooks, their arguments, and what happens when something is wrong with a module."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from splatkit_ns.errors import HookFailedError, ModuleError, OptionsError, SplatkitError
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import SplatLossFn
from splatkit_ns.modules import SplatBaseModule, SplatExporter, SplatRenderPayload
from splatkit_ns.modules.timer import SplatTimer
from splatkit_ns.parts.base import payload_type
from splatkit_ns.parts.context import StepContext
from splatkit_ns.parts.dispatch import EXTRA_ARGUMENTS, HOOKS, ModuleDispatcher
from splatkit_ns.parts.near_misses import replaced_methods
from tests.splat.helpers import make_state


def context(**values: Any) -> StepContext:
    return StepContext(logger=logging.getLogger("splatkit_ns.tests"), max_steps=10, **values)


@dataclass
class Diary(SplatBaseModule[SplatRenderPayload]):
    """Writes down every hook that it is called with."""

    name: str = "diary"
    entries: list[tuple[str, str]] = field(default_factory=list)

    def _note(hook: str) -> Any:
        def method(self: Any, **kwargs: Any) -> None:
            self.entries.append((self.name, hook))

        return method

    for _hook in HOOKS:
        locals()[_hook] = _note(_hook)


def test_every_hook_calls_all_modules_in_their_order() -> None:
    entries: list[tuple[str, str]] = []
    modules = [Diary(name, entries) for name in ("renderer", "loss", "densification", "mine")]
    dispatcher = ModuleDispatcher(modules, context())
    once = {"on_setup": dispatcher.setup, "on_cleanup": dispatcher.cleanup}
    for hook in HOOKS:
        if hook in once:
            once[hook]()
        else:
            dispatcher.run(hook, **dict.fromkeys(EXTRA_ARGUMENTS.get(hook, ())))
    assert entries == [(module.name, hook) for hook in HOOKS for module in modules]


def test_a_hook_gets_what_it_names() -> None:
    seen: dict[str, Any] = {}

    class Module(SplatBaseModule):
        def post_step(self, loss: Any, step: int, masks: Any, scene_scale: float, max_steps: int) -> None:
            seen.update(loss=loss, step=step, masks=masks, scene_scale=scene_scale, max_steps=max_steps)

    loss = torch.tensor(0.5)
    ModuleDispatcher([Module()], context(step=3, loss=loss, scene_scale=2.5)).run("post_step")
    assert seen == {"loss": loss, "step": 3, "masks": None, "scene_scale": 2.5, "max_steps": 10}


def test_a_hook_with_kwargs_gets_all_there_is() -> None:
    seen: dict[str, set[str]] = {}

    class Module(SplatBaseModule):
        def on_setup(self, **kwargs: Any) -> None:
            seen["on_setup"] = set(kwargs)

        def post_compute_loss(self, step: int, **everything: Any) -> None:
            seen["post_compute_loss"] = {"step", *everything}

    dispatcher = ModuleDispatcher([Module()], context())
    dispatcher.setup()
    dispatcher.run("post_compute_loss")
    names = {
        "logger", "renderer", "data_provider", "loss_fn", "densification", "modules", "max_steps", "training_state",
        "step", "world_rank", "world_size", "scene_scale", "num_train_images", "image_model", "images_per_step",
        "stop",
    }  # fmt: skip
    assert seen["on_setup"] == names
    of_step = {
        "target_frames", "masks", "pixel_weights", "image_index", "image_name",
        "target_depths", "target_normals", "target_alphas", "view", "cam_to_worlds", "Ks",
        "rendered_frames", "rend_out", "loss", "loss_terms",
    }  # fmt: skip
    assert seen["post_compute_loss"] == names | of_step


def test_a_hook_may_take_nothing() -> None:
    calls: list[int] = []

    class Module(SplatBaseModule):
        def pre_step(self) -> None:
            calls.append(1)

    ModuleDispatcher([Module()], context()).run("pre_step")
    assert calls == [1]


def test_an_argument_that_does_not_exist_is_an_error_that_lists_those_that_do() -> None:
    class MyModule(SplatBaseModule):
        def pre_step(self, step: int, iteration: int, images: Any) -> None: ...

    with pytest.raises(ModuleError) as caught:
        ModuleDispatcher([MyModule()], context())
    assert str(caught.value) == (
        "MyModule.pre_step takes 'iteration', 'images', which does not exist there.\n"
        "  It may take: logger, renderer, data_provider, loss_fn, densification, modules, max_steps, "
        "training_state, step, world_rank, world_size, scene_scale, stop, num_train_images, image_model, "
        "images_per_step, target_frames, masks, pixel_weights, target_depths, "
        "target_normals, target_alphas, image_index, image_name\n"
        "  Arguments are passed by name: rename the argument, leave it out, or take **kwargs."
    )


def test_a_misspelt_argument_is_told_with_the_right_one() -> None:
    class Misspelt(SplatBaseModule):
        def pre_step(self, target_frame: Any, depth: Any) -> None: ...

    with pytest.raises(ModuleError, match=r"takes 'target_frame' \(did you mean target_frames\?\), 'depth', which"):
        ModuleDispatcher([Misspelt()], context())


def test_an_argument_that_comes_later_in_the_step_does_not_exist_yet() -> None:
    class Early(SplatBaseModule):
        def pre_compute_loss(self, loss: Any) -> None: ...

    with pytest.raises(ModuleError, match=r"Early.pre_compute_loss takes 'loss', which does not exist there"):
        ModuleDispatcher([Early()], context())


def test_a_class_instead_of_an_instance_is_refused() -> None:
    with pytest.raises(ModuleError) as caught:
        ModuleDispatcher([Diary], context())  # type: ignore[list-item]
    assert str(caught.value) == (
        "an entry of modules is the class Diary itself, expected an instance of it: write Diary(…)."
    )


def test_something_that_is_no_module_is_refused() -> None:
    with pytest.raises(ModuleError, match="an entry of modules is 'exporter' of type str, expected an instance of Spl"):
        ModuleDispatcher(["exporter"], context())  # type: ignore[list-item]


class DepthPayload(SplatRenderPayload):
    pass


class PlainRenderer(SplatBaseModule[SplatRenderPayload]):
    pass


class DepthRenderer(SplatBaseModule[DepthPayload]):
    pass


class DepthLoss(SplatBaseModule[DepthPayload]):
    pass


class DerivedLoss(DepthLoss):
    pass


def test_a_module_whose_payload_the_renderer_does_not_return_is_refused() -> None:
    renderer = PlainRenderer()
    with pytest.raises(ModuleError) as caught:
        ModuleDispatcher([renderer, DerivedLoss()], context(renderer=renderer))
    assert str(caught.value) == (
        "DerivedLoss reads DepthPayload, but PlainRenderer returns SplatRenderPayload. Use a renderer that returns "
        "DepthPayload, or a module that reads SplatRenderPayload."
    )


def test_a_renderer_that_returns_more_than_a_module_reads_fits() -> None:
    renderer = DepthRenderer()
    ModuleDispatcher([renderer, DerivedLoss(), PlainRenderer()], context(renderer=renderer))
    assert payload_type(DerivedLoss()) is DepthPayload
    assert payload_type(SplatBaseModule()) is SplatRenderPayload


class Failing(SplatBaseModule):
    def __init__(self, hook: str, error: Exception) -> None:
        def fail(**kwargs: Any) -> None:
            raise error

        self._fail = fail
        self.hook = hook

    def on_cleanup(self) -> None:
        if self.hook == "on_cleanup":
            self._fail()

    def post_step(self) -> None:
        if self.hook == "post_step":
            self._fail()


def test_a_failing_hook_is_named_and_keeps_its_traceback() -> None:
    dispatcher = ModuleDispatcher([Failing("post_step", ValueError("no room"))], context(step=4))
    with pytest.raises(HookFailedError, match=r"^Failing.post_step failed at step 4: ValueError: no room$") as caught:
        dispatcher.run("post_step")
    cause = caught.value.__cause__
    assert isinstance(cause, ValueError)
    assert "raise error" in "".join(traceback.format_exception(cause))


def test_a_users_mistake_passes_through_unwrapped() -> None:
    mistake = SplatkitError("bad folder")
    with pytest.raises(SplatkitError) as caught:
        ModuleDispatcher([Failing("post_step", mistake)], context()).run("post_step")
    assert caught.value is mistake


def test_modules_after_a_failing_one_are_cleaned_up_and_the_first_failure_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entries: list[tuple[str, str]] = []
    modules = [
        Failing("on_cleanup", ValueError("first")),
        Diary("other", entries),
        Failing("on_cleanup", OSError("second")),
    ]
    dispatcher = ModuleDispatcher(modules, context(step=9))
    dispatcher.setup()
    entries.clear()
    logger = logging.getLogger("splatkit_ns.tests")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(HookFailedError, match=r"Failing.on_cleanup failed at step 9: ValueError: first"):
            dispatcher.cleanup()
    finally:
        logger.removeHandler(caplog.handler)
    assert entries == [("other", "on_cleanup")]
    assert "Failing_2.on_cleanup failed" in caplog.text


def test_clean_up_runs_once_and_only_after_set_up() -> None:
    entries: list[tuple[str, str]] = []
    dispatcher = ModuleDispatcher([Diary("diary", entries)], context())
    dispatcher.cleanup()
    assert entries == []
    dispatcher.setup()
    dispatcher.cleanup()
    dispatcher.cleanup()
    assert entries == [("diary", "on_setup"), ("diary", "on_cleanup")]


def test_what_was_set_up_before_a_failure_is_cleaned_up_and_so_is_what_failed() -> None:
    """It may have opened a file before it failed."""
    entries: list[tuple[str, str]] = []

    class Refuses(Diary):
        def on_setup(self, **kwargs: Any) -> None:
            raise OSError("disk is full")

    modules = [Diary("first", entries), Refuses("second", entries), Diary("third", entries)]
    dispatcher = ModuleDispatcher(modules, context())
    with pytest.raises(HookFailedError, match="disk is full"):
        dispatcher.setup()
    dispatcher.cleanup()
    assert [who for who, hook in entries if hook == "on_cleanup"] == ["first", "second"]


def test_a_system_exit_in_a_step_waits_until_the_step_is_complete() -> None:
    class Leaves(SplatBaseModule):
        def post_step(self) -> None:
            raise SystemExit(3)

        def on_setup(self) -> None:
            raise SystemExit(4)

    entries: list[tuple[str, str]] = []
    dispatcher = ModuleDispatcher([Leaves(), Diary("later", entries)], context())
    dispatcher.run("post_step")
    assert entries == [("later", "post_step")]
    assert dispatcher.context.stop_reason == "Leaves.post_step raised SystemExit"
    assert dispatcher.context.exit_request is not None
    assert dispatcher.context.exit_request.code == 3
    with pytest.raises(SystemExit, match="4"):
        dispatcher.setup()


def test_the_first_reason_to_stop_counts() -> None:
    class Stops(SplatBaseModule):
        def post_step(self, stop: Any, step: int) -> None:
            stop(f"reason {step}")

    dispatcher = ModuleDispatcher([Stops()], context(step=1))
    dispatcher.run("post_step")
    dispatcher.context.start_step(2)
    dispatcher.run("post_step")
    assert dispatcher.context.stop_reason == "reason 1"


def test_two_instances_of_one_class_have_names_and_states_of_their_own() -> None:
    class Counter(SplatBaseModule):
        def __init__(self, count: int) -> None:
            self.count = count

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    saved = ModuleDispatcher([Counter(1), Counter(2)], context()).state_dict()
    assert saved == {"Counter": {"count": 1}, "Counter_2": {"count": 2}}
    first, second, third = Counter(0), Counter(0), Counter(7)
    ModuleDispatcher([first, second, third], context()).load_state_dict(saved, torch.device("cpu"))
    assert [first.count, second.count, third.count] == [1, 2, 7]


def test_states_of_modules_that_are_gone_are_told() -> None:
    dispatcher = ModuleDispatcher([Diary()], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.load_state_dict({"Counter": {"count": 1}, "Diary": {"rows": 2}}, torch.device("cpu"))
    (call,) = logger.info.call_args_list
    assert call.args[0] % call.args[1:] == (
        "The checkpoint has a state of Counter, which this run does not have; it is not used."
    )


def test_restored_tensors_are_on_the_training_device() -> None:
    class Statistics(SplatBaseModule):
        state: Any = None

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state = state

    module = Statistics()
    saved = {"Statistics": {"sums": torch.zeros(3), "nested": {"pair": (torch.zeros(2), "text")}, "list": [1.0]}}
    ModuleDispatcher([module], context()).load_state_dict(saved, torch.device("meta"))
    pair = module.state["nested"]["pair"]
    assert module.state["sums"].is_meta
    assert pair[0].is_meta
    assert (pair[1], module.state["list"]) == ("text", [1.0])


def test_a_hook_that_nobody_overrides_has_no_listener() -> None:
    class OnlyPostStep(SplatBaseModule):
        def post_step(self) -> None: ...

    dispatcher = ModuleDispatcher([OnlyPostStep()], context())
    assert dispatcher.listens_to("post_step")
    assert not dispatcher.listens_to("pre_step")


def test_a_misspelt_hook_is_warned_of_once_and_other_methods_are_not() -> None:
    class Helpers(SplatBaseModule):
        def pre_batches(self) -> None: ...

    class Careless(Helpers):
        def post_stepp(self) -> None: ...
        def onSetup(self) -> None: ...
        def pre_batches(self) -> None: ...
        def setup(self) -> None: ...
        def count_gaussians(self) -> None: ...
        def _post_step(self) -> None: ...
        def post_step(self) -> None:
            self.on_every_tenth_step()

        def on_every_tenth_step(self) -> None: ...
        def on_train_start(self) -> None: ...

    class Loss(SplatLossFn):
        def compute_loss(self) -> Any: ...  # nearly pre_compute_loss, but called

    dispatcher = ModuleDispatcher([Careless(), Loss()], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    assert sorted(call.args[0] % call.args[1:] for call in logger.warning.call_args_list) == [
        "Careless.onSetup is never called. Did you mean on_setup?",
        f"Careless.on_train_start is never called, if not by your own code. A run calls: {', '.join(HOOKS)}.",
        "Careless.post_stepp is never called. Did you mean post_step?",
        "Careless.pre_batches is never called. Did you mean pre_batch?",
    ]


def test_a_method_that_is_nearly_one_of_its_base_class_is_told_unless_the_part_calls_it() -> None:
    class Camera(SplatImageModel):
        def apply(self, rendered: Any, frame: Any) -> Any:
            return self.applied(rendered)

        def applied(self, rendered: Any) -> Any: ...
        def regularisers(self, frame: Any) -> Any: ...
        def trainable(self) -> Any: ...

    dispatcher = ModuleDispatcher([Camera()], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    assert sorted(call.args[0] % call.args[1:] for call in logger.warning.call_args_list) == [
        "Camera.regularisers is never called. Did you mean regularizers?",
        "Camera.trainable is never called. Did you mean trainables?",
    ]


def test_a_method_that_takes_the_place_of_a_built_in_one_is_told() -> None:
    class Forgets(SplatExporter):
        def on_setup(self) -> None: ...
        def post_step(self) -> None: ...

    class Calls(SplatExporter):
        def on_setup(self, **others: Any) -> None: ...
        def post_step(self, **others: Any) -> None:
            super().post_step(**others)

    class Inherits(Calls):
        def on_setup(self, **others: Any) -> None:
            SplatExporter.on_setup(self, **others)

    told = [list(replaced_methods(part("out"), HOOKS, SplatBaseModule)) for part in (Forgets, Calls, Inherits)]
    by_exporter = {name: (name, "SplatExporter") for name in ("on_setup", "post_step")}
    assert told == [[*by_exporter.values()], [by_exporter["on_setup"]], []]
    dispatcher = ModuleDispatcher([Forgets("out")], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    (first, _) = (call.args[0] % call.args[1:] for call in logger.warning.call_args_list)
    assert first.startswith(
        "Forgets.on_setup takes the place of SplatExporter.on_setup, which does not run: call super"
    )


def test_parameters_that_are_made_in_set_up_are_told() -> None:
    class Late(SplatBaseModule):
        def __init__(self) -> None:
            self.early = nn.Parameter(torch.ones(1))  # told when parameters are collected

        def on_setup(self) -> None:
            self.gain = nn.Parameter(torch.ones(3))
            self.net = nn.Linear(2, 2)
            self.fixed = nn.Linear(2, 2).requires_grad_(False)

    dispatcher = ModuleDispatcher([Late(), Diary()], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    (call,) = logger.warning.call_args_list
    told = call.args[0] % call.args[1:]
    assert told.startswith("Late.on_setup has made parameters that are not trained: gain, net.weight, net.bias. Make")


def test_parameters_that_are_made_in_a_step_are_told_at_the_end() -> None:
    class Lazy(Diary):
        def post_step(self) -> None:
            self.net = nn.Linear(2, 2)
            self.fixed = nn.Linear(2, 2).requires_grad_(False)

    dispatcher = ModuleDispatcher([Lazy(), Diary()], context())
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    dispatcher.run("post_step")
    dispatcher.warn_of_late_parameters()
    (call,) = logger.warning.call_args_list
    told = call.args[0] % call.args[1:]
    assert told.startswith("Lazy has made parameters during the run, which were not trained: net.weight, net.bias. M")


def test_what_a_hook_returns_in_vain_is_told_once() -> None:
    class Halves(Diary):
        def post_compute_loss(self, loss: Any) -> Any:
            return loss / 2

    dispatcher = ModuleDispatcher([Halves(), Diary()], context(loss=torch.ones(())))
    dispatcher.context.logger = logger = Mock()
    dispatcher.run("post_compute_loss")
    dispatcher.run("post_compute_loss")
    (call,) = logger.warning.call_args_list
    told = call.args[0] % call.args[1:]
    assert told.startswith("Halves.post_compute_loss returned an object of type Tensor, which nothing uses: of all")


def test_what_others_train_may_be_kept() -> None:
    class Owns(SplatBaseModule, nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.net = nn.Linear(2, 2)

    class Keeps(Diary):
        def on_setup(self, training_state: Any, modules: Any) -> None:
            self.means, self.net = training_state.params["means"], modules[0].net

        def post_step(self, training_state: Any) -> None:
            self.scales, self.ready = training_state.params["scales"], torch.zeros(2, requires_grad=True)

    owns = Owns()
    dispatcher = ModuleDispatcher([owns, Keeps()], context(training_state=make_state(3), modules=[owns]))
    dispatcher.context.logger = logger = Mock()
    dispatcher.setup()
    dispatcher.run("post_step")
    dispatcher.warn_of_late_parameters()
    assert logger.warning.call_args_list == []


def test_rows_that_change_in_set_up_are_told_to_modules_that_have_values_of_them() -> None:
    class Adds(SplatBaseModule):
        def on_setup(self) -> None:
            dispatcher.run("on_gaussians_changed", row_change=None)

    class Counts(Diary):
        def state_dict(self) -> dict[str, Any]:
            return {"rows": 3}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.entries.append((self.name, "load"))

    class Fresh(Diary): ...

    def told(modules: list[Diary]) -> list[str]:
        return [module.name for module in modules for _, hook in module.entries if hook == "on_gaussians_changed"]

    modules: list[Any] = [Diary("before"), Adds(), Fresh("fresh"), Counts("counts")]
    dispatcher = ModuleDispatcher(modules, context())
    dispatcher.load_state_dict({"Counts": {"rows": 3}}, torch.device("cpu"))
    dispatcher.setup()
    diaries = [module for module in modules if isinstance(module, Diary)]
    assert told(diaries) == ["before", "counts"]
    dispatcher.run("on_gaussians_changed", row_change=None)
    assert told(diaries) == ["before", "before", "fresh", "counts", "counts"]


def test_a_clean_up_that_names_its_failure_is_not_named_again() -> None:
    failure = HookFailedError("Mine.after_run failed at step 4: ValueError: no")
    dispatcher = ModuleDispatcher([Failing("on_cleanup", failure)], context(step=4))
    dispatcher.setup()
    with pytest.raises(HookFailedError) as caught:
        dispatcher.cleanup()
    assert caught.value is failure


def test_a_module_that_cannot_take_its_state_is_named_with_the_line() -> None:
    class Forgetful(SplatBaseModule):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.best = state["b"]

    dispatcher = ModuleDispatcher([Forgetful()], context())
    message = r"^Forgetful\.load_state_dict failed: KeyError: 'b', at .*test_dispatch\.py, line \d+$"
    with pytest.raises(HookFailedError, match=message) as caught:
        dispatcher.load_state_dict({"Forgetful": {"best": 1.0}}, torch.device("cpu"))
    assert isinstance(caught.value.__cause__, KeyError)


def test_settings_out_of_range_are_told_before_any_module_is_set_up() -> None:
    diary = Diary()
    dispatcher = ModuleDispatcher([diary, SplatTimer(-1), SplatTimer(-2)], context())
    with pytest.raises(OptionsError) as caught:
        dispatcher.setup()
    assert caught.value.problems == [
        "SplatTimer.every is -1, expected a number of at least 0",
        "SplatTimer_2.every is -2, expected a number of at least 0",
    ]
    assert diary.entries == []
