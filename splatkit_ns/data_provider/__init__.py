"""Data providers: the data sets that a `SplatTrainer` trains on, and the images of them that modules see."""

from splatkit_ns.data_provider.photographs import Photograph
from splatkit_ns.data_provider.providers import (
    BlenderDataProvider,
    ColmapDataProvider,
    DataProvider,
    NerfstudioDataProvider,
    SplatDataProvider,
)
from splatkit_ns.plugin.run.parts.run_data import RunData

__all__ = [
    "BlenderDataProvider",
    "ColmapDataProvider",
    "DataProvider",
    "NerfstudioDataProvider",
    "Photograph",
    "RunData",
    "SplatDataProvider",
]
