"""Options of ``splatkit mesh``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from splatkit_ns import ranges
from splatkit_ns.errors import OptionsError
from splatkit_ns.files import folder_problem
from splatkit_ns.opening_options import DataFolder, Device, LoadStep, Trust
from splatkit_ns.ranges import Fraction, NonNegative, Positive

SUFFIXES = (".ply", ".obj", ".glb")
"""Formats of meshes, by the file's suffix."""
FrameName = Literal["nerfstudio", "dataset", "world"]


@dataclass
class MeshOptions:
    """Make a triangle mesh from a trained run.

    Depth is rendered from every training camera and fused into one coloured surface. Sizes are in the units of the
    frame that --frame names; those that are not given follow from the cameras, the seed points and the images' size.
    """

    load_config: Path
    """The run's config.yml."""
    output: Path | None = None
    """File to write: .ply, .obj or .glb; mesh.ply in the run's folder if not given."""
    overwrite: bool = False
    """Replace the file if there is one."""
    frame: FrameName = "nerfstudio"
    """nerfstudio: the frame of training, as ns-export writes it. dataset: the frame of the poses and points in the data
    set's files, such as transforms.json and sparse_pc.ply. world: the frame of COLMAP, or of another program that made
    the poses, before ns-process-data turned them."""
    up: Literal["y", "z", "minus-y"] = "z"
    """y: turn the mesh so that the frame's z axis, which is up in nerfstudio's, becomes y, which glTF, Blender's
    imports and most engines take for up. minus-y: so that it becomes -y, as in PLY files of Gaussians for viewers. z:
    the axes stay as they are."""
    voxel_size: Annotated[float | None, Positive] = None
    """Side of a voxel: finer ones show more detail, and noise, and take more memory. If not given, 1.5 times the width
    that a pixel covers on the surfaces."""
    truncation: Annotated[float | None, Positive] = None
    """The largest distance from a surface that is stored; surfaces that are nearer to each other than this may merge.
    If not given, 4 voxels."""
    depth_limit: Annotated[float | None, Positive] = None
    """Surfaces farther from a camera than this are left out. If not given, the diameter of the ring of cameras, or the
    distance within which nine tenths of the seed points lie, whichever is more."""
    min_accumulation: Annotated[float, Fraction] = 0.5
    """Pixels that the Gaussians cover less than this show no surface; 0 to 1."""
    keep_components: Annotated[int, NonNegative] = 50
    """The most connected pieces that are kept, the largest ones; 0 keeps any number."""
    min_component_share: Annotated[float, Fraction] = 0.001
    """The least share of all triangles that a piece needs to be kept; 0 to 1."""
    max_memory: Annotated[float | None, Positive] = None
    """GiB that may be used. If not given, 80 % of the free memory."""
    load_step: LoadStep = None
    data: DataFolder = None
    trust: Trust = ()
    device: Device = None


def check_options(options: MeshOptions) -> None:
    """Check everything that can be checked before a run is opened.

    Raises:
        OptionsError: names all the options that cannot be used.
    """
    problems = ranges.problems(options, shown=ranges.flag)
    if options.voxel_size and options.truncation and options.truncation < options.voxel_size:
        problems.append(
            f"--truncation is {options.truncation}, expected at least one voxel, which --voxel-size makes "
            f"{options.voxel_size}"
        )
    problems += _output_problems(options)
    if problems:
        raise OptionsError(problems)


def output_path(options: MeshOptions) -> Path:
    """The file of the mesh."""
    return options.load_config.parent / "mesh.ply" if options.output is None else options.output


def _output_problems(options: MeshOptions) -> list[str]:
    path = output_path(options)
    if path.suffix.lower() not in SUFFIXES:
        return [f"--output is {path}, expected a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"]
    if path.is_dir():
        return [f"--output is {path}, which is a folder; expected a file, such as {path / 'mesh.ply'}"]
    from splatkit_ns.formats.offset_files import side_file  # formats take a second to import: not for --help

    found = next((each for each in (path, side_file(path)) if each.exists() or each.is_symlink()), None)
    if found is not None and not options.overwrite:
        return [f"--output: {found} exists; name another file, or add --overwrite"]
    if options.output is not None:  # the run's own folder may be missing, which is told as such
        problem = folder_problem(path.parent)
        return [] if problem is None else [f"--output: {problem}"]
    return []
