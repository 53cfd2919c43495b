"""``splatkit clean``: a run or a file without the Gaussians that it can do without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from splatkit_ns.opening_options import DataFolder, Device, LoadStep, Trust
from splatkit_ns.ranges import BelowOne, NonNegative, Positive, above


@dataclass
class CleanOptions:
    """Leave out the Gaussians that a scene can do without.

    From a run, those that its photographs hardly show; from a run or a file, those that cannot be seen, are NaN, or
    hang in the air. Says how many went by which rule, and what it cost at the held-out photographs. Run and file stay
    as they are.
    """

    output: tuple[Path, ...]
    """The files to write, of any formats."""
    load_config: Path | None = None
    """The config.yml of a run."""
    input: Path | None = None
    """A file of Gaussians. With --load-config: one of that run, in nerfstudio's frame, to take in place of the run's
    own Gaussians."""
    weight_share: Annotated[float | None, BelowOne] = None
    """With a run: removes the Gaussians that the training photographs show least, up to this share of what they show.
    0 keeps all that can be seen. If not given, 0.0003, or as much less that it costs the held-out photographs at most
    0.04 dB of PSNR."""
    min_cluster: Annotated[int, NonNegative] = 5
    """Gaussians go that hang in the air, alone or in a cluster of fewer than this many. With a run, those in the
    distance stay, behind nearly all that its photographs show. 0 or 1 keeps all."""
    min_opacity: Annotated[float, BelowOne] = 1 / 255
    """Gaussians go whose opacity is below this; below 1 / 255 no renderer draws them."""
    max_size: Annotated[float | None, Positive] = None
    """Gaussians go whose standard deviation along their longest axis is above this, in units of the scene."""
    max_elongation: Annotated[float | None, above(1)] = None
    """Gaussians go that are more than this many times as long as wide."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Gaussians go that are outside this box: the three smallest coordinates, then the three largest."""
    sphere: tuple[float, float, float, float] | None = None
    """Gaussians go that are outside this sphere: the centre's three coordinates, then the radius."""
    overwrite: bool = False
    """Replace files that exist."""
    load_step: LoadStep = None
    data: DataFolder = None
    trust: Trust = ()
    device: Device = None
