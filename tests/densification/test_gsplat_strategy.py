"""gsplat's strategies as a densification strategy."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy, MCMCStrategy
from torch import Tensor

from splatkit_ns.densification import GsplatStrategy
from splatkit_ns.errors import ModuleError, OptionsError
from splatkit_ns.methods import make_method
from splatkit_ns.plugin.run.opaque_parts import instance
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.densification.helpers import optimize, packed, random_payload, random_state
from tests.splat.helpers import Recorder, snapshot

SETTINGS: dict[str, Any] = {"refine_start_iter": 1, "refine_every": 3, "reset_every": 7, "prune_opa": 0.1}


def ready(strategy: Any, state: SplatTrainingState, renderer: Any = None, loaded: Any = None) -> GsplatStrategy:
    """Set up as the trainer does, with row changes reaching it."""
    densification = GsplatStrategy(strategy)
    if loaded is not None:
        densification.load_state_dict(loaded)
    densification.on_setup(renderer, state, scene_scale=1.5)
    state.subscribe(densification.on_gaussians_changed)
    return densification


def run(densification: GsplatStrategy, state: SplatTrainingState, steps: range) -> None:
    for step in steps:
        optimize(state, step)
        rend_out = random_payload(len(state), step, size=1e-5)
        densification.post_compute_loss(state, step, rend_out)
        densification.densify(state, step, rend_out)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_it_does_what_the_strategy_does_by_itself() -> None:
    ours, theirs = random_state(), random_state()
    densification = ready(DefaultStrategy(**SETTINGS), ours)
    recorder = Recorder(ours)
    torch.manual_seed(1)
    run(densification, ours, range(1, 12))
    torch.manual_seed(1)
    strategy = DefaultStrategy(**SETTINGS)
    running = strategy.initialize_state(scene_scale=1.5)
    for step in range(11):  # gsplat counts from 0
        optimize(theirs, step + 1)
        info = random_payload(len(theirs), step + 1, size=1e-5).info
        strategy.step_post_backward(theirs.params, theirs.optimizers, running, step, info)
    assert len(ours) != 60
    assert same(snapshot(ours), snapshot(theirs))
    for name in ("grad2d", "count"):
        assert torch.equal(densification.state_dict()["strategy"][name], running[name])
    assert densification.state_dict()["strategy"]["scene_scale"] == 1.5
    assert len(recorder.changes) == 3, "the changes of steps 4, 7 and 10"


def test_a_run_goes_on_from_its_state_with_the_same_bits() -> None:
    whole, first = random_state(), random_state()
    torch.manual_seed(1)
    run(ready(DefaultStrategy(**SETTINGS), whole), whole, range(1, 12))
    torch.manual_seed(1)
    before = ready(DefaultStrategy(**SETTINGS), first)
    run(before, first, range(1, 6))
    after = ready(DefaultStrategy(**SETTINGS), first, loaded=deepcopy(before.state_dict()))
    first.unsubscribe(before.on_gaussians_changed)
    run(after, first, range(6, 12))
    assert same(snapshot(whole), snapshot(first))


def test_its_state_follows_changes_that_others_make() -> None:
    state = random_state()
    densification = ready(DefaultStrategy(**SETTINGS), state)
    run(densification, state, range(1, 3))
    grads = densification.state_dict()["strategy"]["grad2d"].clone()
    mask = torch.arange(60) < 20
    state.remove(mask)
    assert torch.equal(densification.state_dict()["strategy"]["grad2d"], grads[20:])
    state.duplicate(torch.arange(40) < 2)
    assert torch.equal(densification.state_dict()["strategy"]["grad2d"], torch.cat([grads[20:], torch.zeros(2)]))
    with state.track_row_changes():  # as the trainer calls it
        run(densification, state, range(3, 5))
    assert len(densification.state_dict()["strategy"]["grad2d"]) == len(state)


def test_a_table_of_the_strategys_is_no_row_of_gaussians() -> None:
    state = random_state(51)
    densification = ready(MCMCStrategy(), state)
    state.remove(torch.arange(51) < 20)
    assert densification.state_dict()["strategy"]["binoms"].shape == (51, 51)


class Notes:
    """A user's own strategy, which writes down what it gets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def initialize_state(self) -> dict[str, Any]:
        return {"count": 0}

    def step_post_backward(
        self, params: Any, optimizers: Any, state: Any, step: int, info: Any, lr: float, packed: bool = False
    ) -> None:
        state["count"] += 1
        self.calls.append((set(params) == set(optimizers), step, lr, packed, info["width"]))


def test_a_strategy_gets_the_arguments_that_it_names() -> None:
    state, notes = random_state(), Notes()
    state.optimizers["means"].param_groups[0]["lr"] = 0.25
    densification = ready(notes, state)
    rend_out = random_payload(60, 0)
    densification.post_compute_loss(state, 1, rend_out)
    densification.densify(state, 1, rend_out)
    densification.densify(state, 2, packed(rend_out))
    assert notes.calls == [(True, 0, 0.25, False, 64), (True, 1, 0.25, True, 64)]
    assert densification.state_dict() == {"strategy": {"count": 2}}


def test_the_renderer_is_asked_for_what_the_strategy_looks_at() -> None:
    renderer = Splat3DGSRenderer()
    ready(DefaultStrategy(absgrad=True), random_state(), renderer)
    assert renderer.absgrad
    strategy = DefaultStrategy()
    ready(strategy, random_state(), Splat2DGSRenderer())
    assert strategy.key_for_gradient == "gradient_2dgs"
    with pytest.raises(ModuleError, match="GsplatStrategy needs absolute gradients"):
        ready(DefaultStrategy(absgrad=True), random_state(), Splat2DGSRenderer())


class WantsMore(Notes):
    def step_post_backward(self, params: Any, images: Any) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (DefaultStrategy, "strategy is <class .* expected an object with initialize_state"),
        (object(), r"expected an object with initialize_state\(\), such as gsplat\.strategy\.DefaultStrategy\(\)"),
        (
            WantsMore(),
            "WantsMore.step_post_backward of GsplatStrategy has a parameter 'images', which is not available; "
            "available are: params, optimizers",
        ),
    ],
)
def test_what_is_no_strategy_is_refused(strategy: Any, message: str) -> None:
    with pytest.raises(ModuleError, match=message):
        ready(strategy, random_state())


def test_a_method_keeps_the_strategy_with_its_settings() -> None:
    config = make_method("own", densification=GsplatStrategy(DefaultStrategy(grow_grad2d=1e-6))).config
    assert instance(config.pipeline.model.densification).strategy.grow_grad2d == 1e-6  # type: ignore[attr-defined]
    with pytest.raises(OptionsError, match=r"GsplatStrategy.strategy.refine_every is 0.5, expected a whole number"):
        make_method("own", densification=GsplatStrategy(DefaultStrategy(refine_every=0.5)))  # type: ignore[arg-type]
