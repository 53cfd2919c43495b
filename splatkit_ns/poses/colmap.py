"""COLMAP's Python package as the command uses it: its stages run in processes of their own, its models are read here.

A killed process loses little: each image and each pair is in the database as soon as it is done.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splatkit_ns.errors import SplatkitError
from splatkit_ns.poses import database as db
from splatkit_ns.poses.options import Lens, PosesOptions
from splatkit_ns.poses.pairs import Pair
from splatkit_ns.poses.pictures import Picture
from splatkit_ns.poses.progress import Report
from splatkit_ns.poses.scene import Intrinsics, PosedPicture, Scene

CPU_FEATURE_SIZE, GPU_FEATURE_SIZE = 1600, 3200
"""Pixels of the longest side at which features are looked for."""
SHARED_BY = 5
"""The pictures of one camera that determine four coefficients of distortion; with fewer, one is estimated."""
FISHEYE_FOCAL_FACTOR = 0.45
"""The focal length to begin with, in longest sides: 127 degrees across."""
PARALLAX_POINTS = 2000
"""The points of a model that are looked at for its parallax."""
LOG = "colmap.log"
"""COLMAP's own log, beside the database."""
_WHAT = {"features": "finding features", "matches": "comparing pictures", "poses": "finding poses"}


class Colmap:
    """COLMAP with the settings of a run.

    Raises:
        SplatkitError: pycolmap is missing, too old, or cannot use the device.
    """

    def __init__(self, options: PosesOptions) -> None:
        self._colmap: Any = load_pycolmap()
        if options.device == "cuda" and not self._colmap.has_cuda:
            raise SplatkitError(
                "--device cuda: this pycolmap was built without CUDA. Replace it: pip uninstall pycolmap, then pip "
                "install pycolmap-cuda12; or use --device cpu."
            )
        has_gpu = self._colmap.has_cuda and options.device != "cpu"
        self.feature_size = options.feature_size or (GPU_FEATURE_SIZE if has_gpu else CPU_FEATURE_SIZE)
        self._resources = {"threads": options.threads or os.cpu_count() or 1, "device": options.device}

    @property
    def version(self) -> str:
        """The version of the package."""
        return str(self._colmap.__version__)

    def find_features(
        self, database: Path, images: Path, pictures: Sequence[Picture], groups: Sequence[Sequence[int]], lens: Lens,
        report: Report,
    ) -> None:  # fmt: skip
        """Extract the features of all pictures that have none in the database yet.

        Args:
            database: made if it does not exist.
            images: the folder of the pictures.
            pictures: the pictures.
            groups: indices of the pictures that share intrinsics; see `camera_groups`.
            lens: the kind of lens.
            report: is told how many pictures have features.

        Raises:
            SplatkitError: COLMAP failed.
        """
        cameras = [
            {
                "names": [pictures[index].name for index in group],
                "model": camera_model(lens, len(group)),
                "focal_factor": FISHEYE_FOCAL_FACTOR if lens == "fisheye" else None,
            }
            for group in groups
        ]
        self._run("features", database, report, images=str(images), cameras=cameras, feature_size=self.feature_size)

    def compare(self, database: Path, pictures: Sequence[Picture], pairs: Sequence[Pair], report: Report) -> None:
        """Compare the pairs that have not been compared yet.

        Args:
            database: has the features of all pictures.
            pictures: the pictures.
            pairs: indices of pictures.
            report: is told how many of these pairs have been compared.

        Raises:
            SplatkitError: COLMAP failed.
        """
        remaining = remaining_pairs(database, [picture.name for picture in pictures], pairs)
        if not remaining:
            return
        listed = database.with_name("pairs.txt")
        listed.write_text("".join(f"{pictures[a].name} {pictures[b].name}\n" for a, b in remaining), encoding="utf-8")
        before = len(pairs) - len(remaining)
        self._run("matches", database, lambda done: report(before + done), pairs=str(listed))

    def find_poses(
        self, database: Path, images: Path, models: Path, report: Report, *, two_view_tracks: bool = False
    ) -> None:
        """Find the poses, and write all models that COLMAP finds as folders 0, 1, …

        Args:
            database: has features and matches.
            images: the folder of the pictures, for the colours of points.
            models: the folder to make; it is there once all is done.
            report: is told how many pictures have a pose.
            two_view_tracks: whether points that only two pictures show are kept.

        Raises:
            SplatkitError: COLMAP failed.
        """
        part = models.with_name(f"{models.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        self._run("poses", database, report, images=str(images), models=str(part), two_view_tracks=two_view_tracks)
        part.rename(models)

    def read(self, models: Path) -> list[Any]:
        """The models in a folder, the one with the most poses first, as pycolmap's own objects."""
        found = [self._colmap.Reconstruction(path) for path in sorted(models.iterdir())]
        return sorted(found, key=lambda model: (-model.num_reg_images(), -model.num_points3D()))

    def _run(self, stage: str, database: Path, report: Report, **more: Any) -> None:
        """Do a stage in a process of its own, which ends with this one."""
        job = {"stage": stage, "database": str(database), **self._resources, **more}
        log_path = database.with_name(LOG)
        error = ""
        with log_path.open("ab") as log:
            command = [sys.executable, "-m", "splatkit_ns.poses.stages"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            process = subprocess.Popen(  # in a session of its own: Ctrl-C reaches this process alone
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env=environment,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with process.stdin as file:
                    file.write(json.dumps(job).encode())
                for line in process.stdout:
                    message = json.loads(line)
                    if "done" in message:
                        report(message["done"])
                    error = message.get("error", error)
                status = process.wait()
            finally:
                process.kill()
                process.wait()
        if status != 0:
            raise SplatkitError(
                f"COLMAP stopped while {_WHAT[stage]}: {error or ended(status, log_path)}. Its log is {log_path}. "
                "Start the command again to go on; if that does not help, start anew with another --output."
            )


def ended(status: int, log: Path) -> str:
    """A phrase for the end of a process that reported no error.

    Args:
        status: as `subprocess` has it: negative for a signal.
        log: what it wrote.
    """
    if status == -signal.SIGKILL:
        return "it was killed, perhaps for lack of memory; --threads 1 or a smaller --feature-size needs less"
    reasons = [line for line in log.read_text(errors="replace").splitlines() if "what():" in line]
    if reasons:
        return reasons[-1].partition("what():")[2].strip()
    return f"it crashed ({signal.Signals(-status).name})" if status < 0 else f"it ended with status {status}"


def load_pycolmap() -> Any:
    """The package pycolmap.

    Raises:
        SplatkitError: it is missing, broken or too old.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        colmap: Any = importlib.import_module("pycolmap")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "pycolmap"
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise SplatkitError(
            f'Camera poses are computed by the package pycolmap, which {reason}: pip install "splatkit-ns[poses]". On '
            "an NVIDIA GPU, pip install pycolmap-cuda12 is faster."
        ) from error
    if not hasattr(colmap, "CancellationToken"):
        version = getattr(colmap, "__version__", "of an unknown version")
        raise SplatkitError(f"pycolmap {version} is too old: pip install --upgrade pycolmap.")
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # COLMAP's own handler prints addresses, as of a crash
    return colmap


def camera_model(lens: Lens, num_pictures: int) -> str:
    """The camera model of pictures that share intrinsics."""
    if lens == "fisheye":
        return "OPENCV_FISHEYE"
    return "OPENCV" if num_pictures >= SHARED_BY else "SIMPLE_RADIAL"


def camera_groups(pictures: Sequence[Picture], each: bool) -> list[list[int]]:
    """Indices of pictures that share intrinsics: of one size, camera, lens and focal length.

    Args:
        pictures: the pictures.
        each: whether every picture has its own.
    """
    groups: dict[object, list[int]] = {}
    for index, picture in enumerate(pictures):
        key = index if each else (picture.width, picture.height, picture.camera)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def remaining_pairs(database: Path, names: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that have not been compared yet, of pictures that are in the database.

    Args:
        database: COLMAP's.
        names: names of the pictures.
        pairs: indices of pictures.
    """
    ids = db.image_ids(database)
    done = {(pair.first, pair.second) for pair in db.matched_pairs(database)}
    remaining: list[Pair] = []
    for a, b in pairs:
        first, second = ids.get(names[a]), ids.get(names[b])
        if first is not None and second is not None and (min(first, second), max(first, second)) not in done:
            remaining.append((a, b))
    return remaining


def scene_of(model: Any) -> Scene:
    """A model of pycolmap's as plain values."""
    cameras = {
        int(number): Intrinsics(
            camera.model.name, int(camera.width), int(camera.height), tuple(float(value) for value in camera.params)
        )
        for number, camera in model.cameras.items()
    }
    pictures = [
        PosedPicture(str(image.name), int(image.camera_id), np.asarray(image.cam_from_world().matrix(), np.float64))
        for image in model.images.values()
        if image.has_pose
    ]
    points = list(model.points3D.values())
    return Scene(
        cameras,
        sorted(pictures, key=lambda picture: picture.name),
        np.array([point.xyz for point in points], np.float64).reshape(-1, 3),
        np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        float(model.compute_mean_reprojection_error()),
    )


def parallax(model: Any) -> float:
    """The angle, in degrees, between the directions from which a point in the middle of a model's points is seen: the
    median over `PARALLAX_POINTS` points of the largest angle between two of its directions."""
    centres: dict[int, NDArray[np.float64]] = {}
    for number, image in model.images.items():
        if image.has_pose:
            matrix = np.asarray(image.cam_from_world().matrix(), np.float64)
            centres[int(number)] = -matrix[:, :3].T @ matrix[:, 3]
    points = list(model.points3D.values())
    angles: list[float] = []
    for point in points[:: max(1, len(points) // PARALLAX_POINTS)]:
        to_cameras = np.array([centres[int(seen.image_id)] - point.xyz for seen in point.track.elements])
        directions = to_cameras / np.linalg.norm(to_cameras, axis=1, keepdims=True)
        angles.append(float(np.degrees(np.arccos(np.clip((directions @ directions.T).min(), -1, 1)))))
    return float(np.median(angles)) if angles else 0.0


def write_model(model: Any, folder: Path) -> None:
    """Write a model of pycolmap's as COLMAP's files, all at once, in place of an earlier one.

    Args:
        model: the model.
        folder: its parent is made if it does not exist.

    Raises:
        OSError: it cannot be written.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    model.write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
