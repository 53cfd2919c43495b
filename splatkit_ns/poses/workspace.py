"""The output folder of ``splatkit poses``: what is there already, and what of an unfinished run can be used."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from splatkit_ns.errors import SplatkitError, listed
from splatkit_ns.files import atomic_write_text
from splatkit_ns.poses.pictures import Picture

WORK = "poses_work"
"""The folder of what only resuming needs, in the output folder."""
STATE = "state.json"
IMAGES = "images"
RESULTS = ("transforms.json", "sparse_pc.ply", "sparse", "cameras.png")
"""The files of a finished run; the first is written last."""


class Workspace:
    """The output folder while poses are computed; made by `opened`."""

    def __init__(self, output: Path, state: dict[str, Any]) -> None:
        self.output = output
        self._state = state

    @property
    def work(self) -> Path:
        """The folder of the intermediate results."""
        return self.output / WORK

    @property
    def database(self) -> Path:
        """COLMAP's database: features and matches."""
        return self.work / "database.db"

    @property
    def models(self) -> Path:
        """COLMAP's models, in folders 0, 1, …; it exists once mapping has ended."""
        return self.work / "models"

    @property
    def images(self) -> Path:
        """The folder of the pictures, once they are there."""
        return self.output / str(self._state.get("images", IMAGES))

    @property
    def pictures(self) -> list[Picture] | None:
        """The pictures of the data set; None if not all are in their folder."""
        found = self._state.get("pictures")
        if found is None or not all((self.images / entry["name"]).is_file() for entry in found):
            return None
        return [_picture(entry) for entry in cast(list[dict[str, Any]], found)]

    @contextmanager
    def new_images(self) -> Generator[Path]:
        """An empty folder for pictures, which gets its name in the data set if all has gone well.

        The name is ``images``, or ``pictures`` if the user has an ``images`` of another kind.
        """
        part = self.work / "images.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        self._delete_images()
        name = next(
            name for name in (IMAGES, "pictures", *map("pictures_{}".format, range(2, 1000))) if self._is_free(name)
        )
        part.rename(self.output / name)
        self._state.update(images=name, made_images=True)

    def _is_free(self, name: str) -> bool:
        return not (self.output / name).exists()

    def use_images(self, name: str) -> None:
        """Use a folder of the user's as it is."""
        self._state.update(images=name, made_images=False)

    def set_pictures(self, pictures: Sequence[Picture]) -> None:
        """Record that all these pictures are in the folder `images`."""
        self._state["pictures"] = [asdict(picture) for picture in pictures]
        self.save()

    def keep_if(self, stage: str, settings: object) -> bool:
        """Whether a stage's earlier results were made with these settings; they are recorded by the next `save`.

        Args:
            stage: its name.
            settings: anything that JSON can hold.
        """
        settings = json.loads(json.dumps(settings))
        is_same = stage in self._state and self._state[stage] == settings
        self._state[stage] = settings
        return is_same

    def forget_features(self) -> None:
        """Delete features, matches and models."""
        for path in self.work.glob("database.db*"):
            path.unlink()
        self.forget_models()

    def forget_models(self) -> None:
        """Delete the models."""
        shutil.rmtree(self.models, ignore_errors=True)

    def forget_all(self) -> None:
        """Delete all that an earlier run has made, but the results, and its record."""
        self.forget_features()
        self._delete_images()
        self._state.clear()

    def _delete_images(self) -> None:
        """Delete the pictures that an earlier run has put here, and no other file."""
        if not self._state.get("made_images"):
            return
        for entry in self._state.get("pictures") or ():
            (self.images / entry["name"]).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.images, topdown=False):
            with contextlib.suppress(OSError):  # a file of the user's is in it
                Path(folder).rmdir()

    def save(self) -> None:
        """Write the record of what has been done.

        Raises:
            OSError: it cannot be written.
        """
        atomic_write_text(self.work / STATE, json.dumps(self._state, indent=1))


@contextmanager
def opened(output: Path, source: Path, fingerprint: str, *, overwrite: bool) -> Generator[Workspace]:
    """Open the output folder; it is made if it does not exist.

    Args:
        output: the data set's folder.
        source: the photographs' folder or the video; it may lie in `output`.
        fingerprint: differs if the pictures differ.
        overwrite: whether the results of a finished run may be replaced, and those of an unfinished one dropped.

    Raises:
        SplatkitError: the folder holds files of others, or results that may not be replaced, or another process works
            in it.
        OSError: it cannot be written.
    """
    _check_usable(output, source, fingerprint, overwrite)  # before a folder is made
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        state = _check_usable(output, source, fingerprint, overwrite)  # another process may have worked here meanwhile
        workspace = Workspace(output, state)
        if state and state.get("fingerprint") != fingerprint:
            workspace.forget_all()
        elif state and _is_complete(output):
            workspace.forget_models()
        workspace.keep_if("fingerprint", fingerprint)
        workspace.keep_if("source", str(source))
        workspace.save()
        yield workspace


def _check_usable(output: Path, source: Path, fingerprint: str, overwrite: bool) -> dict[str, Any]:
    """The record of an earlier run in the folder; see `opened` for arguments and errors."""
    if output.exists() and not output.is_dir():
        raise SplatkitError(f"--output: {output} is a file; name a folder.")
    state = _read_state(output)
    if not state:
        _check_empty(output, source)
    elif overwrite:
        return state
    elif _is_complete(output):
        raise SplatkitError(
            f"--output: {output} holds poses already, of {state.get('source')}. Name another folder, or add "
            "--overwrite to compute them anew."
        )
    elif state.get("fingerprint") != fingerprint:
        raise SplatkitError(
            f"--output: {output} holds an unfinished run on other pictures, of {state.get('source')}, or they have "
            "changed. Name another folder, or add --overwrite to start anew."
        )
    return state


def _is_complete(output: Path) -> bool:
    return (output / RESULTS[0]).exists()


def _picture(entry: dict[str, Any]) -> Picture:
    entry = dict(entry)
    place = entry.pop("gps")
    return Picture(**entry, gps=(place[0], place[1]) if place else None)


def fingerprint_of(files: Sequence[Path], *settings: object) -> str:
    """A text that differs if names, sizes or times of the files differ, or the settings."""
    entries = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((entries, settings)).encode()).hexdigest()


def _read_state(output: Path) -> dict[str, Any]:
    """The record of an earlier run; empty if there is none."""
    path = output / WORK / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SplatkitError(f"{path} cannot be read ({error}): delete the folder {path.parent}.") from error
    if not isinstance(state, dict):
        raise SplatkitError(f"{path} is no record of splatkit poses: delete the folder {path.parent}.")
    return state


def _check_empty(output: Path, source: Path) -> None:
    """Check that nothing is in the folder but the photographs or the video."""
    if not output.is_dir():
        return
    own = source.resolve()
    others = [
        entry.name
        for entry in sorted(output.iterdir())
        if entry.name != WORK and entry.resolve() != own and entry.resolve() not in own.parents
    ]
    if own == output.resolve():
        raise SplatkitError(
            f"--output: {output} is the folder of the photographs; name another one, such as {output}_poses."
        )
    if others:
        held = listed(others, most=5)
        raise SplatkitError(f"--output: {output} is not empty (it holds {held}). Name a new folder, or an empty one.")


@contextmanager
def _locked(work: Path) -> Generator[None]:
    """Keep other processes out of a folder; the system ends the lock with the process."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SplatkitError(
                f"Another splatkit poses is working in {work.parent}. Wait for it, or name another --output."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
