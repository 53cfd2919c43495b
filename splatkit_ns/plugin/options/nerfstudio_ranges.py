"""The ranges of nerfstudio's own settings, which cannot declare them at their fields as ours do."""

from __future__ import annotations

from collections.abc import Sequence

from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import SchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig

from splatkit_ns.ranges import Fraction, NonNegative, Positive, Range, at_most, from_to

RANGES: dict[type, dict[str, Sequence[Range]]] = {
    TrainerConfig: {
        "max_num_iterations": (Positive,),
        **dict.fromkeys(
            ("steps_per_save", "steps_per_eval_batch", "steps_per_eval_image", "steps_per_eval_all_images"),
            (NonNegative,),
        ),
    },
    MachineConfig: {"seed": (NonNegative, at_most(2**32 - 1))},  # NumPy's seeds
    ViewerConfig: dict.fromkeys(("websocket_port", "websocket_port_default"), (from_to(1, 65535),)),
    LoggingConfig: dict.fromkeys(("steps_per_log", "max_buffer_size"), (Positive,)),
    FullImageDatamanagerConfig: dict.fromkeys(("camera_res_scale_factor", "fps_reset_every"), (Positive,)),
    CameraOptimizerConfig: dict.fromkeys(("trans_l2_penalty", "rot_l2_penalty"), (NonNegative,)),
    OptimizerConfig: {**dict.fromkeys(("lr", "eps", "max_norm"), (Positive,)), "weight_decay": (NonNegative,)},
    SchedulerConfig: {**dict.fromkeys(("lr_final", "max_steps"), (Positive,)), "warmup_steps": (NonNegative,)},
    DataParserConfig: {
        **dict.fromkeys(
            ("scale_factor", "scene_scale", "depth_unit_scale_factor", "downscale_factor", "eval_interval"),
            (Positive,),
        ),
        "train_split_fraction": (Fraction,),
    },
}
"""The ranges of fields that nerfstudio's own config classes define, by a base class of the config."""


def nerfstudio_ranges(owner: type, definer: type, name: str) -> Sequence[Range]:
    """The ranges of a field that nerfstudio defines; none for others. It is a `ranges.RangesOfOthers`."""
    if definer.__module__.partition(".")[0] != "nerfstudio":  # a user's field of the same name may mean anything
        return ()
    return next((fields[name] for base, fields in RANGES.items() if issubclass(owner, base) and name in fields), ())
