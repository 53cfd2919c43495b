# ruff: noqa: E501
"""Breaks every promise of docs/reliability.md once, and sees a test fail: `python -m tests.faults.broken_promises`.

Each is broken in a fork of this process, in memory, so that nothing has to be put back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns import files, ranges
from splatkit_ns.densification import SplatDefaultDensification
from splatkit_ns.formats import ply
from splatkit_ns.modules import checkpointer
from splatkit_ns.parts import dispatch
from splatkit_ns.parts.context import StepContext
from splatkit_ns.plugin import trainer
from splatkit_ns.plugin.datamanager import SplatkitDatamanager
from splatkit_ns.plugin.run.checkpoints import run_checkpoints, stored_state, weights
from splatkit_ns.plugin.run.checkpoints.saving import Saver
from splatkit_ns.plugin.run.ending import out_of_memory, signals
from splatkit_ns.plugin.run.folder import checkpoint_files, run_folder
from splatkit_ns.plugin.run.parts.hooks import RunHooks
from splatkit_ns.plugin.step import finite
from splatkit_ns.plugin.step.training_step import TrainingStep
from splatkit_ns.splat import checkpoint, read_checkpoint
from tests.faults import runs  # noqa: F401  # what the tests import, once for all of them

FOLDER = Path(__file__).parent


def nothing(*_: Any, **__: Any) -> None:
    """In place of what is broken."""


def write_in_place(path: Any, write: Callable[[Any], None]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        write(file)


def newest_whatever(folder: Path, step: int | None) -> Any:
    path = checkpoint_files.checkpoint_paths(folder)[-1]
    return path, read_checkpoint(path)


def by_date(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), key=lambda path: path.stat().st_mtime)


@contextmanager
def deaf() -> Any:
    yield signals.StopRequest()


def without_gradients(collect: Any = stored_state.collect) -> Any:
    def broken(*arguments: Any) -> Any:
        content = collect(*arguments)
        content["splatkit"]["gradients"] = {}
        return content

    return broken


def raising(*_: Any) -> Any:
    def then(error: OSError | None) -> None:
        if error is not None:
            raise error

    return then


def trusting_load(load: Any = torch.load) -> Any:
    return lambda *arguments, **options: load(*arguments, **{**options, "weights_only": False})


def rng_once(entry: Any = stored_state.rng_entry) -> Any:
    """The state, when a checkpoint is restored; not for later."""
    calls: list[int] = []

    def broken(content: Any) -> Any:
        calls.append(0)
        return entry(content) if len(calls) == 1 else None

    return broken


RESUME = "test_resume.py::test_a_resumed_run_ends_with_the_same_bits"
BREAKS: list[tuple[str, Any, str, Any, str]] = [
    ("random numbers are not restored", stored_state, "set_rng_state", nothing, f"{RESUME}[fps-11]"),
    ("what setting up draws shows", stored_state, "rng_entry", rng_once(), "test_resume.py::test_random_numbers_drawn_while_setting_up_do_not_matter"),
    ("the sampler is not restored", SplatkitDatamanager, "load_sampler_state", nothing, f"{RESUME}[default-5]"),
    ("statistics are not restored", SplatDefaultDensification, "load_state_dict", nothing, f"{RESUME}[default-12]"),
    ("optimizers are not restored", stored_state, "load_optimizers", nothing, f"{RESUME}[mcmc-20]"),
    ("schedules are not restored", stored_state, "restore_schedules", nothing, f"{RESUME}[mcmc-20]"),
    ("accumulated gradients are lost", stored_state, "collect", without_gradients(), f"{RESUME}[black-12]"),
    ("a damaged newest one is an error", checkpoint_files, "newest_readable", newest_whatever, "test_resume.py::test_a_damaged_newest_checkpoint_is_skipped"),
    ("one checkpoint is kept", checkpoint_files, "KEPT", 1, "test_resume.py::test_two_checkpoints_are_kept"),
    ("checkpoints are sorted by date", checkpoint_files, "checkpoint_paths", by_date, "test_run_folder.py::test_the_clock_jumps"),
    ("files are written in place", checkpoint, "atomic_write", write_in_place, "test_full_disk.py::test_a_full_disk_leaves_the_old_files"),
    ("so are PLY files", ply, "atomic_write", write_in_place, "test_full_disk.py::test_a_full_disk_leaves_the_old_files"),
    ("so is the transform", run_folder, "atomic_write_text", lambda path, text: Path(path).write_text(text), "test_run_folder.py::test_a_run_writes_everything_atomically"),
    ("a deleted config.yml stays away", run_folder.RunFolder, "put_back", nothing, "test_run_folder.py::test_a_folder_that_is_deleted_or_moved_while_its_run_goes_on_gets_back_what_a_resume_needs[False]"),
    ("leftovers stay", files, "delete_leftovers", nothing, "test_run_folder.py::test_what_killed_runs_leave_does_not_upset_evaluation"),
    ("leftovers are hidden files", files, "TEMPORARY_PREFIX", ".tmp-", "test_run_folder.py::test_what_killed_runs_leave_does_not_upset_evaluation"),
    ("signals are not handled", trainer, "stop_requests", deaf, "test_signals.py::test_a_signal_finishes_the_step_saves_and_cleans_up"),
    ("clean-up is left out", RunHooks, "_end", nothing, "test_signals.py::test_a_signal_finishes_the_step_saves_and_cleans_up"),
    ("nothing is saved at the end", Saver, "save_last", nothing, "test_signals.py::test_a_paused_run_stops_too"),
    ("a full disk ends training", Saver, "try_to_save", lambda self, step: self._save(step), "test_full_disk.py::test_training_goes_on_when_a_save_fails"),
    ("a last save may fail", Saver, "save_last", lambda self, *_, **__: self.try_to_save(35), "test_full_disk.py::test_a_last_save_that_fails_is_an_error"),
    ("a full disk ends training in a module", checkpointer, "told_of_checkpoint", raising, "test_full_disk.py::test_training_goes_on_when_a_module_cannot_write"),
    ("an error costs all steps before it", Saver, "_save_before_error", nothing, "test_failing_parts.py::test_what_was_trained_before_an_error_is_saved"),
    ("a SystemExit cuts its step short", dispatch, "OUTSIDE_STEPS", tuple(dispatch.HOOKS), "test_failing_parts.py::test_a_system_exit_of_a_part_saves_first_and_keeps_its_status[post_step]"),
    ("changed learning rates are lost", stored_state, "use_changed_rates", nothing, "test_resume.py::test_learning_rates_that_a_resumed_run_changes_count_and_are_told"),
    ("changed decay rates are lost", stored_state, "use_changed_moments", nothing, "test_resume.py::test_decay_rates_and_eps_that_a_resumed_run_changes_count_and_are_told"),
    ("refused runs leave their folders", run_folder.RunFolder, "_discard_if_without_results", nothing, "test_run_folder.py::test_a_refused_run_leaves_no_folder"),
    ("states that cannot be saved are found late", stored_state, "check_modules", nothing, "test_failing_parts.py::test_a_state_that_cannot_be_saved_is_refused_before_training"),
    ("spoilt parameters are saved", run_checkpoints, "check_parameters", nothing, "test_finite.py::test_spoilt_parameters_are_not_saved_though_gradients_are_fine"),
    ("options are checked by each process", trainer.SplatkitTrainerConfig, "check", nothing, "test_run_folder.py::test_a_run_that_cannot_begin_is_refused_before_anything_is_started_or_left"),
    ("NaN is not noticed", finite.FiniteWatch, "record", nothing, "test_finite.py::test_a_gradient_that_is_nan_names_its_group"),
    ("a spoilt state is saved", finite.FiniteWatch, "check", nothing, "test_finite.py::test_a_spoilt_state_is_not_saved"),
    ("skipped steps are counted", StepContext, "is_skipped", property(lambda self: False, nothing), "test_finite.py::test_densification_counts_no_skipped_step"),
    ("lack of memory is not explained", out_of_memory, "find", nothing, "test_out_of_memory.py::test_the_message_says_what_helps_and_the_state_is_saved"),
    ("half a step is saved", TrainingStep, "complete_steps", property(lambda self: 8, nothing), "test_out_of_memory.py::test_a_state_in_the_middle_of_a_step_is_not_saved"),
    ("folders are not claimed", run_folder.RunFolder, "claim", nothing, "test_run_folder.py::test_a_second_run_into_the_folder_is_refused"),
    ("finished runs are overwritten", run_folder, "checkpoint_paths", lambda folder: [], "test_run_folder.py::test_a_finished_run_is_not_overwritten"),
    ("--load-config starts anew", run_folder.RunFolder, "is_continued", property(lambda self: False), "test_run_folder.py::test_load_config_goes_on_where_the_run_was_stopped"),
    ("runs of a second share a folder", run_folder.RunFolder, "set_unused_timestamp", nothing, "test_run_folder.py::test_runs_of_the_same_second_get_folders_of_their_own"),
    ("pickles are trusted", torch, "load", trusting_load(), "test_hostile_checkpoints.py::test_a_malicious_checkpoint_runs_nothing"),
    ("entries may be folders", checkpoint, "_FOLDER_ATTRIBUTE", 0, "test_hostile_checkpoints.py::test_an_entry_marked_as_a_folder"),
    ("checksums are not checked", checkpoint, "_check_archive", lambda file: [0] * 99, "test_hostile_checkpoints.py::test_fuzz_flipped_bytes"),
    ("tuples may be endless", checkpoint, "check_tuples", nothing, "test_hostile_checkpoints.py::test_names_in_capitals"),
    ("tensors may be of any size", checkpoint, "Counter", lambda _: 0, "test_hostile_checkpoints.py::test_sizes_are_checked_also_where_torch_does_not"),
    ("any shape is taken", weights, "check", nothing, "test_hostile_checkpoints.py::test_content_that_does_not_fit"),
    ("rows are not counted", ply, "check_room", nothing, "test_hostile_ply.py::test_a_broken_file_is_refused"),
    ("NaN is read", ply, "check_finite", lambda found, *_: found, "test_hostile_ply.py::test_a_broken_file_is_refused"),
    ("options are not checked", ranges, "problems", lambda *_, **__: [], "test_fuzz_options.py::test_fuzz_options"),
]  # fmt: skip
"""What is broken, where, the name that is replaced, by what, and the test that has to fail."""


def fails(owner: Any, name: str, replacement: Any, test: str, scratch: Path) -> bool:
    """Whether a test fails when something is replaced."""
    pid = os.fork()
    if pid == 0:
        output = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        setattr(owner, name, replacement)
        os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:dash", str(FOLDER / test)])))
    _, status = os.waitpid(pid, 0)
    return status != 0 and "no tests ran" not in scratch.read_text(errors="replace")


def main() -> int:
    """Break one after the other, or those named on the command line; those that no test notices are named."""
    unnoticed: list[str] = []
    moved = [what for what, owner, name, by, _ in BREAKS if not (hasattr(owner, name) or isinstance(by, property))]
    assert not moved, f"what these replace has another name now, so that nothing would be broken: {moved}"
    scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"broken-promises-{os.getpid()}.log"
    for what, owner, name, replacement, test in BREAKS:
        if sys.argv[1:] and what not in sys.argv[1:]:
            continue
        noticed = fails(owner, name, replacement, test, scratch)
        sys.stdout.write(f"{'noticed' if noticed else 'UNNOTICED'}: {what} ({test})\n")
        sys.stdout.flush()
        if not noticed:
            unnoticed.append(what)
    scratch.unlink(missing_ok=True)
    sys.stdout.write(f"{len(unnoticed)} broken promises were not noticed\n")
    return bool(unnoticed)


if __name__ == "__main__":
    sys.exit(main())
