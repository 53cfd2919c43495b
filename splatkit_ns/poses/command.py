"""``splatkit poses``: from photographs or a video to a data set with camera poses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from splatkit_ns import ranges
from splatkit_ns.errors import SplatkitError, describe_os_error, listed
from splatkit_ns.files import atomic_write_text, quoted
from splatkit_ns.poses import database as db
from splatkit_ns.poses import diagnosis
from splatkit_ns.poses.adding import Source, add_pictures, find_source
from splatkit_ns.poses.colmap import Colmap, camera_groups, parallax, scene_of, write_model
from splatkit_ns.poses.drawing import draw
from splatkit_ns.poses.options import MIN_PICTURES, Matching, PosesOptions
from splatkit_ns.poses.pairs import choose_matching, pairs_of
from splatkit_ns.poses.pictures import Picture
from splatkit_ns.poses.progress import SHOWN_NAMES, Watch, bar
from splatkit_ns.poses.scene import Scene, write_points, write_transforms
from splatkit_ns.poses.workspace import Workspace, opened
from splatkit_ns.printing import say, warn

LEFT_OUT = "left_out.txt"
FEW_FEATURES = 2000
"""If pictures have fewer features than this in the median, points that only two of them show are kept, too. On 50
pictures of 180×320, with 608 features each, training then starts from 58 % more points, with poses as accurate, and is
0.3 dB better after 700 steps."""
POINTS_PER_PICTURE = 10
"""A model with fewer points than this for each picture has poses by chance, such as of a camera that only turned."""
SMALL_PARALLAX = 10.0
"""Degrees: if the points of a model are seen from directions that differ more, the camera has moved, also if most pairs
show none, as those of a slow video or of walls do."""


def make_poses(options: PosesOptions, console: Console | None = None) -> Path:
    """Compute the poses that the options describe.

    Args:
        options: see `PosesOptions`.
        console: the output for progress and figures; None means the terminal.

    Returns:
        The data set's folder.

    Raises:
        SplatkitError: options, pictures or the folder do not allow it; the message says how to change that.
    """
    console = console or Console()
    ranges.check(options, shown=ranges.flag)
    colmap = Colmap(options)
    try:
        source = find_source(options)
        with opened(options.output, options.source, source.fingerprint, overwrite=options.overwrite) as workspace:
            _compute(options, source, workspace, colmap, console)
    except OSError as error:
        raise SplatkitError(f"--output {options.output}: {describe_os_error(error)}.") from error
    return options.output


def _compute(options: PosesOptions, source: Source, work: Workspace, colmap: Colmap, console: Console) -> None:
    pictures = work.pictures
    if pictures is None:
        work.forget_features()
        pictures = add_pictures(options, source, work, console)
    else:
        say(console, f"Pictures: the {len(pictures)} in {work.images} of an earlier run")
    matching = choose_matching(options.matching, pictures, source.video is not None)
    _find_features(options, pictures, work, colmap, console)
    _match(pictures, matching, work, colmap, console)
    models = _find_poses(options, pictures, matching, work, colmap, console)
    counts = db.feature_counts(work.database)
    pairs = db.matched_pairs(work.database)
    if not models or not _is_usable(models[0]):
        raise SplatkitError(f"No poses were found. {diagnosis.explain(counts, pairs, matching, colmap.feature_size)}")
    scene = scene_of(models[0])
    _write(scene, models[0], work, len(pictures))
    _report(scene, models, pictures, work, console)
    if 2 * len(scene.pictures) < len(pictures):
        advice = diagnosis.explain(counts, pairs, matching, colmap.feature_size)
        warn(console, f"More than half of the pictures have no pose. {advice}")
    elif parallax(models[0]) < SMALL_PARALLAX and (turning := diagnosis.only_turns(pairs)):
        warn(console, f"The poses may be wrong. {turning}")
    say(console, f"Train on it with: ns-train splatkit-3dgs --data {quoted(work.output)}")


def _is_usable(model: Any) -> bool:
    posed = model.num_reg_images()
    return posed >= MIN_PICTURES and model.num_points3D() >= POINTS_PER_PICTURE * posed


# ------------------------------------------------------------------------------------------------------------- stages


def _find_features(
    options: PosesOptions, pictures: Sequence[Picture], work: Workspace, colmap: Colmap, console: Console
) -> None:
    watch = Watch()
    if not work.keep_if("features", [options.lens, options.cameras, colmap.feature_size, colmap.version]):
        work.forget_features()
    work.save()
    done = db.count_features(work.database)
    groups = camera_groups(pictures, options.cameras == "each")
    with bar(console, "Features", len(pictures)) as report:
        colmap.find_features(work.database, work.images, pictures, groups, options.lens, report)
    counts = db.feature_counts(work.database).values()
    before = f", {done} of an earlier run" if done else ""
    say(
        console,
        f"Features: {round(median(counts)) if counts else 0:,} in the middle picture, at up to "
        f"{colmap.feature_size} pixels; {len(groups)} camera(s){before}; {watch.shown()}",
    )


def _match(pictures: Sequence[Picture], matching: Matching, work: Workspace, colmap: Colmap, console: Console) -> None:
    watch = Watch()
    pairs = pairs_of(matching, pictures)
    done = db.count_pairs(work.database)
    with bar(console, "Matches", len(pairs)) as report:
        colmap.compare(work.database, pictures, pairs, report)
    matched = db.matched_pairs(work.database)
    enough = sum(pair.matches >= diagnosis.ENOUGH_MATCHES for pair in matched)
    before = f", {done} of them of an earlier run" if done else ""
    say(console, f"Matches: {enough:,} of {len(matched):,} pairs ({matching}){before}; {watch.shown()}")


def _find_poses(
    options: PosesOptions, pictures: Sequence[Picture], matching: Matching, work: Workspace, colmap: Colmap,
    console: Console,
) -> list[Any]:  # fmt: skip
    watch = Watch()
    if not work.keep_if("models", [matching, db.count_pairs(work.database), len(pictures), options.cameras]):
        work.forget_models()
    work.save()
    few = median(db.feature_counts(work.database).values() or [0]) < FEW_FEATURES
    if not work.models.exists():
        if diagnosis.only_turns(db.matched_pairs(work.database)):
            warn(console, "Hardly any pair shows parallax, so the search for poses may take minutes and find none.")
        with bar(console, "Poses", len(pictures)) as report:
            colmap.find_poses(work.database, work.images, work.models, report, two_view_tracks=few)
    models = colmap.read(work.models)
    if models:
        best = models[0]
        say(
            console,
            f"Poses: {best.num_reg_images()} of {len(pictures)} pictures, {best.num_points3D():,} points, "
            f"{best.compute_mean_reprojection_error():.2f} pixels of mean error; {watch.shown()}",
        )
    return models


# -------------------------------------------------------------------------------------------------------------- results


def _write(scene: Scene, model: Any, work: Workspace, num_pictures: int) -> None:
    """Write the data set, ``transforms.json`` last."""
    write_model(model, work.output / "sparse" / "0")
    write_points(scene, work.output / "sparse_pc.ply")
    title = (
        f"{work.output.resolve().name}: {len(scene.pictures)} of {num_pictures} cameras, {len(scene.points):,} points"
    )
    draw(scene, title, work.output / "cameras.png")
    write_transforms(scene, work.images.relative_to(work.output).as_posix(), work.output / "transforms.json")


def _report(
    scene: Scene, models: Sequence[Any], pictures: Sequence[Picture], work: Workspace, console: Console
) -> None:
    """Name the files, and the pictures that were left out."""
    say(console, f"{work.output}: transforms.json, sparse_pc.ply, sparse/0, and cameras.png to look at")
    lines = left_out_lines(scene, models, pictures)
    path = work.output / LEFT_OUT
    if not lines:
        path.unlink(missing_ok=True)
        return
    atomic_write_text(path, "".join(f"{line}\n" for line in lines))
    where = f" All are in {path}." if len(lines) > SHOWN_NAMES else ""
    warn(console, f"{len(lines)} picture(s) are left out, without a pose: {listed(lines, SHOWN_NAMES)}.{where}")


def left_out_lines(scene: Scene, models: Sequence[Any], pictures: Sequence[Picture]) -> list[str]:
    """The pictures that are not in the scene, and the part of the scene that has them, if COLMAP found several.

    Args:
        scene: the largest model.
        models: pycolmap's, the largest first.
        pictures: all pictures.
    """
    posed = {picture.name for picture in scene.pictures}
    parts: dict[str, int] = {}
    for number, model in enumerate(models[1:], start=2):
        for image in model.images.values():
            if image.has_pose:
                parts.setdefault(str(image.name), number)
    return [
        picture.source + (f" (in part {parts[picture.name]} of the scene)" if picture.name in parts else "")
        for picture in pictures
        if picture.name not in posed
    ]
