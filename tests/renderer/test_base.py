"""What all renderers have in common: lenses that they refuse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from splatkit_ns.cameras import LensModel, View
from splatkit_ns.errors import ModuleError
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.renderer import RenderOptions, Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatTrainingState
from tests.renderer.test_3dgs import cameras, state, view_of

FISHEYE = replace(view_of(cameras()), lens="opencv_fisheye")


@dataclass
class Reached(SplatRenderer):
    """Says that it is called."""

    lenses: ClassVar[tuple[LensModel, ...]] = ("pinhole", "opencv_fisheye")

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        raise LookupError(view.lens)


@dataclass
class Narrower(Reached):
    """Has inherited its `render`."""

    lenses: ClassVar[tuple[LensModel, ...]] = ("equirectangular", "opencv")


def test_a_renderer_names_the_lenses_that_it_draws() -> None:
    for view in (FISHEYE, view_of(cameras())):
        with pytest.raises(LookupError, match=view.lens):
            Reached().render(state(), view)
        with pytest.raises(ModuleError, match=rf"model equirectangular or opencv, found {view.lens}"):
            Narrower().render(state(), view)


@pytest.mark.parametrize("renderer", [Splat3DGSRenderer(), Splat2DGSRenderer(), Splat3DGSRenderer("antialiased")])
def test_a_model_is_rendered_like_its_training_state(renderer: SplatRenderer) -> None:
    gaussians, view = state(), view_of(cameras(2))
    options = RenderOptions(sh_degree=1, render_mode="RGB+ED")
    expected = renderer.render(gaussians, view, options)
    found = renderer.render(gaussians.to_splat_model(), view, options)  # type: ignore[arg-type]
    assert torch.equal(found.renders, expected.renders)
    assert torch.equal(found.depths, expected.depths)
    assert bool((found.alphas > 0.5).any())


@pytest.mark.parametrize("renderer", [Splat3DGSRenderer(), Splat2DGSRenderer()])
def test_gaussians_with_other_values_are_drawn_with_gradients_and_anything_else_is_refused(
    renderer: SplatRenderer,
) -> None:
    gaussians, view = state(), view_of(cameras())
    shift = torch.zeros(3, requires_grad=True)
    moved = SplatTrainingState({**gaussians.params, "means": gaussians.means + shift}, {})  # type: ignore[dict-item]
    renderer.render(moved, view).renders.square().sum().backward()
    assert shift.grad is not None
    means = gaussians.params["means"].grad
    assert means is not None
    assert torch.allclose(shift.grad, means.sum(0), rtol=1e-4, atol=1e-5)
    assert bool(shift.grad.abs().max() > 0)
    with pytest.raises(ModuleError, match=r"DGSRenderer\.render got a dict, expected a SplatTrainingState or a Splat"):
        renderer.render(dict(gaussians.params), view)  # type: ignore[arg-type]


class SeesItsGaussians(SplatRenderer):
    """A renderer of one's own that keeps what it is given."""

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        self.seen = training_state
        return Splat3DGSRenderer().render(training_state, view, options)


def test_a_renderer_of_ones_own_gets_a_training_state_that_shares_the_models_memory() -> None:
    model, renderer = state().to_splat_model(), SeesItsGaussians()
    renderer.render(model, view_of(cameras()))  # type: ignore[arg-type]
    assert isinstance(renderer.seen, SplatTrainingState)
    for name, value in model.tensors().items():
        assert renderer.seen.params[name].data_ptr() == value.data_ptr(), name
    assert not any(param.requires_grad for param in renderer.seen.params.values())
