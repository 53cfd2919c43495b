"""The dataparsers of this package, which stand in for those of nerfstudio."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from nerfstudio.data.dataparsers.blender_dataparser import Blender
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGP
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio

from splatkit_ns.plugin.data.scenes.parse_colmap import OwnColmap
from splatkit_ns.plugin.data.scenes.parse_frames import OwnBlender, OwnInstantNGP, OwnNerfstudio
from splatkit_ns.plugin.data.scenes.parse_outputs import DEFAULT_LIMIT

OWN: dict[type, type] = {
    Nerfstudio: OwnNerfstudio,
    ColmapDataParser: OwnColmap,
    InstantNGP: OwnInstantNGP,
    Blender: OwnBlender,
}


@contextmanager
def own_reading(parser: Any, max_seed_points: int = DEFAULT_LIMIT) -> Generator[None]:
    """Use the classes of this file in place of nerfstudio's own while a datamanager makes its dataparser.

    The config does not change, and neither does ``config.yml``. Other dataparsers stay as they are.
    """
    target = parser._target
    own = OWN.get(target)
    if own is None:
        yield
        return

    def made(config: Any) -> Any:
        reader: Any = own(config)
        reader.max_seed_points = max_seed_points
        return reader

    parser._target = made
    try:
        yield
    finally:
        parser._target = target
