"""What is told when a run begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from nerfstudio.configs.base_config import MachineConfig

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.options.starting import placed, refuse_moved_run
from splatkit_ns.plugin.reporting.console import collected_notes
from tests.faults.runs import make_config


class Config:
    """A config that was read."""

    def __init__(self) -> None:
        self.machine = MachineConfig(num_devices=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/bin/ns-train", "m", "--load-config", "c.yml"], None),
        (["/bin/ns-train", "m", "--data", "d"], None),
        (["/bin/splatkit", "prune", "--load-config", "c.yml", "--refine", "3"], None),
        (["/bin/ns-train", "m", "--load-config=c.yml", "--vis", "none", "--max_num_iterations=9"],
         "does not count: --vis, --max-num-iterations."),
    ],
)  # fmt: skip
def test_options_that_do_not_count_are_told(arguments: list[str], told: str | None) -> None:
    config = Config()
    with collected_notes() as notes:
        placed(config, arguments)
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]


def test_the_place_of_a_run_that_goes_on_is_that_of_the_command_line() -> None:
    arguments = "ns-train m --load-config c.yml --machine.machine_rank 1 --machine.num-machines=2 --machine.dist-url u"
    config = Config()
    with collected_notes() as notes:
        assert placed(config, arguments.split()) is config
    assert config.machine == MachineConfig(num_devices=2, num_machines=2, machine_rank=1, dist_url="u")
    assert notes == []
    placed(config, ["ns-train", "m", "--machine.num-devices", "4"])
    assert config.machine.num_devices == 2, "set by nerfstudio where there is no config to read"


@pytest.mark.parametrize(
    "form", [["--load-config", "{}"], ["--load_config={}"], ["--vis", "none", "--load-config", "{}"]]
)
def test_a_run_that_has_been_moved_is_not_begun_anew(tmp_path: Path, form: list[str]) -> None:
    config = make_config(tmp_path, tmp_path / "where_it_was")
    moved = tmp_path / "moved" / "config.yml"
    checkpoint = moved.parent / "nerfstudio_models" / "step-000000009.ckpt"
    arguments = ["/bin/ns-train", "m", *(part.format(moved) for part in form)]
    refuse_moved_run(arguments, config)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(SplatkitError, match=f"checkpoints are in {moved.parent}, but .*where_it_was"):
        refuse_moved_run(arguments, config)
    refuse_moved_run(["/bin/ns-train", "m", "--data", "d"], config)
    config.get_checkpoint_dir().mkdir(parents=True)
    (config.get_checkpoint_dir() / checkpoint.name).touch()
    refuse_moved_run(arguments, config)
