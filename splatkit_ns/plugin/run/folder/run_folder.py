"""The folder of a run: one run at a time writes into it, and no finished one is overwritten."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from rich.markup import escape

from splatkit_ns.errors import SplatkitError
from splatkit_ns.files import atomic_write_text, quoted
from splatkit_ns.plugin.run.folder.checkpoint_files import checkpoint_paths
from splatkit_ns.plugin.run.folder.config_file import holds_config, packages_named, parse_config
from splatkit_ns.plugin.run.folder.folder_lock import LOCK_NAME, FolderLock
from splatkit_ns.plugin.run.folder.kept_files import KeptFiles
from splatkit_ns.plugin.run.folder.program_parts import note_if_unreadable

WRITTEN_BEFORE_TRAINING = {"config.yml", "dataparser_transforms.json", LOCK_NAME}


@dataclass
class _State:
    """The state of one folder in this process."""

    lock: FolderLock | None = None
    starters_lock: os.stat_result | None = None
    """The lock file of the process that has started this one, as it was then."""
    is_continued: bool = False
    has_new_config: bool = False
    """Whether this process has written a ``config.yml`` into a folder that had none."""
    kept: KeptFiles | None = None

    @property
    def is_claimed(self) -> bool:
        return self.lock is not None and not self.lock.is_inherited

    def release(self) -> None:
        lock, self.lock = self.lock, None
        if lock is not None:
            lock.release()


class RunFolder:
    """The folder of the run that a config describes.

    Its state has two parts, `is_claimed` and `is_continued`. Within a process, all objects for one folder share it,
    whatever path they were made with. A claim ends with `release`, or with the process.

    Args:
        config: the config of the run. The folder is read from it once: make a new object after a change of names,
            timestamp or ``output_dir``.
    """

    _states: ClassVar[dict[Path, _State]] = {}
    """The state of each folder, by its real path."""

    def __init__(self, config: TrainerConfig) -> None:
        self.path = config.get_base_dir()
        self._checkpoint_dir = config.get_checkpoint_dir()
        self._config = config
        self._real_path = Path(os.path.realpath(self.path))
        self._state = self._states.setdefault(self._real_path, _State())

    # ------------------------------------------------------------------ before the run

    @classmethod
    def take_name(cls, config: TrainerConfig, is_new: bool) -> None:
        """Make the folder of a run whose name is new; print a note if a given name is that of no run yet.

        Args:
            config: of the run.
            is_new: whether its timestamp was not given.
        """
        if config.machine.machine_rank > 0:  # machine 0 alone has the folder
            return
        if Path(config.output_dir).parts[:1] == ("~",):  # the check of options tells
            return
        if is_new:
            cls.set_unused_timestamp(config, config.timestamp)
        elif config.load_dir is None and config.load_checkpoint is None:
            cls(config).note_if_empty()

    @staticmethod
    def set_unused_timestamp(config: TrainerConfig, timestamp: str) -> None:
        """Set a config's timestamp and make the folder; a number is added if another run has that name already.

        Two runs therefore never share a folder, even if they start in the same second, or if the clock is set back.
        """
        number = 1
        config.timestamp = timestamp
        while True:
            folder = config.get_base_dir()
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
                return
            except FileExistsError:
                if folder.parent.is_dir():
                    number += 1
                    config.timestamp = f"{timestamp}-{number}"
                    continue
                return  # a file in place of a folder: `save_config` reports it
            except OSError:
                return  # likewise

    def note_if_empty(self) -> None:
        """Print a note if the named folder holds no run yet.

        This happens, for instance, if --load-config is used in another working directory than the run had.
        """
        if not checkpoint_paths(self._checkpoint_dir):
            folder = escape(str(self.path.absolute()))
            CONSOLE.print(f"There is no checkpoint in {folder} yet: training begins at its first step.")

    def note_if_same_run(self) -> None:
        """Set `is_continued`: whether the run is started again in its own folder, with the same config."""
        self._state.is_continued = False
        if checkpoint_paths(self._checkpoint_dir):
            self._state.is_continued = holds_config(self.path / "config.yml", self._config)

    @property
    def is_continued(self) -> bool:
        """Whether `note_if_same_run` found the same run in the folder, as with ``--load-config``; else it is new."""
        return self._state.is_continued

    @property
    def is_resuming(self) -> bool:
        """Whether the run starts from a checkpoint: from ``load_dir``, ``load_checkpoint``, or its own folder."""
        named = self._config.load_dir is not None or self._config.load_checkpoint is not None
        return named or self.is_continued

    # ------------------------------------------------------------------ claiming

    @property
    def is_claimed(self) -> bool:
        """Whether this process writes into the folder, so that others are refused; False in a fork of it."""
        return self._state.is_claimed

    def claim(self) -> None:
        """Claim the folder for this process, until `release` or the end of the process, whatever ends it.

        It does nothing if this process has claimed the folder already.

        Raises:
            SplatkitError: another process has claimed it, or it cannot be written.
        """
        if self.is_claimed:
            return
        try:
            self._state.lock = FolderLock.acquire(self._real_path)
        except OSError as error:
            raise _write_error(self._real_path, error) from error

    def belongs_to_starter(self, is_continued: bool) -> None:
        """Take over from the process that has started this one, and has claimed the folder, whether it is continued."""
        self._state.is_continued = is_continued
        with contextlib.suppress(OSError):  # the folder has been moved already
            self._state.starters_lock = (self._real_path / LOCK_NAME).stat()

    def release(self) -> None:
        """End the claim; nothing happens if this process has not claimed the folder."""
        self._state.release()

    def discard_if_empty(self) -> None:
        """Release the folder of a run that does not begin, and delete it and its parents in ``output_dir`` if empty."""
        self.release()
        folder, output_dir = self.path, self._config.output_dir
        with contextlib.suppress(OSError):  # a folder that is not empty
            while folder != output_dir and output_dir in folder.parents:
                folder.rmdir()
                folder = folder.parent

    @contextlib.contextmanager
    def discarded_if_refused(self) -> Generator[None]:
        """Delete the folder if the block, which runs before the first step, fails; a folder with results stays."""
        try:
            yield
        except SplatkitError:
            if self._state.has_new_config and self.path.is_dir():
                self._discard_if_without_results()
            raise

    def _discard_if_without_results(self) -> None:
        if {path.name for path in self.path.iterdir()} <= WRITTEN_BEFORE_TRAINING:
            for name in WRITTEN_BEFORE_TRAINING - {LOCK_NAME}:
                (self.path / name).unlink(missing_ok=True)
            self.discard_if_empty()

    @classmethod
    def release_all(cls) -> None:
        """Release every folder that this process has claimed."""
        for state in cls._states.values():
            state.release()

    # ------------------------------------------------------------------ writing

    def save_config(self) -> None:
        """Claim the folder and write ``config.yml`` into it, atomically; call `note_if_same_run` before.

        Raises:
            SplatkitError: the folder cannot be written, belongs to a running run, or to one that ended and is not
                resumed.
        """
        self.claim()
        path, text = self.path / "config.yml", yaml.dump(self._config)
        checkpoints = checkpoint_paths(self._checkpoint_dir)
        if checkpoints and not self.is_continued and not self._loads_from_here():
            raise SplatkitError(
                f"{self.path} holds another run, of {len(checkpoints)} checkpoint(s) and with other settings, which "
                f"this one would overwrite. To go on with it, add --load-dir {quoted(self._checkpoint_dir)} for the "
                f"settings of this command, or --load-config {quoted(path)} for its own. To start anew: another "
                "--timestamp, or none."
            )
        CONSOLE.log(f"Saving config to: {escape(str(path))}")
        self._state.has_new_config = not path.exists()
        note_if_unreadable(path, text)
        try:
            atomic_write_text(path, text)
        except OSError as error:
            raise self.write_error(error) from error

    def store_fitted(self) -> None:
        """Put the settings that have been fitted to the scene into ``config.yml``, if there is one that can be read.

        Raises:
            SplatkitError: the folder cannot be written.
        """
        path, config = self.path / "config.yml", self._config
        try:
            stored = parse_config(path.read_text("utf-8"), trust=packages_named(yaml.dump(config)))
        except Exception:  # loading a file with other content can raise any exception
            return
        for name in ("max_num_iterations", "full_length", "optimizers"):
            setattr(stored, name, getattr(config, name))
        stored.pipeline.model = config.pipeline.model
        try:
            atomic_write_text(path, yaml.dump(stored))
        except OSError as error:
            raise self.write_error(error) from error

    def write_transform(self, outputs: Any) -> None:
        """Write ``dataparser_transforms.json``, with which nerfstudio's commands undo the placement of the scene.

        Raises:
            SplatkitError: the folder cannot be written.
        """
        content = {"transform": outputs.dataparser_transform.tolist(), "scale": float(outputs.dataparser_scale)}
        try:
            atomic_write_text(self.path / "dataparser_transforms.json", json.dumps(content, indent=4))
        except OSError as error:
            raise self.write_error(error) from error

    def keep_files(self) -> None:
        """Keep in memory what was written before training, and a resume or ``ns-eval`` needs, for `put_back`."""
        self._state.kept = KeptFiles(self.path, WRITTEN_BEFORE_TRAINING - {LOCK_NAME})

    def put_back(self) -> None:
        """Write kept files again that are gone, and claim the folder again if it has been deleted or moved.

        A rank of several claims it for itself then, in place of the process that has started it.

        Raises:
            SplatkitError: another run has claimed the folder meanwhile.
            OSError: a file cannot be written.
        """
        if self._has_lost_claim():
            lock, self._state.lock = self._state.lock, FolderLock.acquire(self._real_path)
            if lock is not None:
                lock.release()
        if self._state.kept is not None:
            self._state.kept.put_back()

    def _has_lost_claim(self) -> bool:
        """Whether this process, or the one that has started it, had claimed the folder that is now gone from here."""
        lock, theirs = self._state.lock, self._state.starters_lock
        if lock is not None and not lock.is_inherited:
            return not lock.is_in_place
        try:
            return theirs is not None and not os.path.samestat(theirs, (self._real_path / LOCK_NAME).stat())
        except OSError:
            return True

    def write_error(self, error: OSError) -> SplatkitError:
        """The error to raise if a file of the folder cannot be written."""
        return _write_error(self.path, error)

    def _loads_from_here(self) -> bool:
        """Whether the config names a checkpoint of this folder to load."""
        sources = [self._config.load_dir, self._config.load_checkpoint and Path(self._config.load_checkpoint).parent]
        wanted = os.path.realpath(self._checkpoint_dir)
        return any(source is not None and os.path.realpath(source) == wanted for source in sources)


atexit.register(RunFolder.release_all)


def _write_error(folder: Path, error: OSError) -> SplatkitError:
    return SplatkitError(
        f"The run's folder {folder} cannot be written: {error.strerror or error}. Choose another with --output-dir, "
        "or check permissions and free space."
    )
