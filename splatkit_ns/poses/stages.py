"""The stages that COLMAP does, in a process of their own: ``python -m splatkit_ns.poses.stages``.

COLMAP ends its process if something goes wrong in one of its threads, such as a full disk; this way the command is left
to say so. And a process may hold only one copy of SQLite that has a database open: a second one would undo the locks of
the first. So no other process reads the database while a stage runs.

The job comes as JSON from the standard input. Lines of JSON go to the standard output: ``{"done": 12}`` twice a second,
and at the end ``{"error": "…"}`` if the stage has failed. COLMAP's log goes to the standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5
CENTRED_BY = 20
"""The pictures of each camera that determine where its optical axis meets the picture."""
FARTHEST_CENTRE = 0.1

Work = Callable[[], object]
Count = Callable[[], int]


def find_features(colmap: Any, job: dict[str, Any]) -> tuple[Work, Count]:
    """Extract the features of all pictures that have none yet.

    Args:
        colmap: the package.
        job: ``database``, ``images`` (folder), ``threads``, ``device``, ``feature_size`` and ``cameras``, each with
            ``names`` of pictures, ``model`` and ``focal_factor`` (None: COLMAP's own).
    """
    database = Path(job["database"])
    ids = _camera_ids(colmap, database, job)
    options = colmap.FeatureExtractionOptions()
    options.num_threads = job["threads"]
    options.max_image_size = job["feature_size"]

    def work() -> None:
        for number, camera in zip(ids, job["cameras"], strict=True):
            reader = colmap.ImageReaderOptions()
            reader.existing_camera_id = number
            colmap.extract_features(
                database, job["images"], image_names=camera["names"], reader_options=reader,
                extraction_options=options, device=getattr(colmap.Device, job["device"]),
            )  # fmt: skip

    return work, colmap.Database.open(database).num_images


def _camera_ids(colmap: Any, database: Path, job: dict[str, Any]) -> list[int]:
    """The ids of the cameras in the database, which are written if it is new."""
    if database.exists():
        with colmap.Database.open(database) as opened:
            ids = sorted(int(camera.camera_id) for camera in opened.read_all_cameras())
        if len(ids) == len(job["cameras"]):
            return ids
        database.unlink()  # killed while the cameras were written
    ids: list[int] = []
    with colmap.Database.open(database) as opened:
        for camera in job["cameras"]:
            reader = colmap.ImageReaderOptions()
            reader.camera_model = camera["model"]
            if camera["focal_factor"] is not None:
                reader.default_focal_length_factor = camera["focal_factor"]
            first = Path(job["images"]) / camera["names"][0]
            inferred = colmap.infer_camera_from_image(first, reader)
            if camera["focal_factor"] is not None:  # COLMAP matches no pictures of a fisheye of unknown focal length
                inferred.has_prior_focal_length = True
            ids.append(int(opened.write_camera(inferred)))
    return ids


def compare(colmap: Any, job: dict[str, Any]) -> tuple[Work, Count]:
    """Compare pairs of pictures.

    Args:
        colmap: the package.
        job: ``database``, ``pairs`` (a file with two names a line), ``threads``, ``device``.
    """
    options = colmap.FeatureMatchingOptions()
    options.num_threads = job["threads"]
    pairing = colmap.ImportedPairingOptions()
    pairing.match_list_path = job["pairs"]
    opened = colmap.Database.open(job["database"])
    before = opened.num_matched_image_pairs()

    def work() -> None:
        colmap.match_image_pairs(
            job["database"], matching_options=options, pairing_options=pairing,
            device=getattr(colmap.Device, job["device"]),
        )  # fmt: skip

    return work, lambda: opened.num_matched_image_pairs() - before


def find_poses(colmap: Any, job: dict[str, Any]) -> tuple[Work, Count]:
    """Find poses and points, and write the models as folders 0, 1, …

    Args:
        colmap: the package.
        job: ``database``, ``images`` (folder), ``models`` (an empty folder), ``threads`` and ``two_view_tracks``
            (whether points that only two pictures show are kept).
    """
    options = colmap.IncrementalPipelineOptions()
    options.num_threads = job["threads"]
    options.random_seed = 0
    options.triangulation.ignore_two_view_tracks = not job["two_view_tracks"]
    posed = [0]

    def first_pair() -> None:
        posed[0] = 2

    def next_image() -> None:
        posed[0] += 1

    def work() -> None:
        colmap.incremental_mapping(
            job["database"], job["images"], job["models"], options=options, initial_image_pair_callback=first_pair,
            next_image_callback=next_image,
        )  # fmt: skip
        for folder in sorted(Path(job["models"]).iterdir()):
            refine_centres(colmap, folder)

    return work, lambda: posed[0]


def refine_centres(colmap: Any, folder: Path) -> None:
    """Adjust a model once more, this time with the centres of its cameras, which mapping leaves in the middle.

    Few pictures do not tell a shifted centre from a turned camera, so that a model is left as it is if one of its
    cameras has less than `CENTRED_BY` pictures, or if a centre would move by more than `FARTHEST_CENTRE` of a side.

    Args:
        colmap: the package.
        folder: of the model, which is written anew.
    """
    model = colmap.Reconstruction(str(folder))
    counts = Counter(image.camera_id for image in model.images.values() if image.has_pose)
    if not counts or min(counts.values()) < CENTRED_BY:
        return
    options = colmap.BundleAdjustmentOptions()
    options.refine_principal_point = True
    options.print_summary = False
    colmap.bundle_adjustment(model, options)
    for camera_id in counts:
        camera = model.cameras[camera_id]
        shifts = (
            (camera.principal_point_x - camera.width / 2) / camera.width,
            (camera.principal_point_y - camera.height / 2) / camera.height,
        )
        if not all(abs(shift) <= FARTHEST_CENTRE for shift in shifts):  # NaN, too
            return
    model.write(str(folder))


STAGES = {"features": find_features, "matches": compare, "poses": find_poses}


def main() -> None:
    """Do one stage; the process ends without Python's usual clean-up, which waits for COLMAP's threads."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints
    job = json.load(sys.stdin)
    failure: list[str] = []
    try:
        import pycolmap as colmap  # pyright: ignore[reportMissingImports]

        work, count = STAGES[job["stage"]](colmap, job)

        def run() -> None:
            try:
                work()
            except BaseException as error:
                failure.append(_described(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            print(json.dumps({"done": count()}), file=lines)
    except BrokenPipeError:  # the command has been killed
        os._exit(1)
    except Exception as error:
        failure.append(_described(error))
    if failure:
        print(json.dumps({"error": failure[0]}), file=lines)
    lines.flush()
    os._exit(1 if failure else 0)


def _described(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


if __name__ == "__main__":
    main()
