"""One run at a time writes into a folder, and a finished one is not overwritten."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.configs import experiment_config
from nerfstudio.utils.eval_utils import eval_load_checkpoint

from splatkit_ns.data_provider import NerfstudioDataProvider
from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import TEMPORARY_PREFIX, atomic_write
from splatkit_ns.methods import splatkit_3dgs
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.plugin.reporting import console as reporting
from splatkit_ns.plugin.run.folder import checkpoint_files, folder_lock
from splatkit_ns.plugin.run.folder.folder_lock import LOCK_NAME, FolderLock
from splatkit_ns.plugin.run.folder.run_folder import RunFolder
from splatkit_ns.trainer import SplatTrainer, SplatTrainerConfig
from tests.faults.children import PATIENCE, Child
from tests.faults.runs import CHEAP, MAX_STEPS, At, make_config, make_trainer, run_command, send, train


class Waits(At):
    """Waits at one step until a file is there."""

    def __init__(self, arrived: Path, go_on: Path) -> None:
        super().__init__(5, self.wait)
        self.arrived, self.go_on = arrived, go_on

    def wait(self) -> None:
        self.arrived.touch()
        end = time.monotonic() + PATIENCE  # the test may have failed, and nothing else would end this process
        while time.monotonic() < end and not self.go_on.exists():
            time.sleep(0.01)


def test_a_second_run_into_the_folder_is_refused(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    arrived, go_on = tmp_path / "arrived", tmp_path / "go_on"
    first = Child(run_command, tmp_path / "first", config=config, modules=[Waits(arrived, go_on)])
    first.wait_for(arrived.exists)
    written = (config.get_base_dir() / "config.yml").read_bytes()
    with pytest.raises(SplatkitError, match=rf"Another run \(process {first.pid} on {socket.gethostname()}\)"):
        make_config(scene, tmp_path, max_num_iterations=7).save_config()
    with pytest.raises(SplatkitError, match="Another run"):  # also without save_config, as from Python
        make_trainer(make_config(scene, tmp_path))
    second = Child(run_command, tmp_path / "second", config=config)
    assert second.wait() == 1
    assert "Traceback" not in second.text()
    assert "--timestamp OTHER" in second.text()
    assert (config.get_base_dir() / "config.yml").read_bytes() == written
    go_on.touch()
    assert first.wait() == 0, first.text()
    assert not (config.get_base_dir() / LOCK_NAME).exists()


def test_the_lock_of_a_killed_run_is_no_hindrance(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    arrived = tmp_path / "arrived"
    first = Child(run_command, tmp_path / "first", config=config, modules=[Waits(arrived, tmp_path / "never")])
    first.wait_for(arrived.exists)
    first.kill(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert (config.get_base_dir() / LOCK_NAME).exists()
    second = Child(run_command, tmp_path / "second", config=config)
    assert second.wait() == 0, second.text()


@pytest.mark.parametrize(
    ("host", "pid", "refused"),
    [(socket.gethostname(), 1, True), (socket.gethostname(), 2**22 + 1, False), ("elsewhere", 2**22 + 1, True)],
)
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, pid: int, refused: bool
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock.fcntl, "flock", no_locks)
    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": pid, "host": host}))
    if refused:
        with pytest.raises(SplatkitError, match=f"process {pid} on {host}.*delete"):
            FolderLock.acquire(tmp_path)
    else:
        FolderLock.acquire(tmp_path).release()
        assert not (tmp_path / LOCK_NAME).exists()


def test_all_objects_of_a_folder_share_its_claim(scene: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "out").mkdir()
    folder, linked = (RunFolder(make_config(scene, tmp_path / name)) for name in ("out", "link"))
    assert not folder.is_claimed
    assert not linked.is_claimed
    folder.claim()
    linked.claim()
    assert folder.is_claimed
    assert linked.is_claimed
    assert json.loads((folder.path / LOCK_NAME).read_text()) == {"pid": os.getpid(), "host": socket.gethostname()}
    linked.release()
    assert not folder.is_claimed
    assert not linked.is_claimed
    assert not (folder.path / LOCK_NAME).exists()
    folder.release()


def test_a_fork_does_not_have_the_claim_of_its_parent(scene: Path, tmp_path: Path) -> None:
    folder = RunFolder(make_config(scene, tmp_path))
    folder.claim()
    pid = os.fork()
    if pid == 0:
        try:
            assert not folder.is_claimed
            with pytest.raises(SplatkitError, match=rf"Another run \(process {os.getppid()} on"):
                folder.claim()
            RunFolder.release_all()  # as at its exit
            assert (folder.path / LOCK_NAME).exists()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert folder.is_claimed
    RunFolder.release_all()
    assert not folder.is_claimed
    assert not (folder.path / LOCK_NAME).exists()


@pytest.mark.parametrize("moved", [False, True])
def test_a_folder_that_is_deleted_or_moved_while_its_run_goes_on_gets_back_what_a_resume_needs(
    scene: Path, tmp_path: Path, messages: Any, moved: bool
) -> None:
    config = make_config(scene, tmp_path, steps_per_save=6, **CHEAP)
    config.writers, config.steps_per_eval_all_images = ("JsonLinesWriter",), 12
    folder = config.get_base_dir()

    def take_away() -> None:
        written.update({name: (folder / name).read_bytes() for name in ("config.yml", "dataparser_transforms.json")})
        if moved:
            folder.rename(tmp_path / "moved")
        else:
            shutil.rmtree(folder)

    written: dict[str, bytes] = {}
    with pytest.raises(SystemExit):
        run_command(config, [At(8, take_away), At(15, send(signal.SIGTERM))])
    assert {name: (folder / name).read_bytes() for name in written} == written
    assert not (folder / LOCK_NAME).exists()
    paths = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert [checkpoint_files.step_of(path) for path in paths] == [12, 14]
    warnings = [record.getMessage() for record in messages.records if record.levelname == "WARNING"]
    assert f"config.yml and dataparser_transforms.json are gone from {folder}: written again." in warnings
    run_command(yaml.load((folder / "config.yml").read_text(), Loader=yaml.Loader), [steps := At(0, lambda: None)])
    assert steps.steps == list(range(16, MAX_STEPS + 1))


def test_a_run_does_not_write_into_a_folder_that_another_has_taken_over(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, steps_per_save=6, **CHEAP)
    folder = config.get_base_dir()
    others = Child(hold_folder, tmp_path / "log", folder=folder, arrived=tmp_path / "arrived", go_on=tmp_path / "go_on")

    def give_away() -> None:
        shutil.rmtree(folder)
        (tmp_path / "arrived").touch()
        others.wait_for((folder / "mine").exists)

    with pytest.raises(SplatkitError, match=rf"Another run \(process {others.pid} on"):
        run_command(config, [At(8, give_away)])
    assert sorted(os.listdir(folder)) == ["mine", LOCK_NAME]
    (tmp_path / "go_on").touch()
    assert others.wait() == 0


def hold_folder(folder: Path, arrived: Path, go_on: Path) -> None:
    for wanted in (arrived, go_on):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and not wanted.exists():
            time.sleep(0.01)
        if wanted == arrived:
            lock = FolderLock.acquire(folder)
            (folder / "mine").touch()
    lock.release()


def test_a_finished_run_is_not_overwritten(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    run_command(config)
    other = make_config(scene, tmp_path, max_num_iterations=MAX_STEPS + 4, **CHEAP)
    before = (config.get_base_dir() / "config.yml").read_bytes()
    with pytest.raises(SplatkitError, match=r"holds another run, of 1 checkpoint\(s\) and with other.*--load-dir"):
        other.save_config()
    assert (config.get_base_dir() / "config.yml").read_bytes() == before
    other.load_dir = config.get_checkpoint_dir()
    run_command(other)
    assert checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())[-1].name == "step-000000039.ckpt"


def test_a_folder_without_checkpoints_is_free(scene: Path, tmp_path: Path) -> None:
    """The first attempt had a mistake in its options."""
    make_config(scene, tmp_path, **CHEAP).save_config()
    make_config(scene, tmp_path, max_num_iterations=7, **CHEAP).save_config()
    RunFolder(make_config(scene, tmp_path)).release()


@pytest.mark.parametrize("comment", ["", "# the long night's run\n"])
def test_load_config_goes_on_where_the_run_was_stopped(scene: Path, tmp_path: Path, comment: str) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    with pytest.raises(SystemExit):
        run_command(config, [At(9, send(signal.SIGTERM))])
    path = config.get_base_dir() / "config.yml"
    path.write_text(comment + path.read_text())
    again = yaml.load(path.read_text(), Loader=yaml.Loader)  # what --load-config does
    run_command(again, [steps := At(0, lambda: None)])
    assert steps.steps == list(range(10, MAX_STEPS + 1))
    finished = yaml.load(path.read_text(), Loader=yaml.Loader)
    run_command(finished, [steps := At(0, lambda: None)])
    assert steps.steps == []


def test_runs_of_the_same_second_get_folders_of_their_own(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do those that start after the clock was set back."""

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(experiment_config, "datetime", Stopped)
    names: list[str] = []
    for _ in range(3):
        config = make_config(scene, tmp_path, timestamp="{timestamp}")
        config.set_timestamp()
        names.append(config.timestamp)
        assert config.get_base_dir().is_dir()
    assert names == ["2026-01-02_030405", "2026-01-02_030405-2", "2026-01-02_030405-3"]
    given = make_config(scene, tmp_path, timestamp=names[0])
    given.set_timestamp()
    assert given.timestamp == names[0]


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_the_clock_jumps(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    real, offset = time.time, 0.0

    def turn() -> None:
        nonlocal offset
        offset = jump

    config = make_config(scene, tmp_path, steps_per_save=10, **CHEAP)
    config.logging.steps_per_log = 3
    trainer = make_trainer(config, At(17, turn))
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    trainer.train()
    for i, path in enumerate(checkpoint_files.checkpoint_paths(trainer.checkpoint_dir)):
        os.utime(path, (1000 - i, 1000 - i))  # the newest has the oldest date
    assert make_trainer(make_config(scene, tmp_path, load_dir=trainer.checkpoint_dir, **CHEAP))._start_step == 36


def test_what_killed_runs_leave_does_not_upset_evaluation(scene: Path, tmp_path: Path) -> None:
    """`ns-eval` reads a step out of every name in the folder; at the next save the leftover goes."""
    config = make_config(scene, tmp_path, steps_per_save=10, **CHEAP)
    trainer = make_trainer(config)
    folder = trainer.checkpoint_dir
    child = Child(killed_while_writing, tmp_path / "log", path=folder / "step-000000010.ckpt")
    assert child.wait() == -signal.SIGKILL
    leftovers = os.listdir(folder)
    assert [name.startswith(TEMPORARY_PREFIX) for name in leftovers] == [True]
    assert checkpoint_files.checkpoint_paths(folder) == []
    trainer.train()
    assert sorted(os.listdir(folder)) == ["step-000000030.ckpt", "step-000000035.ckpt"]
    (folder / leftovers[0]).touch()
    config.load_dir = folder
    assert eval_load_checkpoint(config, trainer.pipeline)[1] == 35


def killed_while_writing(path: Path) -> None:
    def write(file: Any) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    atomic_write(path, write)


def test_a_file_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        atomic_write(tmp_path / "inner", lambda inner: inner.write(b"inner"))
        file.write(b"outer")

    atomic_write(tmp_path / "outer", write)
    assert (tmp_path / "outer").read_bytes() == b"outer"
    assert sorted(os.listdir(tmp_path)) == ["inner", "outer"]


def test_a_run_writes_everything_atomically(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config, poses' transform, checkpoints and contact sheets come into being by a rename; we write nothing else."""
    renamed: list[str] = []
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        renamed.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    config = make_config(scene, tmp_path, **CHEAP)
    config.save_config()
    train(config)
    written = {path.name for path in config.get_base_dir().rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith("events.out")} == set(renamed)
    assert set(renamed) == {"config.yml", "dataparser_transforms.json", "step-000000035.ckpt", "step_000036.jpg"}


@pytest.mark.parametrize(
    "options", [{"max_num_iterations": -1}, {"machine__num_machines": 2}, {"load_dir": Path("gone")}]
)
def test_a_run_that_cannot_begin_is_refused_before_anything_is_started_or_left(
    scene: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Also before nerfstudio starts a process for each GPU, whose message would come with their tracebacks."""
    config = make_config(scene, tmp_path / "out", **CHEAP)
    for path, value in options.items():
        *parents, name = path.split("__")
        setattr(config.machine if parents else config, name, value)
    (tmp_path / "out").mkdir()
    config.timestamp = "{timestamp}"
    config.set_timestamp()
    assert config.get_base_dir().is_dir()
    with pytest.raises(SplatkitError, match=r"option\(s\) cannot be used"):
        config.save_config()
    assert list((tmp_path / "out").iterdir()) == []


class AsksForTooMuch(SplatBaseModule[Any]):
    """A hook of it wants what does not exist."""

    def post_step(self, gaussians: Any) -> None: ...


class RefusesTheRun(SplatBaseModule[Any]):
    """Finds at set-up that it cannot take part."""

    def on_setup(self) -> None:
        raise SplatkitError("no such thing here")


@pytest.mark.parametrize(
    "module",
    ["nosuch:X", f"{__name__}:Nothing", f"{__name__}:AsksForTooMuch", f"{__name__}:RefusesTheRun"],
)
def test_a_refused_run_leaves_no_folder(scene: Path, tmp_path: Path, module: str) -> None:
    """On whichever of the ways to its first step it is refused."""
    config = make_config(scene, tmp_path / "out", **{**CHEAP, "vis": "none"})
    config.modules.own = (module,)
    (tmp_path / "out").mkdir()
    with pytest.raises(SplatkitError):
        run_command(config)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_part_that_is_refused_in_python_leaves_no_folder(scene: Path, tmp_path: Path) -> None:
    config = SplatTrainerConfig(max_steps=2, output_dir=tmp_path / "out", device="cpu", lpips=False)
    with pytest.raises(SplatkitError, match="takes 'gaussians'"):
        SplatTrainer(config, NerfstudioDataProvider(scene), modules=[AsksForTooMuch()]).run()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_refused_run_leaves_the_folder_that_it_was_started_from(scene: Path, tmp_path: Path) -> None:
    """A config.yml that was there before it, and anything else in its folder, is not its to delete."""
    config = make_config(scene, tmp_path, **{**CHEAP, "vis": "none"})
    config.save_config()
    RunFolder(config).release()
    config.modules.own = (f"{__name__}:RefusesTheRun",)
    with pytest.raises(SplatkitError):
        run_command(config)
    assert (config.get_base_dir() / "config.yml").is_file()
    other = make_config(scene, tmp_path / "other", **{**CHEAP, "vis": "none"})
    other.get_base_dir().mkdir(parents=True)
    (other.get_base_dir() / "notes.txt").write_text("mine")
    other.modules.own = (f"{__name__}:RefusesTheRun",)
    with pytest.raises(SplatkitError):
        run_command(other)
    assert {path.name for path in other.get_base_dir().iterdir()} >= {"notes.txt", "config.yml"}


def test_folders_with_brackets_in_their_names(scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """rich takes what stands in them for styles."""
    folder = tmp_path / "garden[old]"
    config = make_config(scene, folder, max_num_iterations=2, **CHEAP)
    run_command(config)
    again = make_config(scene, folder, max_num_iterations=3, load_dir=config.get_checkpoint_dir(), **CHEAP)
    run_command(again)
    printed = "".join(capfd.readouterr().out.replace("│", "").split())
    assert f"Resumingafterstep2from{folder}" in printed
    assert printed.count(str(folder)) >= 3, "two configs were saved"


def test_a_named_folder_without_a_run_is_told(scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As when --load-config is given in another working directory than the run had."""
    config = make_config(scene, tmp_path, **CHEAP)
    config.set_timestamp()
    assert "trainingbeginsatitsfirststep" in "".join(capfd.readouterr().out.split())


def unreadable(scene: Path, output: Path, function: Any) -> Any:
    config = make_config(scene, output, **CHEAP)
    config.pipeline.model.loss_fn.function = function
    return config


def test_a_config_that_no_other_program_can_read_is_told(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "_reported", set())
    unreadable(scene, tmp_path / "fine", time.sleep).save_config()
    assert "cannotopen" not in "".join(capfd.readouterr().out.split())
    unreadable(scene, tmp_path / "lambda", lambda x: x).save_config()
    printed = "".join(capfd.readouterr().out.split())
    assert "cannotopen" in printed
    assert "tests.faults.test_run_folder.<lambda>" in printed


def test_no_folder_of_the_name_of_a_tilde_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves --output-dir=~/runs as it is, and rm -r ~ is a bad way to be rid of such a folder."""
    monkeypatch.chdir(tmp_path)
    config: Any = deepcopy(splatkit_3dgs.config)
    config.output_dir, config.experiment_name = Path("~/runs"), "fox"
    config.set_timestamp()
    assert not list(tmp_path.iterdir())
