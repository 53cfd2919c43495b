"""PLY files that are damaged or forged: one message, little memory; and runs that start from a PLY."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splatkit_ns.errors import SplatkitError
from splatkit_ns.formats.ply_header import SCALAR_TYPES
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.splat import PlyError, SplatModel
from tests.faults.children import Child, read_limited
from tests.faults.runs import CHEAP, make_config, make_trainer, train
from tests.faults.test_hostile_checkpoints import FUZZ
from tests.splat.helpers import make_tensors

HEADER = "ply\nformat {format} 1.0\nelement vertex {count}\n{properties}end_header\n"
NAMES = [
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def header(names: list[str], count: Any = 1, kind: str = "float", format: str = "binary_little_endian") -> bytes:
    properties = "".join(f"property {kind} {name}\n" for name in names)
    return HEADER.format(format=format, count=count, properties=properties).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(NAMES, 10**12) + bytes(1000), "declares 1000000000000 vertices"),
        (header(NAMES, 10**12, format="ascii") + b"0 " * 1000, "declares 1000000000000 vertices"),
        (header(NAMES, 10**17) + bytes(1000), "declares"),
        (header(NAMES, "-5"), "expected 'element NAME COUNT'"),
        (header(NAMES, "1e3"), "expected 'element NAME COUNT'"),
        (header(NAMES, 10**40), "expected 'element NAME COUNT'"),
        (header(NAMES, 0), "no rows"),
        (header(NAMES[:-1]) + bytes(100), "lack the properties rot_3"),
        (header([*NAMES, "x"]) + bytes(100), "'x' of 'vertex' is declared twice"),
        (header([*NAMES, *(f"f_rest_{i}" for i in range(7))]) + bytes(200), "found 7 of them"),
        (header([*NAMES, *(f"f_rest_{i}" for i in range(48))]) + bytes(999), "found 48 of them"),
        (header([*NAMES, "f_rest_-1"]) + bytes(200), "found 1 of them"),
        (header(NAMES, kind="quaternion") + bytes(100), "scalar type of PLY"),
        (header(NAMES) + np.full(14, np.nan, "<f4").tobytes(), "1 of 1 Gaussians have NaN"),
        (header(NAMES) + bytes(55), "truncated"),
        (header(NAMES, kind="list uchar int"), "is this a mesh"),
        (b"ply\n" + b"comment x\n" * 200_000, "no end"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\n" + b"property float x" * 10**5, "no end"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(PlyError, match=f"(?i){message}"):
        SplatModel.load_ply(path)


@pytest.mark.parametrize("line", ["element {} 0", "property char {}"])
def test_a_header_of_very_many_names(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.ply"
    names = "\n".join(line.format(i) for i in range(48_000))
    path.write_text(f"ply\nformat ascii 1.0\nelement points 1\n{names}\nend_header\n")
    before = time.thread_time()
    with pytest.raises(PlyError, match="expected an element 'vertex' with the Gaussians, found \\['points'") as caught:
        SplatModel.load_ply(path)
    assert len(str(caught.value)) < 1000
    assert time.thread_time() - before < 20, "it took more than a minute when names were compared one by one"


@pytest.mark.parametrize("kind", SCALAR_TYPES)
def test_any_scalar_type_is_read(tmp_path: Path, kind: str) -> None:
    dtype = np.dtype("<" + SCALAR_TYPES[kind])
    (tmp_path / "a.ply").write_bytes(header(NAMES, 2, kind) + np.arange(28).astype(dtype).tobytes())
    model = SplatModel.load_ply(tmp_path / "a.ply")
    assert model.means.tolist() == [[0, 1, 2], [14, 15, 16]]


@pytest.mark.parametrize("format", ["binary_little_endian", "ascii"])
def test_refusing_takes_little_memory(tmp_path: Path, format: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(header(NAMES, 10**12, format=format) + b"1 " * 10**6)
    good = tmp_path / "good.ply"
    SplatModel(**make_tensors(3)).save_ply(good)
    child = Child(read_limited, tmp_path / "log", read=SplatModel.load_ply, path=path, extra=160 << 20, good=good)
    assert child.wait() == 1
    assert child.text().startswith(f"Error: {path} is truncated"), child.text()


# ---------------------------------------------------------------------------------------------------------- fuzzing


def small_files(folder: Path) -> list[bytes]:
    """Bytes of a small file of each format."""
    model = SplatModel(**make_tensors(3))
    contents: list[bytes] = []
    for format in ("binary_little_endian", "binary_big_endian", "ascii"):
        model.save_ply(folder / "small.ply", format=format)
        contents.append((folder / "small.ply").read_bytes())
    return contents


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Small files, and a place for what is made of them."""
    folder = tmp_path_factory.mktemp("fuzz")
    return small_files(folder), folder / "input.ply"


