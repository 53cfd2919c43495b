"""Data providers: what a `SplatTrainer` trains on, and what modules see of it."""

from splatkit_ns.data_provider.photographs import Photograph
from splatkit_ns.data_provider.providers import (
    BlenderDataProvider,
    ColmapDataProvider,
    DataProvider,
    NerfstudioDataProvider,
    SplatDataProvider,
)
from splatkit_ns.plugin.run.run_data import RunData

__all__ = [
    "BlenderDataProvider",
    "ColmapDataProvider",
    "DataProvider",
    "NerfstudioDataProvider",
    "Photograph",
    "RunData",
    "SplatDataProvider",
]
