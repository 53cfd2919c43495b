"""A rank that fails ends the run with one message that names it, and the run can go on."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import HookFailedError, SplatkitError
from splatkit_ns.plugin.run.ending.out_of_memory import OutOfMemory
from splatkit_ns.plugin.run.ending.signals import StoppedBySignal
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.folder.folder_lock import LOCK_NAME
from splatkit_ns.plugin.run.processes import rank_processes, rank_waiting, together
from splatkit_ns.plugin.run.processes.rank_failures import RemoteTraceback
from splatkit_ns.plugin.step.finite import NotFiniteError
from splatkit_ns.splat import read_checkpoint
from tests.faults.runs import CHEAP, make_config, train
from tests.ranks.bodies import in_ranks, train_and_stop, train_with_a_slow_save, train_with_a_stuck_gpu
from tests.ranks.parts import ClosesTheTerminal, MovesTheFolder, OnRank, SpoiltLoss

FAULTS: list[Any] = [
    (1, "kill", SplatkitError, r"^Rank 1 of 2 .* was killed by SIGKILL.*The last checkpoint is", 10),
    (1, "fail", HookFailedError, r"^OnRank.pre_step failed at step 12: KeyError", 10),
    pytest.param(
        *(1, "refuse", SplatkitError, r"^Rank 1 of 2 .*: The part cannot go on\. The last checkpoint is", 10),
        marks=pytest.mark.slow,
    ),
    (1, "fill_memory", OutOfMemory, r"(?s)^Rank 1 of 2 .*: Out of memory at step 12.*The last checkpoint is", 10),
]
"""Rank, fault, exception, message, and the number of images in the last checkpoint."""


@pytest.mark.parametrize(("rank", "action", "error", "message", "images"), FAULTS)
def test_one_message_and_a_checkpoint(
    scene: Path, tmp_path: Path, rank: int, action: str, error: Any, message: str, images: int
) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    with pytest.raises(error, match=message) as caught:
        in_ranks(config, [OnRank(rank, 12, action)])
    if action == "fail":
        assert isinstance(caught.value.__cause__, RemoteTraceback)
        assert "In rank 1 of 2" in str(caught.value.__cause__)
        assert "a fault of a part" in str(caught.value.__cause__)
    paths = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert [read_checkpoint(path)["step"] + 1 for path in paths] == [images]


def test_a_checkpoint_that_is_not_there_is_told_without_those_of_the_new_run(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, load_dir=tmp_path, load_step=7)
    with pytest.raises(SplatkitError, match=r"^There is no checkpoint of step 7 .* \(files named \S+\)\.$"):
        in_ranks(config, [])


def test_the_run_goes_on_from_what_a_killed_rank_left(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, steps_per_save=4)
    with pytest.raises(SplatkitError, match="Rank 0 of 2"):
        in_ranks(config, [OnRank(0, 12, "kill")])
    rest = make_config(scene, tmp_path / "rest", **CHEAP, load_dir=config.get_checkpoint_dir())
    assert train(rest).start_step == 10, "after the step that reached 9 (nerfstudio's 8)"


def test_a_rank_whose_gpu_waits_for_a_lost_one_ends_without_cleaning_up(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_waiting, "GRACE", 600.0)  # after which it would be killed; a busy machine needs a minute
    config = make_config(scene, tmp_path, **CHEAP)
    began = time.monotonic()
    with pytest.raises(SplatkitError, match=r"^Rank 1 of 2 .* was killed by SIGKILL"):
        in_ranks(config, [OnRank(1, 12, "kill")], body=train_with_a_stuck_gpu)
    assert time.monotonic() - began < rank_waiting.GRACE


def test_no_rank_ends_before_all_have_done_the_last_exchange(scene: Path, tmp_path: Path) -> None:
    """The kernel of an exchange ends with its process, and the GPU of the others would wait for it."""
    saved, ended = in_ranks(make_config(scene, tmp_path, **CHEAP), body=train_with_a_slow_save)
    assert ended >= saved


def test_a_folder_that_is_moved_away_is_claimed_again(scene: Path, tmp_path: Path) -> None:
    """By rank 0, which writes into it; the process that has claimed it at first does not know that it is gone."""
    config = make_config(scene, tmp_path, **CHEAP, steps_per_save=4)
    folder = config.get_base_dir()
    with pytest.raises(SplatkitError, match=r"^Rank 1 of 2 .*: Another run \(process \d+ on .*\) is writing into"):
        in_ranks(config, [MovesTheFolder(folder)])
    assert (folder / "config.yml").is_file()
    assert (folder.with_name("moved") / LOCK_NAME).is_file()
    assert not (folder / LOCK_NAME).exists(), "released at the end"


def test_a_full_disk_keeps_the_last_checkpoint_and_ends_with_one_message(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, steps_per_save=4, save_only_latest_checkpoint=False)
    with pytest.raises(SplatkitError, match=r"^Rank 0 of 2 .*, of step 35, could not be saved: .*No space left"):
        in_ranks(config, [OnRank(0, 12, "fill_disk")])
    folder = config.get_checkpoint_dir()
    whole = [read_checkpoint(path)["step"] for path in checkpoint_files.checkpoint_paths(folder)]
    assert whole == [5, 9], "those before the disk was full, and no pieces of others"
    assert len(list(folder.iterdir())) == 2


def test_values_that_are_not_finite_name_the_image_and_the_rank(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"^Not finite at step 8 on image \S+ \(rank 1\): the loss = nan"):
        in_ranks(make_config(scene, tmp_path / "stop", **CHEAP), [SpoiltLoss()])
    found = in_ranks(make_config(scene, tmp_path / "skip", **CHEAP, on_nan="skip"), [SpoiltLoss()])
    assert len(found.numbers) == 18, "both skip that step, and go on"


def test_a_signal_or_a_part_stops_all_after_the_same_step(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path / "stop", **CHEAP)
    assert len(in_ranks(config, [OnRank(1, 12, "ask_to_stop")]).numbers) == 6
    assert checkpoint_files.path_of(config.get_checkpoint_dir(), 11).is_file()
    with pytest.raises(StoppedBySignal) as caught:
        in_ranks(make_config(scene, tmp_path / "signal", **CHEAP), [OnRank(1, 12, "terminate")])
    assert caught.value.code == 128 + signal.SIGTERM
    with pytest.raises(SystemExit) as left:
        in_ranks(make_config(scene, tmp_path / "exit", **CHEAP), [OnRank(1, 12, "leave")])
    assert left.value.code == 7


def test_a_closed_terminal_stops_all_after_the_same_step_saved(scene: Path, tmp_path: Path) -> None:
    """The terminal tells the process that has started the ranks, as a shell may do a second time."""
    config = make_config(scene, tmp_path, **CHEAP)
    master, slave = os.openpty()
    holder = os.fork()
    if holder == 0:
        while os.read(master, 1000):
            pass
        os._exit(0)
    os.close(master)
    part = ClosesTheTerminal(os.ttyname(slave), holder, os.getpid())
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as if the tests were not started by nohup
    try:
        with pytest.raises(StoppedBySignal) as caught:
            in_ranks(config, [part])
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(slave)
        os.waitpid(holder, 0)
    assert caught.value.code == 128 + signal.SIGHUP
    [path] = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert read_checkpoint(path)["step"] + 1 == 12
    assert not (config.get_base_dir() / LOCK_NAME).exists()


def test_a_signal_stops_a_run_whose_ranks_are_being_started(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Importing everything takes some 10 s on a CPU, in which there is no rank that could be told."""
    started: list[Any] = []

    def start(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        started.append(real(*arguments))
        return started[-1]

    real = rank_processes._start
    monkeypatch.setattr(rank_processes, "_start", start)
    with pytest.raises(StoppedBySignal) as caught:
        in_ranks(make_config(scene, tmp_path, **CHEAP))
    assert caught.value.code == 128 + signal.SIGINT
    assert len(started) == 1
    assert not started[0].process.is_alive()
    assert "SIGINT: stopped before training began." in capfd.readouterr().out


def test_without_parts_of_users_all_stop_after_the_next_step(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, densification="mcmc", steps_per_eval_image=0)
    found = in_ranks(config, (1, 12), body=train_and_stop)
    assert found == [(7, "as asked"), (7, "as asked")]
    assert checkpoint_files.path_of(config.get_checkpoint_dir(), 13).is_file()


def test_a_difference_between_ranks_is_named(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP, max_num_iterations=120)
    with pytest.raises(
        SplatkitError, match=r"The ranks differ after step 100: means.* of rank 1 are not those of rank 0"
    ):
        in_ranks(config, [OnRank(1, 96, "shift")])


def test_sums_of_bits_are_those_of_all_rows_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"rows": torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), "one": torch.tensor(2.5)}
    whole = together.BitSums(7, values).values()
    monkeypatch.setattr(together, "COMPARED_AT_ONCE", 12)
    assert together.BitSums(7, values).values() == whole
    assert together.BitSums(7, {**values, "rows": values["rows"].flip(0)}).values()[0] != whole[0]
    values["rows"][49, 2] = -values["rows"][49, 2]
    assert together.BitSums(7, values).values()[0] != whole[0]


def test_a_port_in_use_is_one_message(scene: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = make_config(scene, tmp_path, **CHEAP)
        config.machine.dist_url = f"tcp://127.0.0.1:{port}"
        with pytest.raises(SplatkitError, match=f"port {port} is in use"):
            in_ranks(config)
        assert not config.get_base_dir().exists(), "nothing is left of a run that did not begin"
