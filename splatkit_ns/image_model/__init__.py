"""Image models: the part between render and loss, which imitates a particular camera."""

from splatkit_ns.image_model.affine import AffineColor
from splatkit_ns.image_model.base import IdentityImageModel, SplatImageModel
from splatkit_ns.image_model.bilateral_grid import BilateralGrid
from splatkit_ns.image_model.choice import ImageModelChoice
from splatkit_ns.image_model.ppisp import PPISP

__all__ = ["PPISP", "AffineColor", "BilateralGrid", "IdentityImageModel", "ImageModelChoice", "SplatImageModel"]
