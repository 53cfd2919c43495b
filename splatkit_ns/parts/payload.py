"""The payload: the result of one render."""

from __future__ import annotations

import dataclasses
from collections.abc import ItemsView, KeysView
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import TypeVar

from splatkit_ns.cameras import View


@dataclasses.dataclass(kw_only=True)
class SplatRenderPayload:
    """The images of one render and the values of it that densification needs.

    A renderer of your own returns a subclass with further fields; they reach the loss and every module through
    ``rend_out``. Fields can be read like attributes or like a dict's items.
    """

    key_for_gradient: ClassVar[str] = "means2d"
    """Name of the field whose gradient densification reads, that of the Gaussians' positions on the screen; gsplat's
    strategies use the same name."""

    along_axis: ClassVar[frozenset[str]] = frozenset({"depths_expected", "depths_accumulated"})
    """Names of the images whose values are lengths along the viewing axis. In panoramas and fisheye images they are
    lengths along the ray of the pixel."""
    averages: ClassVar[frozenset[str]] = frozenset({"depths_expected"})
    """Names of the images that are averages over the Gaussians of a pixel, and so do not fade out with alpha."""

    renders: Tensor
    """Colours, (C, H, W, 3), composited onto the background."""
    alphas: Tensor
    """Accumulated opacity, (C, H, W, 1) in [0, 1]."""
    width: int
    height: int
    n_cameras: int
    info: dict[str, Any]
    """The rasteriser's own dict, which gsplat's strategies take; ``radii`` there has the gsplat version's own shape."""
    means2d: Tensor
    """Projected centres in pixels, (C, N, 2), or (nnz, 2) in a packed render; after backward with ``.grad``, and
    ``.absgrad`` if asked for."""
    gaussian_ids: Tensor | None = None
    """The index of the Gaussian of each row of ``means2d`` and ``radii``, (nnz,) int64; None if each has a row.
    A packed render has one row for each camera and Gaussian that it sees, so that a Gaussian may have none, or several.
    A renderer that draws other Gaussians, made of those that are trained, says here of which each one is made."""
    depths_expected: Tensor | None = None
    """Depth along the viewing axis, averaged with the blend weights, (C, H, W, 1) in world units."""
    depths_accumulated: Tensor | None = None
    """Depth along the viewing axis, summed with the blend weights, (C, H, W, 1) in world units."""

    gradient_norms: Tensor | None = None
    """The lengths of the gradients of ``means2d``, if a strategy has kept them; see `SplatDensification.measure`."""

    skies: Tensor | None = None
    """The colours of the sky behind the Gaussians, (C, H, W, 3), without gradient; None where there is none."""

    @property
    def depths(self) -> Tensor | None:
        """The depth image that was rendered, expected before accumulated; None when there is none."""
        return self.depths_accumulated if self.depths_expected is None else self.depths_expected

    @property
    def surface_depths(self) -> Tensor | None:
        """Depth of the surface that a mesh should follow, (C, H, W, 1) in world units; None means `depths`.

        For renderers that know better than the average along the ray, such as the depth at which half of the light is
        blocked.
        """
        return None

    @property
    def radii(self) -> Tensor:
        """Radius of every Gaussian on the screen, (C, N) in pixels, 0 = not seen; on every gsplat version.

        In a packed render (nnz,), see ``gaussian_ids``.
        """
        from splatkit_ns.rasterize import radii_in_pixels

        return radii_in_pixels(self.info)

    @property
    def densification_gradient(self) -> Tensor | None:
        """The loss's gradient by each Gaussian's position on the screen, (C, N, 2) per pixel; None before backward.

        In a packed render (nnz, 2), see ``gaussian_ids``.
        """
        return self[self.key_for_gradient].grad

    def retain_gradients(self) -> None:
        """Let backward keep the gradients that densification and modules read."""
        for tensor in (self.means2d, self[self.key_for_gradient]):
            if tensor.requires_grad:
                tensor.retain_grad()

    def extra_images(self, view: View) -> dict[str, Tensor]:
        """The images that viewer and ``ns-render`` offer besides colour and depth, by name; subclasses may add some.

        Args:
            view: the cameras that were rendered.

        Returns:
            (C, H, W, 3) colours in [0, 1], or (C, H, W, 1) of any range.
        """
        return {}

    def keys(self) -> KeysView[str]:
        """Names of the fields."""
        return {field.name: None for field in dataclasses.fields(self)}.keys()

    def items(self) -> ItemsView[str, Any]:
        """Names and values of the fields."""
        return {name: self[name] for name in self.keys()}.items()

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(f"{type(self).__name__} has no {name!r}; it has: {', '.join(self.keys())}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and hasattr(self, name)


PayloadT = TypeVar("PayloadT", bound=SplatRenderPayload, default=SplatRenderPayload)
