"""Flat Gaussians: which axis becomes the normal, and that nothing changes the thickness."""

from __future__ import annotations

import logging

import pytest
import torch

from splatkit_ns.densification import SplatMCMCDensification
from splatkit_ns.rotations import rotation_matrices
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.splat.discs import LOG_THICKNESS, flatten
from tests.splat.helpers import make_state, make_tensors, step_optimizers


def covariances(state: SplatTrainingState) -> torch.Tensor:
    axes = rotation_matrices(state.quats) * state.scales[:, None, :]
    return axes @ axes.transpose(1, 2)


@pytest.mark.parametrize("thinnest", [0, 1, 2])
def test_the_thinnest_axis_becomes_the_normal(thinnest: int) -> None:
    tensors = make_tensors(20)
    tensors["scales"] = tensors["scales"] * 0.3 - 1
    tensors["scales"][:, thinnest] = LOG_THICKNESS + 0.5
    state = SplatTrainingState.from_tensors(tensors)
    before = covariances(state)
    lengths = state.params["quats"].detach().norm(dim=-1)
    normals = rotation_matrices(state.quats)[:, :, thinnest].detach()
    flatten(state.params)
    torch.testing.assert_close(covariances(state), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rotation_matrices(state.quats)[:, :, 2].detach(), normals, atol=1e-5, rtol=0)
    torch.testing.assert_close(state.params["quats"].detach().norm(dim=-1), lengths)
    assert bool((state.params["scales"][:, 2] == LOG_THICKNESS).all())


def test_discs_stay_as_they_are_and_round_ones_keep_their_axes() -> None:
    tensors = make_tensors(20)
    tensors["scales"] = tensors["scales"][:, :1].repeat(1, 3)
    state = SplatTrainingState.from_tensors(tensors)
    flatten(state.params)
    assert torch.equal(state.params["quats"], tensors["quats"])
    assert torch.equal(state.params["scales"][:, :2], tensors["scales"][:, :2])
    with torch.no_grad():
        state.params["scales"][3, 0] = LOG_THICKNESS - 2  # narrower than thick: still the same disc
    once = {name: value.detach().clone() for name, value in state.params.items()}
    flatten(state.params)
    for name, value in once.items():
        assert torch.equal(state.params[name], value), name


def test_neither_gradients_nor_optimizers_change_the_thickness() -> None:
    state = make_state(6)
    state.make_flat()
    state.scales.mean().backward()
    gradients = state.params["scales"].grad
    assert gradients is not None
    assert float(gradients[:, 2].abs().max()) == 0
    assert float(gradients[:, :2].abs().min()) > 0
    assert torch.equal(state.scales[:, 2], torch.exp(torch.full((6,), LOG_THICKNESS)))


def test_row_changes_keep_the_thickness() -> None:
    state = make_state(8)
    state.make_flat()
    some = torch.tensor([True, False] * 4)
    before = state.params["scales"].detach().clone()
    state.split(some)
    assert len(state) == 12
    assert bool((state.params["scales"][:, 2] == LOG_THICKNESS).all())
    torch.testing.assert_close(state.params["scales"][4:8, :2].exp(), before[some][:, :2].exp() / 1.6)
    offsets = state.means[4:8].detach() - make_state(8).means[some].detach()
    normals = rotation_matrices(state.quats)[4:8, :, 2]
    assert float(offsets.norm(dim=-1).min()) > 1e-3
    assert float((offsets * normals).sum(-1).abs().max()) < 1e-4, "the halves lie in the disc's plane"
    state.duplicate(torch.ones(12, dtype=torch.bool))
    assert bool((state.params["scales"][:, 2] == LOG_THICKNESS).all())


def test_mcmc_leaves_the_thickness_alone_and_moves_discs_in_their_plane() -> None:
    state = make_state(30)
    with torch.no_grad():
        state.params["opacities"][:10] = -8  # dead
        state.params["scales"] -= 2
    state.make_flat()
    strategy = SplatMCMCDensification(refine_start_iter=0, refine_every=1, growth=0.2, noise_lr=0.0)
    strategy.on_setup(logging.getLogger("splatkit_ns.tests"), state)
    strategy.densify(1, state)
    assert len(state) == 36
    assert float(state.opacities.min()) > 0.004
    assert bool((state.params["scales"][:, 2] == LOG_THICKNESS).all())
    with torch.no_grad():
        state.params["opacities"].fill_(-7)
    before = state.means.detach().clone()
    state.optimizers["means"].param_groups[0]["lr"] = 1e-3
    SplatMCMCDensification(refine_start_iter=100, noise_lr=1e3).densify(1, state)
    moved = state.means.detach() - before
    normals = rotation_matrices(state.quats)[:, :, 2]
    assert float(moved.norm(dim=-1).max()) > 1e-4
    assert float((moved * normals).sum(-1).abs().max()) < 1e-6


def test_a_ply_file_and_back_gives_the_same_discs(tmp_path: object) -> None:
    from pathlib import Path

    from splatkit_ns.splat import SplatModel

    state = make_state(9)
    state.make_flat()
    step_optimizers(state, learning_rate=0.0)
    path = Path(str(tmp_path)) / "discs.ply"
    state.to_splat_model().save_ply(path)
    again = SplatModel.load_ply(path).to_training_state()
    again.make_flat()
    torch.testing.assert_close(again.scales, state.scales)
    torch.testing.assert_close(rotation_matrices(again.quats), rotation_matrices(state.quats))