def read_or_refused(data: bytes, path: Path) -> None:
    """Reading either says what is wrong or gives finite Gaussians, no more than the file has bytes for."""
    path.write_bytes(data)
    try:
        model = SplatModel.load_ply(path)
    except PlyError as error:
        message = str(error)
    else:
        assert all(value.isfinite().all() for value in model.tensors().values())
        assert 0 < len(model) * 14 <= len(data)
        return
    assert str(path) in message


@FUZZ
@given(which=st.integers(0, 2), start=st.integers(0, 2**16), length=st.integers(0, 200), insert=st.binary(max_size=40))
def test_fuzz_cut_and_inserted(small: Any, which: int, start: int, length: int, insert: bytes) -> None:
    contents, path = small
    data = contents[which]
    start %= len(data)
    read_or_refused(data[:start] + insert + data[start + length :], path)


WORDS = (
    ["ply", "format", "ascii", "binary_little_endian", "1.0", "element", "vertex", "face", "property", "list", "float",
     "uchar", "double", "comment", "obj_info", "end_header", "0", "1", "3", "-1", "999999999999", *NAMES, "f_rest_0"]
)  # fmt: skip


@FUZZ
@given(
    lines=st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), max_size=30),
    body=st.binary(max_size=300),
)
def test_fuzz_headers(small: Any, lines: list[str], body: bytes) -> None:
    _, path = small
    read_or_refused("\n".join(["ply", *lines, ""]).encode() + body, path)


def as_text(numbers: list[float]) -> bytes:
    return " ".join(map(str, numbers)).encode()


@FUZZ
@given(
    names=st.lists(st.sampled_from([*NAMES, "nx", "f_rest_0", "extra"]), unique=True),
    kinds=st.lists(st.sampled_from(sorted(SCALAR_TYPES)), min_size=17, max_size=17),
    count=st.integers(0, 6),
    format=st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]),
    body=st.binary(max_size=600) | st.lists(st.floats(width=32), max_size=90).map(as_text),
)
def test_fuzz_bodies(small: Any, names: list[str], kinds: list[str], count: int, format: str, body: bytes) -> None:
    _, path = small
    names = names if len(names) < 8 else NAMES + [name for name in names if name not in NAMES and name != "f_rest_0"]
    properties = "".join(f"property {kind} {name}\n" for kind, name in zip(kinds, names, strict=False))
    read_or_refused(HEADER.format(format=format, count=count, properties=properties).encode() + body, path)


# ------------------------------------------------------------------------------------------------------- --init-ply


@pytest.mark.parametrize(("stored", "wanted"), [(1, 1), (0, 2), (3, 1)])
def test_a_run_starts_from_a_ply(
    scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture, stored: int, wanted: int
) -> None:
    """Coefficients above the run's SH degree are left out, missing ones start at zero; either is said."""
    model = SplatModel(**make_tensors(50, stored))
    model.save_ply(tmp_path / "a.ply")
    config = make_config(scene, tmp_path, model_init_ply=tmp_path / "a.ply", model_sh_degree=wanted, **CHEAP)
    trainer = make_trainer(config)
    params = trainer.pipeline.model.gauss_params
    for name in ("means", "scales", "quats", "opacities", "sh0"):
        assert torch.equal(params[name], getattr(model, name))
    shared = (min(stored, wanted) + 1) ** 2 - 1
    assert params["shN"].shape == (50, (wanted + 1) ** 2 - 1, 3)
    assert torch.equal(params["shN"][:, :shared], model.shN[:, :shared])
    assert not params["shN"][:, shared:].any()
    assert ("SH coefficients of degree" in messages.text) == (stored != wanted)
    assert trainer.pipeline.model.sh_degree_now() == wanted, "trained colours are used whole from the start"
    assert trainer._start_step == 0
    trainer.train()


def test_a_ply_that_is_broken_or_missing(scene: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.ply"
    config = make_config(scene, tmp_path, model_init_ply=missing, **CHEAP)
    with pytest.raises(SplatkitError, match=r"--pipeline\.model\.init-ply: there is no file"):
        make_trainer(config)
    missing.write_bytes(b"ply\n")
    with pytest.raises(SplatkitError, match=r"none\.ply"):
        make_trainer(config)


def test_resuming_does_not_need_the_ply_any_more(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    SplatModel(**make_tensors(50, 3)).save_ply(path)
    first = train(make_config(scene, tmp_path / "1", model_init_ply=path, max_num_iterations=5, **CHEAP))
    path.unlink()
    again = make_config(scene, tmp_path / "2", model_init_ply=path, load_dir=first.checkpoint_dir, **CHEAP)
    assert train(again).step == 35
    assert SplatkitModelConfig().init_ply is None
