"""Training states for tests, in which every Gaussian can be told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from splatkit_ns.splat import RowChange, SplatTrainingState


def make_tensors(num: int, sh_degree: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random raw parameters; `sh0[i, 0, 0]` is i."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "means": (num, 3),
        "scales": (num, 3),
        "quats": (num, 4),
        "opacities": (num,),
        "sh0": (num, 1, 3),
        "shN": (num, (sh_degree + 1) ** 2 - 1, 3),
    }
    tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    tensors["sh0"][:, 0, 0] = torch.arange(num, dtype=torch.float32)
    return tensors


def mask_of(num: int, *indices: int) -> Tensor:
    """A mask (num,) that is True at these indices."""
    mask = torch.zeros(num, dtype=torch.bool)
    mask[list(indices)] = True
    return mask


def make_state(num: int, sh_degree: int = 1, seed: int = 0, stepped: bool = True) -> SplatTrainingState:
    """A training state; `stepped` gives its optimizers a state."""
    state = SplatTrainingState.from_tensors(make_tensors(num, sh_degree, seed))
    if stepped:
        step_optimizers(state, learning_rate=0.0)
    return state


def step_optimizers(state: SplatTrainingState, learning_rate: float | None = None) -> None:
    """One Adam step with random gradients."""
    for name, optimizer in state.optimizers.items():
        param = state.params[name]
        param.grad = torch.randn_like(param)
        group = optimizer.param_groups[0]
        usual = group["lr"]
        group["lr"] = usual if learning_rate is None else learning_rate
        optimizer.step()
        group["lr"] = usual
        optimizer.zero_grad(set_to_none=True)


def snapshot(state: SplatTrainingState) -> dict[str, Tensor]:
    """Copies of all tensors with one row a Gaussian: parameters, and optimizer state as `name/key`."""
    copies = {name: param.detach().clone() for name, param in state.params.items()}
    for name, param in state.params.items():
        for key, entry in state.optimizers[name].state.get(param, {}).items():
            if key != "step":
                copies[f"{name}/{key}"] = entry.clone()
    return copies


def assert_rows_followed(
    before: dict[str, Tensor], after: dict[str, Tensor], change: RowChange, but: tuple[str, ...] = ()
) -> None:
    """Kept rows are the same bits as before in every tensor; new rows have an optimizer state of zeros."""
    kept = change.source >= 0
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert len(value) == change.num_after, name
        if name not in but:
            assert torch.equal(value[kept], before[name][change.source[kept]]), name
        if "/" in name:
            assert not value[~kept].any(), name


class Recorder:
    """A listener that keeps its own value per Gaussian, as modules do."""

    def __init__(self, state: SplatTrainingState) -> None:
        self.changes: list[RowChange] = []
        self.ids = torch.arange(len(state))
        self._state = state
        state.subscribe(self)

    def __call__(self, change: RowChange) -> None:
        assert change.num_after == len(self._state), "listeners see the new state"
        self.changes.append(change)
        self.ids = change.apply(self.ids, fill=-1)

    @property
    def sources(self) -> list[list[int]]:
        return [change.source.tolist() for change in self.changes]
