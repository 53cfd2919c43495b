"""Files of every other format, damaged or forged: one message, little memory, no wrong success."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatkit_ns import formats
from splatkit_ns.formats import FormatError
from splatkit_ns.formats._spz_reading import HEADER, HEADER_4, MAGIC
from tests.faults.children import Child, read_limited
from tests.faults.reading import read_or_refused
from tests.faults.test_hostile_checkpoints import FUZZ
from tests.formats.helpers import make_gaussians

NAMES = ("compressed.ply", "glb", "sog", "splat", "spz")


def content_of(name: str, folder: Path, num: int = 5, sh_degree: int = 1) -> bytes:
    """Bytes of a small file."""
    path = folder / f"small.{name}"
    formats.write(path, make_gaussians(num, sh_degree))
    return path.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    """A small file of each format, and a folder for what is made of them."""
    folder = tmp_path_factory.mktemp("fuzz")
    return {name: content_of(name, folder) for name in NAMES}, folder


# ------------------------------------------------------------------------------------------------- known kinds of lies


def spz(num: int = 1, version: int = 3, degree: int = 0, bits: int = 12, body: bytes = bytes(20)) -> bytes:
    return gzip.compress(HEADER.pack(MAGIC, version, num, degree, bits, 0, 0) + body, mtime=0)


def spz_4(num: int = 1, streams: int = 5, start: int = 32, body: bytes = b"") -> bytes:
    return HEADER_4.pack(MAGIC, 4, num, 0, 12, 0, streams, start) + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an SPZ file"),
        (b"\x1f\x8b", "truncated|damaged"),
        (b"\x1f\x8b" + bytes(100), "damaged"),
        (gzip.compress(b"hello" * 20, mtime=0), "does not begin with NGSP"),
        (spz(num=0), "no Gaussians"),
        (spz(version=4), "version 1 to 3 in a gzip stream, found version 4"),
        (spz(version=9), "found version 9"),
        (spz(degree=5), "SH degree from 0 to 4, found 5"),
        (spz(bits=31), "at most 30 fractional bits"),
        (spz(num=2), "truncated"),
        (spz(num=2**32 - 1), "more than 100 times as many"),
        (spz()[:-20], "truncated"),
        (spz(version=1, body=b"\xff" * 17), "NaN or infinite"),
    ],
)
def test_spz(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.spz"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        formats.read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (spz_4()[:20], "ends within the header"),
        (spz_4(streams=0), "expected 5 streams"),
        (spz_4(start=1), "expected 5 streams"),
        (spz_4(start=2**31), "within the table"),
        (spz_4(num=2**32 - 1), "more than 100 times as many"),
        (spz_4(body=struct.pack("<QQ", 2**60, 9) * 5), "that takes 1152921504606846976"),
        (spz_4(body=struct.pack("<QQ", 3, 9) * 5 + bytes(15)), "damaged"),
    ],
)
def test_spz_of_version_4(tmp_path: Path, data: bytes, message: str) -> None:
    pytest.importorskip("zstandard")
    path = tmp_path / "bad.spz"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        formats.read(path)


def test_spz_of_version_4_without_zstandard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "a.spz").write_bytes(spz_4())
    with pytest.raises(FormatError, match="pip install zstandard"):
        formats.read(tmp_path / "a.spz")


def test_splat(tmp_path: Path, small: Any) -> None:
    data = small[0]["splat"]
    for bad, message in (
        (b"", "32 bytes a Gaussian"),
        (data + b"x", "32 bytes a Gaussian"),
        (data[:12] + struct.pack("<f", -1) + data[16:], "negative or NaN"),
        (struct.pack("<f", np.nan) + data[4:], "NaN or infinite"),
        (data[:12] + struct.pack("<f", np.inf) + data[16:], "NaN or infinite"),
    ):
        (tmp_path / "bad.splat").write_bytes(bad)
        with pytest.raises(FormatError, match=message):
            formats.read(tmp_path / "bad.splat")
    (tmp_path / "flat.splat").write_bytes(data[:12] + bytes(4) + data[16:])
    assert formats.read(tmp_path / "flat.splat").scales.min() > -40


def repacked(data: bytes, change: Callable[[dict[str, bytes]], Any], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with changed entries."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return target.getvalue()


def with_meta(data: bytes, **changes: Any) -> bytes:
    """The archive with other metadata; None removes a key."""

    def change(entries: dict[str, bytes]) -> None:
        meta = {**json.loads(entries["meta.json"]), **changes}
        entries["meta.json"] = json.dumps({key: value for key, value in meta.items() if value is not None}).encode()

    return repacked(data, change)


def large_image() -> bytes:
    """A WebP image of 8,000 x 8,000 equal pixels: 256 MB from few bytes."""
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGBA", (8000, 8000)).save(target, "WEBP", lossless=True, method=0)
    return target.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PK", "not a SOG bundle"),
        (lambda data: data[:-30], "not a SOG bundle"),
        (lambda data: repacked(data, lambda e: e.pop("meta.json")), "no meta.json in the archive"),
        (lambda data: repacked(data, lambda e: e.pop("quats.webp")), "no quats.webp in the archive"),
        (lambda data: repacked(data, lambda e: e.update({"meta.json": b"{"})), "no JSON"),
        (lambda data: repacked(data, lambda e: e.update({"meta.json": b"[" * 100_000})), "no JSON"),
        (lambda data: repacked(data, lambda e: e.update({"meta.json": b"[]"})), "expected an object"),
        (lambda data: repacked(data, lambda e: e.update({"meta.json": b" " * 2**21})), "expected at most"),
        (lambda data: repacked(data, lambda e: e.update({"sh0.webp": b"no image"})), "sh0.webp cannot be read"),
        (lambda data: repacked(data, lambda e: e.update({"sh0.webp": e["sh0.webp"][:-9]})), "sh0.webp cannot be read"),
        (lambda data: repacked(data, lambda e: None, zipfile.ZIP_LZMA), "compressed by method 14"),
        (lambda data: with_meta(data, version=1), "version 2, found 1"),
        (lambda data: with_meta(data, version=None), "version 2, found none"),
        (lambda data: with_meta(data, count=0), "positive whole number as count"),
        (lambda data: with_meta(data, count=True), "positive whole number as count"),
        (lambda data: with_meta(data, count=10**9), "need as many pixels"),
        (lambda data: with_meta(data, means=None), "has no 'means'"),
        (lambda data: with_meta(data, means={"files": []}), "name of image 1"),
        (lambda data: with_meta(data, quats={"files": ["../../etc/passwd"]}), "no ../../etc/passwd in the archive"),
        (lambda data: with_meta(data, quats={"files": ["a" * 3000]}), "name of image 1"),
        (lambda data: with_meta(data, scales={"files": ["scales.webp"], "codebook": [1]}), "names entry"),
        (lambda data: with_meta(data, scales={"files": ["scales.webp"], "codebook": ["a"]}), "finite numbers"),
        (lambda data: with_meta(data, scales={"files": ["scales.webp"], "codebook": [10**400]}), "finite numbers"),
        (lambda data: with_meta(data, quats={"files": ["sh0.webp"]}), "no such numbers"),
        (
            lambda data: with_meta(data, shN={"count": 9, "bands": 1, "codebook": [0], "files": ["sh0.webp"]}),
            "wide",
        ),
        (lambda data: with_meta(data, shN={"count": 5, "bands": 4, "codebook": [0], "files": []}), "1, 2 or 3 bands"),
    ],
)
def test_sog(tmp_path: Path, small: Any, change: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "bad.sog"
    path.write_bytes(change(small[0]["sog"]))
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)


def test_a_sog_folder_reads_nothing_outside_of_it(tmp_path: Path) -> None:
    formats.write(tmp_path / "a" / "meta.json", make_gaussians(5, 0))
    assert len(formats.read(tmp_path / "a")) == 5
    meta = json.loads((tmp_path / "a" / "meta.json").read_bytes())
    (tmp_path / "b.webp").write_bytes((tmp_path / "a" / meta["quats"]["files"][0]).read_bytes())
    meta["quats"]["files"] = ["../b.webp"]
    (tmp_path / "a" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match=r"no file '\.\./b\.webp' beside it"):
        formats.read(tmp_path / "a")


def test_a_sog_folder_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "meta.json"
    formats.write(path, make_gaussians(5, 0))
    (tmp_path / "a" / "photo.webp").write_bytes(b"someone else's")
    replace = __import__("os").replace

    def fail(source: str, target: str) -> None:
        if str(target).endswith("meta.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="No space left"):
            formats.write(path, make_gaussians(9, 0))
    assert len(formats.read(path)) == 5
    formats.write(path, make_gaussians(9, 0))
    assert len(formats.read(path)) == 9
    assert (tmp_path / "a" / "photo.webp").exists()


def glb(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """The file with another JSON."""
    length = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + length])
    changed = change(document)
    text = json.dumps(document if changed is None else changed).encode()
    return data[:12] + struct.pack("<II", len(text), 0x4E4F534A) + text + data[20 + length :]


def put(place: str, value: Any) -> Callable[[Any], None]:
    """A change of one value of a document."""

    def change(document: Any) -> None:
        *parents, last = place.split(".")
        for key in parents:
            document = document[int(key) if isinstance(document, list) else key]
        document[int(last) if isinstance(document, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: [], "no object"),
        (put("scenes.0.nodes", 5), "list of nodes"),
        (put("scenes.0.nodes", [7]), "nodes have no entry 7"),
        (put("nodes.0.children", [0]), "more than 100 times"),
        (put("nodes", [{"children": [0]}]), "node within itself"),
        (put("nodes.0.mesh", -1), "meshes have no entry -1"),
        (put("nodes.0.scale", [1, 2, 3]), "scaled differently"),
        (put("nodes.0.scale", [-1, 1, 1]), "mirrored"),
        (put("nodes.0.scale", [1, 1]), "should be 3 numbers"),
        (put("nodes.0.scale", [10**400, 1, 1]), "should be 3 numbers"),
        (put("nodes.0.matrix", ["a"] * 16), "should be 16 numbers"),
        (put("meshes.0.primitives.0.extensions", {}), "no primitive in the scene"),
        (put("meshes.0.primitives.0.attributes", {}), "no attribute POSITION"),
        (put("meshes.0.primitives.0.attributes.POSITION", 99), "accessors have no entry 99"),
        (put("accessors.0.count", 10**12), "more than 100 times"),
        (put("accessors.0.count", 6), "does not fit|different counts"),
        (put("accessors.0.count", 0), "does not fit"),
        (put("accessors.5.count", 4), "different counts"),
        (put("accessors.0.count", -1), "whole number"),
        (put("accessors.0.componentType", 5125), "should be 3 numbers"),
        (put("accessors.0.componentType", [5126]), "should be 3 numbers"),
        (put("accessors.0.type", "MAT4"), "should be 3 numbers"),
        (put("accessors.0.sparse", {}), "not sparse"),
        (put("bufferViews.0.byteOffset", 10**9), "does not fit"),
        (put("bufferViews.0.byteStride", 1), "does not fit"),
        (put("bufferViews.0.buffer", 1), "another file"),
        (put("buffers.0.uri", "file:///etc/passwd"), "another file"),
    ],
)
def test_glb(tmp_path: Path, small: Any, change: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / "bad.glb"
    path.write_bytes(glb(small[0]["glb"], change))
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)


SPZ = "meshes.0.primitives.0.extensions.KHR_gaussian_splatting.extensions.KHR_gaussian_splatting_compression_spz_2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(SPZ, 5), "bufferViews have no entry None"),
        (put(f"{SPZ}.bufferView", 1), "bufferViews have no entry 1"),
        (put("bufferViews.0.byteLength", 10**9), "does not fit"),
        (put("bufferViews.0.byteLength", 40), "truncated"),
        (put("bufferViews.0.byteOffset", 4), "not an SPZ file|does not fit"),
        (put("buffers.0.uri", "file:///etc/passwd"), "another file"),
        (put("accessors.0.count", 4), "POSITION another number"),
        (put("scenes.0.nodes", [0] * 99_999), "more than 100 times"),
    ],
)
def test_glb_with_spz(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / "bad.spz.glb"
    path.write_bytes(glb(content_of("spz.glb", tmp_path, num=300, sh_degree=0), change))
    with pytest.raises(FormatError, match=message) as caught:
        formats.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("instances", "refused"), [(100, False), (99_999, True)])
def test_glb_with_the_same_gaussians_many_times(tmp_path: Path, instances: int, refused: bool) -> None:
    path = tmp_path / "a.glb"
    data = content_of("glb", tmp_path, num=300, sh_degree=0)
    path.write_bytes(glb(data, put("scenes.0.nodes", [0] * instances)))
    if not refused:
        assert len(formats.read(path)) == 300 * instances
        return
    with pytest.raises(FormatError, match="more than 100 times"):
        formats.read(path)


def test_compressed_ply(tmp_path: Path, small: Any) -> None:
    data = small[0]["compressed.ply"]
    for old, new, message in (
        (b"element chunk 1\n", b"element chunk 2\n", "expected 1 chunks of 256 for 5 Gaussians, found 2"),
        (b"element vertex 5\n", b"element vertex 999999999999\n", "truncated|chunks of 256"),
        (b"element vertex 5\n", b"element vertex 0\n", "no rows"),
        (b"element sh 5\n", b"element sh 4\n", "as uchar"),
        (b"property uchar f_rest_8\n", b"", "f_rest_0 to"),
        (b"property uint packed_scale\n", b"property float packed_scale\n", "as uint"),
        (b"property uint packed_scale\n", b"property uint other\n", "lacks the properties packed_scale"),
        (b"property float max_b\n", b"property float other\n", "none or all of min_r"),
        (b"binary_little_endian", b"binary_big_endian", "found binary_big_endian"),
        (b"packed_position", b"x", "no compressed PLY file"),
    ):
        assert old in data
        (tmp_path / "bad.compressed.ply").write_bytes(data.replace(old, new))
        with pytest.raises(FormatError, match=message):
            formats.read(tmp_path / "bad.compressed.ply")


def bombs() -> dict[str, bytes]:
    """Files of a few MB at most that claim, and have, a gigabyte."""
    one_gib = io.BytesIO()
    with gzip.GzipFile(fileobj=one_gib, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(HEADER.pack(MAGIC, 3, 2**26, 0, 12, 0, 0))
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
    archive = io.BytesIO()
    deflate = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "w", deflate, compresslevel=1) as file, file.open("meta.json", "w") as entry:
        for _ in range(1 << 10):
            entry.write(bytes(1 << 20))
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w") as file:
        meta = {"version": 2, "count": 10**7, "means": {"mins": [0] * 3, "maxs": [1] * 3, "files": ["a", "a"]}}
        file.writestr("meta.json", json.dumps(meta))
        file.writestr("a", large_image())
    return {"a.spz": one_gib.getvalue(), "a.sog": archive.getvalue(), "b.sog": image.getvalue()}


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for name, data in bombs().items():
        path, good = tmp_path / name, tmp_path / f"good{Path(name).suffix}"
        path.write_bytes(data)
        formats.write(good, make_gaussians(5, 1))
        child = Child(read_limited, tmp_path / f"{name}.log", read=formats.read, path=path, extra=160 << 20, good=good)
        assert child.wait() == 1
        assert child.text().startswith(f"Error: {path}: the file has {len(data)} bytes and claims"), child.text()


# ---------------------------------------------------------------------------------------------------------- fuzzing


@FUZZ
@given(
    name=st.sampled_from(NAMES),
    start=st.integers(0, 2**16),
    length=st.integers(0, 200),
    insert=st.binary(max_size=40),
)
def test_fuzz_cut_and_inserted(small: Any, name: str, start: int, length: int, insert: bytes) -> None:
    contents, folder = small
    data = contents[name]
    start %= len(data)
    read_or_refused(data[:start] + insert + data[start + length :], folder / f"input.{name}")


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8))
def test_fuzz_what_spz_holds(small: Any, edits: list[tuple[int, int]]) -> None:
    contents, folder = small
    data = bytearray(gzip.decompress(contents["spz"]))
    for place, value in edits:
        data[place % (16 if place % 2 else len(data))] = value  # half of them in the header
    read_or_refused(gzip.compress(bytes(data), 1, mtime=0), folder / "input.spz", room=10)


VALUES = st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=5) | st.integers()


@FUZZ
@given(data=st.data())
def test_fuzz_the_metadata_of_sog(small: Any, data: st.DataObject) -> None:
    contents, folder = small
    changed = repacked(contents["sog"], lambda e: e.update({"meta.json": fuzzed_json(e["meta.json"], data)}))
    read_or_refused(changed, folder / "input.sog", room=300)


@FUZZ
@given(data=st.data())
def test_fuzz_the_json_of_glb(small: Any, data: st.DataObject) -> None:
    contents, folder = small
    changed = glb(contents["glb"], lambda document: json.loads(fuzzed_json(json.dumps(document).encode(), data)))
    read_or_refused(changed, folder / "input.glb", room=300)


def fuzzed_json(text: bytes, data: st.DataObject) -> bytes:
    """A document with one to three values replaced, or taken out."""
    document = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        places: list[tuple[Any, Any]] = []
        waiting: list[Any] = [document]
        while waiting:
            item = waiting.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else []
            places += [(item, key) for key in keys]
            waiting += [item[key] for key in keys]
        item, key = data.draw(st.sampled_from(places))
        if data.draw(st.booleans()):
            item[key] = data.draw(VALUES | st.lists(VALUES, max_size=4) | st.dictionaries(st.text(max_size=3), VALUES))
        else:
            del item[key]
        if not document:
            break
    return json.dumps(document).encode()
