"""The Gaussians of a checkpoint, without the data of its run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats import Gaussians
from splatkit_ns.plugin.loading import read_config
from splatkit_ns.printing import say
from splatkit_ns.renderer.sky import SkyRenderer
from splatkit_ns.splat import SplatTrainingState


def read_gaussians(path: Path, console: Console) -> Gaussians:
    """The Gaussians of a checkpoint, in the frame of training. The ``config.yml`` of its run says how they are drawn.

    Args:
        path: the checkpoint, in the folder of its run.
        console: the output for what is not known or left out.

    Raises:
        SplatkitError: it cannot be read.
    """
    state = SplatTrainingState.from_ckpt(path)
    config = path.absolute().parent.parent / "config.yml"
    try:
        if not config.is_file():
            raise SplatkitError(f"There is no {config}, the config of the checkpoint's run.")
        renderer = read_config(config, shown="").pipeline.model.renderer
    except SplatkitError as error:
        say(console, f"{error} The Gaussians are written as 3D Gaussians, not as the discs of splatkit-2dgs.")
        return state.to_splat_model().to_gaussians()
    if isinstance(renderer, SkyRenderer) and renderer.sky_degree is not None:
        say(console, "The run has learnt a sky, which is left out: splatkit export, with its data, writes it.")
    return state.to_splat_model(renderer.splat_mode).to_gaussians()
