"""Ways to break a data set, and a run that must end in an error without touching it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from splatkit_ns.errors import SplatkitError
from tests.plugin.helpers import make_trainer, run_config

Change = Callable[[Path], Any]
IMAGE = "images/frame_00001.png"
XYZ = "property float x\nproperty float y\nproperty float z\n"
EVALUATED = "images/frame_00004.png"


def changed_copy(scene: Path, folder: Path, change: Change) -> Path:
    """A copy of a scene in ``folder/data``, changed."""
    data = folder / "data"
    shutil.copytree(scene, data)
    change(data)
    return data


def in_json(change: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "transforms.json"
        meta = json.loads(path.read_text())
        change(meta)
        path.write_text(json.dumps(meta))

    return apply


def in_points(change: Callable[[bytes], bytes]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "sparse_pc.ply"
        path.write_bytes(change(path.read_bytes()))

    return apply


def write(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def delete(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def picture(name: str, mode: str, size: tuple[int, int]) -> Change:
    return lambda folder: Image.new(mode, size).save(folder / name)


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(data: Path, output: Path, dataparser: Any = None, **parser_options: Any) -> str:
    """Train two steps; the message of the error that this must end in."""
    before = digest(data)
    config = run_config(data, output, steps=2, dataparser=dataparser)
    for name, value in parser_options.items():
        setattr(config.pipeline.datamanager.dataparser, name, value)
    with pytest.raises(SplatkitError) as caught:
        make_trainer(config).train()
    assert digest(data) == before
    assert not list(output.rglob("*.ckpt"))
    return str(caught.value)
