"""2D Gaussian Splatting (https://arxiv.org/abs/2403.17888)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from splatkit_ns.cameras import View
from splatkit_ns.formats import SplatRenderMode
from splatkit_ns.parts.payload_2dgs import Splat2DGSPayload
from splatkit_ns.ranges import NonNegative, Positive
from splatkit_ns.rasterize import Backend, gsplat_need, rasterization_2dgs
from splatkit_ns.renderer._3dgs import image_fields
from splatkit_ns.renderer.base import RenderOptions, checked_state
from splatkit_ns.renderer.sky import SkyRenderer
from splatkit_ns.splat import SplatModel, SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel


@dataclass
class Splat2DGSRenderer(SkyRenderer[Splat2DGSPayload]):
    """A renderer that draws flat discs at their intersections with viewing rays: surfaces with depth and normals.

    A disc is a Gaussian whose third scale is not used; in training it is kept at a constant, see
    `SplatTrainingState.make_flat`.
    """

    near_plane: Annotated[float, NonNegative] = 0.01
    """Discs nearer than this are not drawn, in world units."""
    far_plane: Annotated[float, Positive] = 1e10
    """Discs farther than this are not drawn, in world units."""
    radius_clip: Annotated[float, NonNegative] = 0.0
    """Discs with a radius of at most this many pixels are not drawn; 0 draws all."""
    absgrad: bool = False
    """Also sum up absolute gradients of the projected centres, for modules of your own."""
    distloss: bool = True
    """Render distortion whenever depth is rendered."""
    depth_mode: Literal["expected", "median"] = "expected"
    """Depth from which ``normals_from_depth`` is computed: the average along the ray, which suits unbounded scenes, or
    the depth at which half of the light is gone, which is sharper and suits single objects."""

    backend: Backend = "splatkit"
    """Draw with kernels of our own, or on a GPU with gsplat's, which need a compiler of CUDA code."""

    @property
    def gsplat_need(self) -> str | None:
        return gsplat_need(self.backend)

    @property
    def splat_mode(self) -> SplatRenderMode:
        return "2dgs"

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        from splatkit_ns.rasterize.cuda_rasterization import sh_kernel
        from splatkit_ns.rasterize.cuda_rasterization_2dgs import own_kernels_2dgs
        from splatkit_ns.rasterize.projection_2dgs import projection_kernel
        from splatkit_ns.rasterize.surfaces import surface_kernels

        composites = () if self.backend == "gsplat" else (own_kernels_2dgs,)
        return (sh_kernel, projection_kernel, surface_kernels, *composites)

    def on_setup(self, training_state: SplatTrainingState) -> None:
        training_state.make_flat()

    def render(
        self, training_state: SplatTrainingState | SplatModel, view: View, options: RenderOptions = RenderOptions()
    ) -> Splat2DGSPayload:
        """Render all cameras of a view; see `SplatRenderer.render`."""
        training_state = checked_state(self, training_state)
        params, degree = training_state.params, options.degree_of(training_state)
        rendered = rasterization_2dgs(
            params["means"],
            params["quats"],
            training_state.scales,
            self.remaining(training_state.opacities, options),
            params["sh0"],
            view.world_to_cams,
            view.Ks,
            view.width,
            view.height,
            near_plane=self.near_plane,
            far_plane=self.far_plane,
            radius_clip=self.radius_clip,
            sh_degree=degree,
            sh_rest=params["shN"] if degree else None,
            backgrounds=self.backgrounds_of(options),
            render_mode=options.render_mode,
            absgrad=self.absgrad,
            distloss=self.distloss and "D" in options.render_mode,
            depth_mode=self.depth_mode,
            list_space=options.list_space,
            backend=self.backend if view.device.type == "cuda" else "splatkit",
        )
        fields = image_fields(rendered.renders, rendered.alphas, rendered.info, options.render_mode)
        fields |= self.before_sky(fields["renders"], rendered.alphas, view)
        return Splat2DGSPayload(
            **fields,
            means2d=rendered.info["means2d"],
            gradient_2dgs=rendered.info["gradient_2dgs"],
            normals=rendered.normals,
            normals_from_depth=rendered.normals_from_depth,
            render_distort=rendered.distortion if self.distloss else None,
            depths_median=rendered.median_depth,
        )
