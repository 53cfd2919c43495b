"""A trained model. `training_state` has its code, because the two are made of each other."""

from splatkit_ns.splat.training_state import SplatModel

__all__ = ["SplatModel"]
