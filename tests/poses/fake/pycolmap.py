"""A stand-in for pycolmap with its names: the command around it is tested, not what COLMAP finds.

Pictures get features and pairs get matches at a fixed rate, and mapping puts the cameras on a ring. What it finds, and
when it fails, is set by ``FAKE_COLMAP``, a JSON object in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__version__ = "4.2.0"
has_cuda = False
Device = SimpleNamespace(auto="auto", cpu="cpu", cuda="cuda")
MAX_IMAGES = 2147483647
TABLES = (
    "CREATE TABLE IF NOT EXISTS cameras (camera_id INTEGER PRIMARY KEY, model TEXT, prior_focal_length INTEGER)",
    "CREATE TABLE IF NOT EXISTS images (image_id INTEGER PRIMARY KEY, name TEXT UNIQUE, camera_id INTEGER)",
    "CREATE TABLE IF NOT EXISTS keypoints (image_id INTEGER PRIMARY KEY, rows INTEGER)",
    "CREATE TABLE IF NOT EXISTS matches (pair_id INTEGER PRIMARY KEY, rows INTEGER)",
    "CREATE TABLE IF NOT EXISTS two_view_geometries (pair_id INTEGER PRIMARY KEY, rows INTEGER, config INTEGER)",
)


class CancellationToken:
    """Is looked for to see whether this is new enough."""


class _Options(SimpleNamespace):
    model = "SIMPLE_RADIAL"
    triangulation = SimpleNamespace()


ImageReaderOptions = FeatureExtractionOptions = FeatureMatchingOptions = _Options
ImportedPairingOptions = IncrementalPipelineOptions = _Options


def _settings() -> dict[str, Any]:
    return json.loads(os.environ.get("FAKE_COLMAP", "{}"))


def _fail(stage: str, done: int) -> None:
    """Fail as the settings say, after so many of this process."""
    settings = _settings()
    if settings.get("stage") != stage or done < settings.get("after", 0):
        return
    if settings["how"] == "raise":
        raise ValueError("the disk is  full.")
    if settings["how"] == "abort":
        os.write(2, b"terminate called\n  what():  [database.cc:1] SQLite error: disk full\n")
        os.abort()
    if settings["how"] == "hang":
        Path(settings["mark"]).write_text(str(os.getpid()))
        time.sleep(120)


class Database:
    """A connection; its functions are those that are used."""

    def __init__(self, path: Any) -> None:
        self._path = str(path)
        with self._connected() as connection:
            for table in TABLES:
                connection.execute(table)

    @contextlib.contextmanager
    def _connected(self) -> Any:
        with contextlib.closing(sqlite3.connect(self._path)) as connection, connection:
            yield connection

    @classmethod
    def open(cls, path: Any) -> Database:
        return cls(path)

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, query: str, *values: Any) -> list[Any]:
        with self._connected() as connection:
            return connection.execute(query, values).fetchall()

    def num_images(self) -> int:
        return self.run("SELECT COUNT(*) FROM images")[0][0]

    def num_matched_image_pairs(self) -> int:
        return self.run("SELECT COUNT(*) FROM matches")[0][0]

    def read_all_cameras(self) -> list[Any]:
        return [SimpleNamespace(camera_id=row[0]) for row in self.run("SELECT camera_id FROM cameras")]

    def write_camera(self, camera: Any) -> int:
        values = (camera.model, int(camera.has_prior_focal_length))
        self.run("INSERT INTO cameras (model, prior_focal_length) VALUES (?, ?)", *values)
        return self.run("SELECT MAX(camera_id) FROM cameras")[0][0]


def infer_camera_from_image(path: Any, options: Any) -> Any:
    assert Path(path).is_file()
    return SimpleNamespace(model=options.camera_model, has_prior_focal_length=False)


def extract_features(
    database: Any, images: Any, *, image_names: list[str], reader_options: Any, extraction_options: Any, device: Any
) -> None:
    opened = Database(database)
    known = {name for (name,) in opened.run("SELECT name FROM images")}
    rows = _settings().get("features", 500)
    for done, name in enumerate(name for name in image_names if name not in known):
        _fail("features", done)
        assert (Path(images) / name).is_file()
        opened.run("INSERT INTO images (name, camera_id) VALUES (?, ?)", name, reader_options.existing_camera_id)
        opened.run("INSERT INTO keypoints SELECT image_id, ? FROM images WHERE name = ?", rows, name)
        sys.stderr.write(f"extracted {name}\n")


def match_image_pairs(database: Any, *, matching_options: Any, pairing_options: Any, device: Any) -> None:
    opened = Database(database)
    ids = dict(opened.run("SELECT name, image_id FROM images"))
    settings = _settings()
    for done, line in enumerate(Path(pairing_options.match_list_path).read_text().splitlines()):
        _fail("matches", done)
        first, second = sorted(ids[name] for name in line.split(" "))
        pair, rows = first * MAX_IMAGES + second, settings.get("matches", 100)
        opened.run("INSERT INTO matches VALUES (?, ?)", pair, rows)
        opened.run("INSERT INTO two_view_geometries VALUES (?, ?, ?)", pair, rows, settings.get("config", 3))


def incremental_mapping(
    database: Any, images: Any, models: Any, *, options: Any, initial_image_pair_callback: Any, next_image_callback: Any
) -> None:
    rows = Database(database).run("SELECT name, images.camera_id, model FROM images JOIN cameras USING (camera_id)")
    _fail("poses", 0)
    rows.sort()
    start = 0
    for number, size in enumerate(_settings().get("models", [len(rows)])):
        folder = Path(models) / str(number)
        folder.mkdir()
        chosen = rows[start : start + size]
        start += size
        (folder / "model.json").write_text(json.dumps(chosen))
        initial_image_pair_callback()
        for _ in chosen[2:]:
            next_image_callback()


class Reconstruction:
    """A model: cameras on a ring that look inwards, and points in the middle."""

    def __init__(self, folder: Any) -> None:
        self._rows = json.loads((Path(folder) / "model.json").read_text())
        sizes = {"OPENCV": 8, "OPENCV_FISHEYE": 8, "SIMPLE_RADIAL": 4}
        values = (50.0, 50.0, 32.0, 24.0, 0.0, 0.0, 0.0, 0.0)
        self.cameras = {
            number: SimpleNamespace(
                model=SimpleNamespace(name=model), width=64, height=48, params=values[: sizes[model]]
            )
            for _, number, model in self._rows
        }
        self.images = {
            index: SimpleNamespace(name=name, camera_id=number, has_pose=True, cam_from_world=self._pose(index))
            for index, (name, number, _) in enumerate(self._rows)
        }
        points = np.random.default_rng(0).normal(size=(_settings().get("points", 100), 3))
        track = SimpleNamespace(elements=[SimpleNamespace(image_id=index) for index in self.images])
        self.points3D = {
            index: SimpleNamespace(xyz=point, color=[1, 2, 3], track=track) for index, point in enumerate(points)
        }

    def _pose(self, index: int) -> Any:
        turn = _settings().get("turn", 0.1) * index
        rotation = [[np.cos(turn), 0, np.sin(turn), 0], [0, 1, 0, 0], [-np.sin(turn), 0, np.cos(turn), 3]]
        return lambda: SimpleNamespace(matrix=lambda: np.array(rotation))

    def num_reg_images(self) -> int:
        return len(self._rows)

    def num_points3D(self) -> int:
        return len(self.points3D)

    def compute_mean_reprojection_error(self) -> float:
        return 0.5

    def write(self, folder: Any) -> None:
        (Path(folder) / "images.bin").write_text(json.dumps(self._rows))
