"""Ctrl+C, SIGTERM and a closed terminal: the step is finished, everything is saved, and the exit status tells."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.utils.rich_utils import CONSOLE

from splatkit_ns.plugin.run.checkpoints.run_checkpoints import RunCheckpoints
from splatkit_ns.plugin.run.ending.signals import STOPPING, StoppedBySignal, stop_requests
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from splatkit_ns.splat import read_checkpoint
from tests.faults.children import PATIENCE, Child
from tests.faults.runs import CHEAP, At, make_config, make_trainer, run_command, send, train


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_cleans_up(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], signum: int, status: int
) -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    stop, config = At(9, send(signum)), make_config(scene, tmp_path)
    with pytest.raises(StoppedBySignal) as caught:
        train(config, stop)
    assert caught.value.code == status
    assert caught.value.signum == signum
    assert stop.steps == list(range(1, 10))
    assert stop.cleaned_up == 1
    path = checkpoint_files.path_of(config.get_checkpoint_dir(), 8)
    assert checkpoint_files.checkpoint_paths(config.get_checkpoint_dir()) == [path]
    assert read_checkpoint(path)["step"] == 8
    assert "To go on" not in capsys.readouterr().out, "there is no config.yml"
    assert [signal.getsignal(each) for each in STOPPING] == before


def test_a_run_that_has_just_saved_does_not_save_again(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    real = RunCheckpoints.save
    monkeypatch.setattr(
        RunCheckpoints, "save", lambda self, step, announce=True: (saved.append(step), real(self, step, announce))[1]
    )
    with pytest.raises(StoppedBySignal):
        train(make_config(scene, tmp_path, steps_per_save=5), At(11, send(signal.SIGTERM)))
    assert saved == [5, 10]


def test_a_signal_while_setting_up_leaves_no_checkpoint(scene: Path, tmp_path: Path) -> None:
    class Early(At):
        def on_setup(self) -> None:
            self.action()

    config, stop = make_config(scene, tmp_path), Early(0, send(signal.SIGTERM))
    with pytest.raises(StoppedBySignal):
        train(config, stop)
    assert stop.steps == []
    assert stop.cleaned_up == 1
    assert checkpoint_files.checkpoint_paths(config.get_checkpoint_dir()) == []


def test_a_paused_run_stops_too(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path)
    trainer = make_trainer(config, pause := At(4, lambda: None))

    def action() -> None:
        trainer.training_state = "paused"
        threading.Timer(0.2, send(signal.SIGINT)).start()

    pause.action = action
    with pytest.raises(StoppedBySignal):
        trainer.train()
    assert pause.steps == [1, 2, 3, 4]
    assert checkpoint_files.path_of(config.get_checkpoint_dir(), 3).is_file()


def test_another_thread_trains_without_handlers(scene: Path, tmp_path: Path) -> None:
    """Python lets only the main thread handle signals; training elsewhere must not fail for that."""
    before = [signal.getsignal(each) for each in STOPPING]
    seen: list[Any] = []
    trainer = make_trainer(
        make_config(scene, tmp_path), At(3, lambda: seen.append([signal.getsignal(each) for each in STOPPING]))
    )
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join(PATIENCE)
    assert seen == [before]
    assert checkpoint_files.checkpoint_paths(trainer.checkpoint_dir)


def test_handlers_come_back_also_after_an_exception() -> None:
    before = [signal.getsignal(each) for each in STOPPING]
    with pytest.raises(ValueError, match="x"), stop_requests():  # noqa: PT012
        assert [signal.getsignal(each) for each in STOPPING] != before
        raise ValueError("x")
    assert [signal.getsignal(each) for each in STOPPING] == before


class Hangs(At):
    """Sends one signal, and does not return from the step."""

    def __init__(self, marker: Path) -> None:
        super().__init__(5, self.hang)
        self.marker = marker

    def hang(self) -> None:
        send(signal.SIGTERM)()
        self.marker.touch()
        threading.Event().wait(PATIENCE)


def test_the_commands_exit_status(scene: Path, tmp_path: Path) -> None:
    """nerfstudio swallows a KeyboardInterrupt and exits with 0."""
    config = make_config(scene, tmp_path)
    child = Child(run_command, tmp_path / "log", config=config, modules=[At(5, send(signal.SIGINT))])
    assert child.wait() == 130, child.text()
    said = f"Stopped after step 5 of {config.max_num_iterations}, saved. To go on: ns-train splatkit-3dgs-adc "
    assert f"{said}--load-config {config.get_base_dir()}/config.yml" in child.text()
    assert "SIGINT: training stops after this step and saves" in child.text()
    assert "Traceback" not in child.text()


def train_on_a_terminal(config: SplatkitTrainerConfig) -> None:
    """Train on a terminal that is closed in step 5, of which the shell tells, too."""
    master, slave = os.openpty()
    reader = os.fork()
    if reader == 0:
        os.close(slave)
        while os.read(master, 1000):
            pass
        os._exit(0)
    os.close(master)
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    os.close(slave)

    def close() -> None:
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        with pytest.raises(OSError, match="Input/output error"):
            os.write(1, b"x")
        send(signal.SIGHUP)()
        send(signal.SIGHUP)()

    assert os.isatty(1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as if the tests were not started by nohup
    run_command(config, [At(5, close)])


def test_a_closed_terminal_stops_a_run_after_the_step(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path)
    child = Child(train_on_a_terminal, tmp_path / "log", config=config)
    assert child.wait() == 129, child.text()
    [path] = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert checkpoint_files.step_of(path) == 4


def test_a_signal_while_the_terminal_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs inside a write that waits, and cannot print then."""
    reading, writing = os.pipe()
    with open(writing, "w") as slow, stop_requests() as request:
        monkeypatch.setattr("sys.stdout", slow)

        def stop_and_read() -> None:
            send(signal.SIGTERM)()
            while not request:
                time.sleep(0.01)
            while os.read(reading, 100_000):
                pass

        timer = threading.Timer(0.1, stop_and_read)
        timer.start()
        slow.write("x" * 1_000_000)
        slow.flush()
        monkeypatch.undo()
    timer.join()
    os.close(reading)
    with CONSOLE.capture():
        CONSOLE.print()  # with it what could not be printed, which would be in the output of another test
    assert request.signum == signal.SIGTERM


def break_output(config: SplatkitTrainerConfig, broken: str) -> None:
    """Train, with an output that breaks in step 5: `pipe`, whose reader ends, or `disk`, which is full from then on."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)

    def breaks() -> None:
        os.close(reading)
        if broken == "disk":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        CONSOLE.print("x")

    run_command(config, [At(5, breaks)])


@pytest.mark.parametrize("broken", ["pipe", "disk"])
def test_training_goes_on_without_its_output(scene: Path, tmp_path: Path, broken: str) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    child = Child(break_output, tmp_path / "log", config=config, broken=broken)
    assert child.wait() == 0, child.text()
    [path] = checkpoint_files.checkpoint_paths(config.get_checkpoint_dir())
    assert checkpoint_files.step_of(path) == config.max_num_iterations - 1
    assert child.text().count("Standard output takes no more (") == 1


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not request
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(scene: Path, tmp_path: Path, signum: int) -> None:
    marker = tmp_path / "marker"
    child = Child(run_command, tmp_path / "log", config=make_config(scene, tmp_path), modules=[Hangs(marker)])
    child.wait_for(marker.exists)
    assert child.alive
    child.kill(signum)
    assert child.wait() == -signum  # which a shell shows as 128 + signum
