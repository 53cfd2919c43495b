"""Image models: the part between render and loss, which imitates a particular camera."""

from splatkit_ns.image_model.base import IdentityImageModel, SplatImageModel

__all__ = ["IdentityImageModel", "SplatImageModel"]
