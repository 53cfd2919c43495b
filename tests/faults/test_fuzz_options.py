"""Options of any value: a run is refused with all that is wrong with it, or its options are in their ranges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from splatkit_ns.errors import OptionsError
from splatkit_ns.plugin.options.check import check_options
from tests.faults.runs import make_config
from tests.faults.test_hostile_checkpoints import FUZZ

numbers = st.floats() | st.integers(-(10**20), 10**20) | st.sampled_from([0, -0.0, 1, -1, 0.5, math.nan, math.inf])
PLACES = {
    "": ("max_num_iterations", "steps_per_save"),
    "pipeline.model": ("sh_degree", "sh_degree_interval", "num_random",
                       "random_scale", "init_opacity", "init_scale", "num_downscales", "resolution_schedule"),
    "pipeline.model.densification": ("refine_every", "reset_every", "refine_start_iter", "refine_stop_iter",
                                     "prune_opa", "max_gaussians", "noise_lr", "min_opacity", "growth"),
    "pipeline.model.renderer": ("near_plane", "far_plane", "eps2d", "radius_clip"),
    "pipeline.model.loss_fn": ("ssim_lambda", "opacity_reg", "scale_reg"),
    "logging": ("steps_per_log",),
}  # fmt: skip
POSITIVE = (
    "max_num_iterations",
    "sh_degree_interval",
    "resolution_schedule",
    "num_random",
    "random_scale",
    "init_scale",
    "refine_every",
    "max_gaussians",
    "far_plane",
    "steps_per_log",
)
NOT_NEGATIVE = (
    "steps_per_save",
    "num_downscales",
    "reset_every",
    "refine_start_iter",
    "refine_stop_iter",
    "noise_lr",
    "growth",
    "near_plane",
    "eps2d",
    "radius_clip",
    "opacity_reg",
    "scale_reg",
)
OPACITIES = {"init_opacity": 1.0, "min_opacity": 1.0, "prune_opa": 0.5}
AT_MOST = {"random_scale": 10**6}  # fmt: skip


def is_fine(owner: Any, name: str, value: float) -> bool:
    """What the documentation of these numbers says, put once more."""
    if isinstance(getattr(type(owner), name), int) and not isinstance(value, int):
        return False
    if name == "sh_degree":
        return value in (0, 1, 2, 3)
    if name in POSITIVE:
        return 0 < value < math.inf and value <= AT_MOST.get(name, math.inf)
    if name in NOT_NEGATIVE:
        return 0 <= value < math.inf
    if name in OPACITIES:
        return 0 < value < OPACITIES[name]
    return 0 <= value <= 1


@FUZZ
@given(
    densification=st.sampled_from(["default", "mcmc"]),
    choice=st.dictionaries(
        st.sampled_from([(place, name) for place, names in PLACES.items() for name in names]), numbers, max_size=6
    ),
)
def test_fuzz_options(densification: str, choice: dict[tuple[str, str], Any]) -> None:
    check_choice(densification, choice)


def check_choice(densification: str, choice: dict[tuple[str, str], Any]) -> None:
    """Set options, given by place and name: if some are wrong, all of these are named, else the run is accepted."""
    config = make_config(Path(), Path(), densification)
    wrong: set[str] = set()
    for (place, name), value in choice.items():
        owner: Any = config
        for part in filter(None, place.split(".")):
            owner = getattr(owner, part)
        if not hasattr(owner, name):
            continue
        setattr(owner, name, value)
        if not is_fine(owner, name, value):
            wrong.add(name.replace("_", "-"))
    renderer = config.pipeline.model.renderer
    crossed = not renderer.near_plane < renderer.far_plane
    try:
        check_options(config)
    except OptionsError as error:
        problems = error.problems
    else:
        assert not wrong
        assert not crossed
        return
    assert wrong or crossed
    assert all(any(name in problem for problem in problems) for name in wrong)
