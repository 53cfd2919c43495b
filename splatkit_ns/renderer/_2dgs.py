"""2D Gaussian Splatting (https://arxiv.org/abs/2403.17888)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.rasterize import rasterization_2dgs
from splatkit_ns.renderer._3dgs import image_fields, sh_coefficients, world_to_cams
from splatkit_ns.renderer.base import RenderMode
from splatkit_ns.renderer.dropout import DropoutRenderer
from splatkit_ns.splat import SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel


@dataclass
class Splat2DGSRenderer(DropoutRenderer[Splat2DGSPayload]):
    """Draws flat discs where viewing rays meet them, which makes surfaces with depth and normals.

    A disc is a Gaussian whose third scale is not used; in training it is kept at a constant, see
    `SplatTrainingState.make_flat`.
    """

    near_plane: float = 0.01
    """Discs nearer than this are not drawn, in world units."""
    far_plane: float = 1e10
    """Discs farther than this are not drawn, in world units."""
    radius_clip: float = 0.0
    """Discs with a radius of at most this many pixels are not drawn; 0 draws all."""
    absgrad: bool = False
    """Also sum up absolute gradients of the projected centres, for modules of your own."""
    distloss: bool = True
    """Render distortion where depth is rendered."""
    depth_mode: Literal["expected", "median"] = "expected"
    """Which depth ``normals_from_depth`` comes from: the average along the ray, which suits unbounded scenes, or where
    half of the light is gone, which is sharper and suits single objects."""

    @property
    def splat_mode(self) -> SplatRenderMode:
        return "2dgs"

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        from splatkit_ns.rasterize.cuda_rasterization import sh_kernel
        from splatkit_ns.rasterize.projection_2dgs import projection_kernel
        from splatkit_ns.rasterize.surfaces import surface_kernels

        return (sh_kernel, projection_kernel, surface_kernels)

    def on_setup(self, training_state: SplatTrainingState) -> None:
        training_state.make_flat()

    def render(
        self,
        training_state: SplatTrainingState,
        cam_to_worlds: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        sh_degree: int | None = None,
        backgrounds: Tensor | None = None,
        render_mode: RenderMode = "RGB",
    ) -> Splat2DGSPayload:
        """See `SplatRenderer.render`."""
        degree = training_state.sh_degree if sh_degree is None else min(sh_degree, training_state.sh_degree)
        params = training_state.params
        rendered = rasterization_2dgs(
            params["means"],
            params["quats"],
            training_state.scales,
            self.remaining(training_state.opacities),
            sh_coefficients(params["sh0"], params["shN"], degree),
            world_to_cams(cam_to_worlds),
            Ks,
            width,
            height,
            near_plane=self.near_plane,
            far_plane=self.far_plane,
            radius_clip=self.radius_clip,
            sh_degree=degree,
            backgrounds=backgrounds,
            render_mode=render_mode,
            absgrad=self.absgrad,
            distloss=self.distloss and "D" in render_mode,
            depth_mode=self.depth_mode,
        )
        return Splat2DGSPayload(
            **image_fields(rendered.renders, rendered.alphas, rendered.info, render_mode),
            means2d=rendered.info["means2d"],
            gradient_2dgs=rendered.info["gradient_2dgs"],
            normals=rendered.normals,
            normals_from_depth=rendered.normals_from_depth,
            render_distort=rendered.distortion if self.distloss else None,
            depths_median=rendered.median_depth,
        )
