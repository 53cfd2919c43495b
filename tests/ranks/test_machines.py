"""Runs on several machines: what each writes, what they check, and the end of one of them."""

from __future__ import annotations

import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import OptionsError, SplatkitError
from splatkit_ns.plugin.data.same_data import DataSummary
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.run.processes.machine_store import MachineStore
from splatkit_ns.plugin.run.processes.machine_words import Machine, lost
from splatkit_ns.plugin.run.processes.machines import Machines, Waiting
from splatkit_ns.splat import read_checkpoint
from tests.faults.runs import CHEAP, differences, make_config
from tests.ranks.bodies import Trained, in_ranks
from tests.ranks.machines import OnMachine, Started, free_address, start_from_python, start_machine, start_machines


def assert_same(found: Trained, expected: Trained) -> None:
    """All ranks have the same parameters, to the bit."""
    for ours, theirs in zip(found.parameters, expected.parameters, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name


def assert_each_ends_with(started: list[Started], message: str) -> None:
    """Each ends with status 1 and one message, and leaves no folder of a run that did not begin."""
    for machine in started:
        status = machine.status()
        text = machine.child.text()
        assert status == 1, text
        assert re.search(rf"Error: .*{message}", text), text
        assert text.count("Error: ") == 1, text
        assert "Traceback" not in text
        assert not machine.config.get_base_dir().exists()


def checkpoint_of(config: Any) -> dict[str, Any]:
    [path] = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    return read_checkpoint(path)


# ---------------------------------------------------------------------- the result


def test_machines_have_what_one_machine_with_as_many_ranks_has_and_one_of_them_writes(
    scene: Path, tmp_path: Path
) -> None:
    """Also if they share a file system."""
    first, second = start_machines(scene, tmp_path, num_devices=2, output=tmp_path / "shared")
    found = first.trained()
    assert second.trained() is None
    config = make_config(scene, tmp_path / "one", **CHEAP)
    expected = in_ranks(config, size=4)
    assert found is not None
    assert found.numbers == expected.numbers
    assert found.images == expected.images
    assert_same(found, expected)
    stored, wanted = checkpoint_of(first.config), checkpoint_of(config)
    for key in ("pipeline", "optimizers", "schedulers"):
        assert differences(stored[key], wanted[key], key) == []
    folder = first.config.get_base_dir()
    names = {"config.yml", "dataparser_transforms.json", "nerfstudio_models"}
    assert {path.name for path in folder.iterdir()} == names
    assert "machine_rank: 0" in (folder / "config.yml").read_text()
    told = f"Machine 1 of 2 (the first is 0) takes part in the run of machine 0 ({socket.gethostname()}), where results"
    assert second.child.text() == f"{told} are: {folder}", "and nothing else"


def test_the_python_entry_returns_on_machine_0(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    started = [start_from_python(scene, tmp_path, i, url) for i in range(2)]
    assert [child.wait(120) for child in started] == [0, 0], [child.text() for child in started]
    [path] = (tmp_path / "0").rglob("*.ckpt")
    assert f"step 8 is in {path}" in started[0].text()
    assert "step 8" not in started[1].text()
    assert not (tmp_path / "1").exists()


# ---------------------------------------------------------------------- wrong set-ups


def test_other_options_are_named_on_each_machine(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    started = [start_machine(scene, tmp_path, i, url, max_num_iterations=30 + i) for i in range(2)]
    message = r"Machine 1 \(\S+\) has other options than machine 0 \(\S+\): --max-num-iterations is 31, not 30"
    assert_each_ends_with(started, message)


def test_a_machine_that_cannot_begin_ends_all(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    started = [start_machine(scene, tmp_path, i, url, writers=("NoWriter",) * i) for i in range(2)]
    assert started[1].status() == started[0].status() == 1
    assert re.search(r"Error: Machine 1 \(\S+\): 1 option.* cannot be used: .*NoWriter", started[0].child.text())
    assert re.search(r"Error: 1 option.* cannot be used: .*NoWriter", started[1].child.text())


def test_a_machine_that_cannot_take_part_ends_all_though_it_has_no_place(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    first = start_machine(scene, tmp_path, 0, url, times={"NOTE_AFTER": 0.0})
    first.child.wait_for(lambda: "Waiting for machine 1 of 2" in first.child.text())
    second = start_machine(scene, tmp_path, 2, url)
    problem = ".*--machine.machine-rank is 2, expected 0 to 1 with --machine.num-machines 2"
    assert_each_ends_with([first], rf"Machine 2 \(\S+\): 1 option.* cannot be used: {problem}")
    assert_each_ends_with([second], rf"1 option.* cannot be used: {problem}")


def test_a_run_whose_machines_are_all_there_is_not_ended_by_another_one() -> None:
    url = free_address()
    store, stranger = MachineStore.serve(int(url.rpartition(":")[2])), Machine(5, "here", Path())
    store.introduce(Machine(0, "there", Path()))
    store.complete()
    Machines(stranger, 2, url).refuse(OptionsError(["its rank is 5"]))
    assert store.first_failure() is None
    with pytest.raises(SplatkitError, match="is another run, whose machines are all there"):
        Machines(replace(stranger, number=1), 2, url).meet()
    assert store.first_failure() is None


def test_a_machine_that_has_given_machine_0_up_tells_it_if_it_is_there_again() -> None:
    """Else machine 0 would take it for one that has ended well, and wait for its ranks."""
    url = free_address()
    store = MachineStore.serve(int(url.rpartition(":")[2]))
    store.introduce(Machine(0, "there", Path()))
    machines = Machines(Machine(1, "here", Path()), 2, url)
    machines._store = machines._join(Waiting(url))
    machines._fault = lost(machines.first)
    assert machines._follow()
    assert store.has_ended(1)
    assert store.first_failure() == (1, lost(machines.first))


def test_other_versions_are_named_on_each_machine(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    started = [start_machine(scene, tmp_path, i, url, versions={"splatkit-ns": f"0.{i}"}) for i in range(2)]
    assert_each_ends_with(started, r"Machine 1 \(\S+\) has other versions .*: splatkit-ns is 0\.1, not 0\.0")


def test_a_machine_rank_that_is_given_twice_or_does_not_come_is_named(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    twice = [start_machine(scene, tmp_path / str(i), i and 1, url, num_machines=3) for i in range(3)]
    alone = start_machine(scene, tmp_path / "b", 1, free_address(), times={"PATIENCE": 1.0})
    assert_each_ends_with(twice, "--machine.machine-rank 1 is given twice: on ")
    third = start_machine(scene, tmp_path / "a", 2, url, num_machines=4, times={"NOTE_AFTER": 0.0})
    third.child.wait_for(lambda: "Waiting for machine 0" in third.child.text())
    first = start_machine(scene, tmp_path / "a", 0, url, num_machines=4, times={"PATIENCE": 1.0})
    assert_each_ends_with([first, third], "Machines 1 and 3 of 4 .the first is 0. did not come within 1 s to tcp://")
    assert_each_ends_with([alone], "Machine 0 does not answer at tcp://")


def test_other_data_are_named_on_each_machine(scene: Path, tmp_path: Path) -> None:
    other = shutil.copytree(scene, tmp_path / "other")
    photograph = sorted((other / "images").iterdir())[1]
    photograph.write_bytes(photograph.read_bytes() + b"0")
    url = free_address()
    started = [start_machine([scene, other][i], tmp_path, i, url) for i in range(2)]
    message = "The data of machine 1 are not those of machine 0: "
    assert_each_ends_with(started, rf"{message}{photograph.name} has [\d,]+ bytes, not")


def test_differences_between_data_are_found() -> None:
    cameras = torch.rand(2, 20, generator=torch.Generator().manual_seed(1))
    data = DataSummary(["a", "b"], [(4, 3), (4, 3)], [9, 9], cameras, 5)
    assert data.difference(replace(data, cameras=cameras + 1e-6)) is None
    moved = cameras.clone()
    moved[1, 3] += 0.01
    for changes, found in (
        ({"names": ["a"]}, "2 photographs, not 1"),
        ({"names": ["a", "c"]}, "photograph 2 is b, not c"),
        ({"sizes": [(4, 3), (5, 3)]}, "b has 4×3 pixels, not 5×3"),
        ({"bytes": [1000, 9]}, "a has 9 bytes, not 1,000"),
        ({"cameras": moved}, "b has another camera"),
        ({"cameras": cameras[:, :9]}, "the cameras have other lenses"),
        ({"num_seed_points": 6000}, "5 seed points, not 6,000"),
    ):
        assert data.difference(replace(data, **changes)) == found


def test_data_that_a_machine_does_not_have_end_all(scene: Path, tmp_path: Path) -> None:
    url = free_address()
    started = [start_machine([scene, tmp_path / "gone", scene][i], tmp_path, i, url, num_machines=3) for i in range(3)]
    for machine in started:
        assert machine.status() == 1, machine.child.text()
        assert "gone" in machine.child.text()
        assert machine.child.text().count("Error: ") == 1
        assert "on machine 1 (" in machine.child.text()


def test_a_port_that_is_in_use_is_told_on_each_machine(scene: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        started = [start_machine(scene, tmp_path, i, url, times={"SILENCE": 0.3}) for i in range(2)]
        assert_each_ends_with(started[:1], r"port \d+ is in use\. Name another on all machines")
        assert_each_ends_with(started[1:], "What answers at .* is no run of several machines")


# ---------------------------------------------------------------------- the end of a machine


def end_of(scene: Path, folder: Path, action: str, **arguments: Any) -> tuple[list[Started], int]:
    """Both machines of a run in which something happens to machine 1 at step 12, and the images that were saved."""
    started = start_machines(scene, folder, modules=[OnMachine(1, 12, action)], **arguments)
    try:
        started[0].status()
    finally:
        if action == "freeze":
            started[1].child.kill()  # it would never end by itself
    return started, checkpoint_of(started[0].config)["step"] + 1


def test_a_rank_that_is_killed_is_named_with_its_machine(scene: Path, tmp_path: Path) -> None:
    started, saved = end_of(scene, tmp_path, "kill_rank")
    assert saved == 10
    for machine in started:
        assert machine.status() == 1
        text = machine.child.text()
        assert re.search(r"Error: Rank 1 of 2 .the first is 0. on machine 1 \(\S+\) was killed by SIGKILL", text), text
        assert text.count("Error: ") == 1
    assert "The last checkpoint is" in started[0].child.text()
    assert "Checkpoints are on machine 0 (" in started[1].child.text()


@pytest.mark.parametrize("action", [pytest.param("die", marks=pytest.mark.slow), "freeze"])
def test_a_machine_that_is_lost_is_named(scene: Path, tmp_path: Path, action: str) -> None:
    started, saved = end_of(scene, tmp_path, action, times={"SILENCE": 2.0})
    assert saved == 10
    assert started[0].status() == 1
    text = started[0].child.text()
    assert re.search(r"Error: Machine 1 \(\S+\) has ended, or the network .* is cut\. The last checkpoint is", text), (
        text
    )


def test_ctrl_c_on_one_machine_stops_all_and_the_run_goes_on_from_what_machine_0_has(
    scene: Path, tmp_path: Path
) -> None:
    started, saved = end_of(scene, tmp_path, "interrupt")
    assert [machine.status() for machine in started] == [130, 130]
    assert saved % 2 == 0
    assert 12 <= saved < 36
    assert "SIGINT: training stops after this step and saves." in started[1].child.text()
    assert "SIGINT on another machine: training has stopped on all." in started[0].child.text()
    folder, url = started[0].config.get_checkpoint_dir(), free_address()
    rest = [start_machine(scene, tmp_path / "rest", i, url, load_dir=[folder, Path("not/here")][i]) for i in range(2)]
    found = rest[0].trained()
    assert rest[1].trained() is None
    assert found is not None
    assert len(found.numbers) == (36 - saved) // 2
    assert_same(found, in_ranks(make_config(scene, tmp_path / "one", **CHEAP)))
    assert not rest[1].config.output_dir.exists()
