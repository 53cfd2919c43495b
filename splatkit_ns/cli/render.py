"""``splatkit render``: images and videos of a run or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from splatkit_ns.opening_options import DataFolder, Device, LoadStep, Trust
from splatkit_ns.ranges import NonNegative, Positive, from_to, one_of

ImageKind = Literal["rgb", "depth", "alpha", "normals"]


@dataclass
class RenderOptions:
    """Draw images or a video of a run, or of a file of Gaussians in any format.

    Of a run, the camera moves where the photographs were taken: around the scene, to and fro if they leave out a side
    of it, or from place to place if they do not look at one. Of a file, it goes around the Gaussians. --camera-path
    and --cameras name other cameras.
    """

    output: Path
    """A video (.mp4, .mov, .mkv, .webm), an animation (.gif, .webp), a picture of a single frame (.png, .jpg), or a
    folder for one image a frame."""
    load_config: Path | None = None
    """The config.yml of a run."""
    input: Path | None = None
    """A file of Gaussians. With --load-config: one of that run, in nerfstudio's frame, to take in place of the run's
    own Gaussians."""
    images: tuple[ImageKind, ...] = ("rgb",)
    """The kinds of images. In a video they are side by side; in a folder each has a folder of its own. depth: colours
    from near (blue) to far (red). alpha: how opaque the Gaussians are together. normals: x, y and z of the world as
    red, green and blue."""
    camera_path: Path | None = None
    """A camera path that nerfstudio's viewer has saved (JSON), with its image size, speed and crop."""
    cameras: Literal["train", "test"] | None = None
    """The cameras of the run's training images, or of its held-out ones; images have the names of the photographs. With
    --frames: a smooth path of so many frames through them; 1 draws the first alone."""
    frames: Annotated[int | None, from_to(1, 100_000)] = None
    """The number of frames. If not given: 120, or as many as photographs, up to 600, if the camera goes from place to
    place."""
    fps: Annotated[float | None, from_to(0.01, 1000)] = None
    """Frames a second of a video or an animation. If not given, those of the camera path, or 30."""
    centre: tuple[float, float, float] | None = None
    """The point that the camera turns around and looks at. If not given: of a run, the point that its cameras look at;
    of a file, the middle of the Gaussians."""
    radius: Annotated[float | None, Positive] = None
    """The distance of the camera from this point. If not given: of a run, that of the cameras on the same side; of a
    file, one from which nearly all Gaussians are seen."""
    elevation: Annotated[float | None, from_to(-90, 90, lower_open=True, upper_open=True)] = None
    """The camera's angle above the point, in degrees. If not given: of a run, that of the cameras on the same side;
    of a file, 20."""
    turns: float | None = None
    """Turns around the point, counter-clockwise seen from above; below 0 the other way round. If not given: of a run,
    only where photographs were taken; of a file, 1."""
    up: Literal["y", "z", "minus-y"] | None = None
    """The axis that points upwards: z, as in all that nerfstudio exports, if not given."""
    fov: Annotated[float | None, from_to(0, 180, lower_open=True, upper_open=True)] = None
    """The vertical field of view in degrees. If not given: of a run, so that images show as much as the photographs; of
    a file, 50."""
    width: Annotated[int | None, Positive] = None
    """The width of the images in pixels. If neither width nor height is given: of a run, as the photographs, the
    longest side at most 800; of a file, 800 and 600. One alone keeps these proportions."""
    height: Annotated[int | None, Positive] = None
    """The height of the images in pixels, likewise."""
    downscale: Annotated[int, Positive] = 1
    """Divide both sides of the images by this."""
    background: tuple[float, float, float] | None = None
    """The colour behind the Gaussians: red, green and blue from 0 to 1. If not given, that of the crop of a camera
    path, or of the run's evaluation, or black."""
    near: Annotated[float | None, NonNegative] = None
    """Gaussians nearer to the camera than this fade, and are gone at two thirds of it, in units of the scene. If not
    given: on a tour of a run, three quarters of the depth of the nearest things that its photographs show; otherwise 0,
    which keeps all."""
    depth_range: tuple[float, float] | None = None
    """The depths that are drawn as nearest and farthest, in units of the scene. If not given, those of a few of the
    frames."""
    raw: bool = False
    """Also write depth, alpha and normals as NumPy arrays (.npy) of float32 into the folder. Depth is the distance
    along the viewing axis in units of the scene, 0 if nothing is there."""
    image_format: Literal["png", "jpg"] = "png"
    """The format of the images in a folder."""
    sh_degree: Annotated[int | None, one_of(0, 1, 2, 3)] = None
    """Leave out spherical harmonics above this degree."""
    overwrite: bool = False
    """Replace files that exist."""
    load_step: LoadStep = None
    data: DataFolder = None
    trust: Trust = ()
    device: Device = None
