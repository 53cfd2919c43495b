"""Image models: what a particular camera made of the scene."""

from splatkit_ns.image_model.base import IdentityImageModel, SplatImageModel

__all__ = ["IdentityImageModel", "SplatImageModel"]
