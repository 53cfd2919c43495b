"""Checkpoints that are damaged, forged or of something else: one message, nothing run, little memory taken."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.run.folder import checkpoint_files
from splatkit_ns.splat import CheckpointError, read_checkpoint, write_checkpoint
from splatkit_ns.splat import checkpoint as checkpoint_module
from tests.faults.children import Child, read_limited
from tests.faults.runs import CHEAP, differences, make_config, make_trainer, run_command, train

INPUTS = int(os.environ.get("SPLATKIT_FUZZ_INPUTS", "150"))
"""How many inputs each fuzz test tries; `make faults` asks for 5,000."""
FUZZ = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    derandomize=INPUTS < 1000,
)


@pytest.fixture(scope="module")
def saved(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = train(make_config(scene, folder, max_num_iterations=12, **CHEAP))
    return checkpoint_files.path_of(trainer.checkpoint_dir, 11)


def refused(scene: Path, folder: Path, path: Path, **options: Any) -> str:
    """The message with which a run refuses to resume from a checkpoint."""
    with pytest.raises(SplatkitError) as caught:
        make_trainer(make_config(scene, folder, load_checkpoint=path, **{**CHEAP, **options}))
    assert str(path) in str(caught.value)
    return str(caught.value)


def changed(saved: Path, folder: Path, change: Any) -> Path:
    """A copy of a checkpoint with some of its content replaced."""
    content = read_checkpoint(saved)
    change(content)
    path = folder / "changed.ckpt"
    torch.save(content, path)
    return path


def test_another_sh_degree(scene: Path, tmp_path: Path, saved: Path) -> None:
    text = refused(scene, tmp_path, saved, model_sh_degree=2)
    assert "shN has shape" in text
    assert "sh_degree is 2 here" in text
    assert "--pipeline.model.sh-degree" in text


def test_another_method(scene: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    weights = {"_model.field.mlp.weight": torch.zeros(3), "_model.proposal.weight": torch.zeros(3)}
    write_checkpoint(path, {"step": 5, "pipeline": weights, "optimizers": {}, "schedulers": {}})
    text = refused(scene, tmp_path, path)
    assert "holds no splatkit model: means, scales" in text
    assert "written by another method" in text


def test_with_another_densification(scene: Path, tmp_path: Path, saved: Path) -> None:
    """Its state has another name, and is left alone: the run goes on."""
    run = make_config(
        scene, tmp_path, load_checkpoint=saved, max_num_iterations=16, **{**CHEAP, "densification": "default"}
    )
    assert train(run).step == 15


def _set(*keys: Any, value: Any) -> Any:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("pipeline", "_model.gauss_params.quats", value=torch.zeros(5, 4)), "quats must have shape"),
        (_set("pipeline", "_model.gauss_params.means", value=torch.zeros(5)), "means has shape"),
        (_set("pipeline", "_model.gauss_params.means", value=3), "must be a floating-point tensor"),
        (_set("optimizers", "means", "state", 0, "exp_avg", value=torch.zeros(2, 3)), "exp_avg"),
        (_set("optimizers", "means", value=[]), "'means' does not load"),
        (_set("optimizers", "means", "param_groups", value=[]), "'means' does not load"),
        (_set("schedulers", "means", value=7), "does not fit this run"),
        (_set("splatkit", "rng", value={"python": 3}), "does not fit this run"),
        (_set("splatkit", "rng", "torch", value=torch.zeros(4)), "does not fit this run"),
        (_set("splatkit", "rng", "python", value=(3, (1, 2), None)), "does not fit this run"),
        (_set("splatkit", "sampler", value=[1]), "does not fit this run"),
        (_set("splatkit", "sampler", "train_unseen_cameras", value=["a"]), "must be a list of indices"),
        (_set("splatkit", "sampler", "train_unseen_cameras", value=[-3]), "must be a list of indices"),
        (_set("splatkit", "modules", value=4), "does not fit this run"),
        (_set("splatkit", "gradients", value={"nothing": 3}), "does not fit this run"),
        (_set("step", value=-1), "its step is -1"),
        (_set("step", value="11"), "its step is '11'"),
        (_set("step", value=10**12), "its step is 1000000000000"),
        (_set("schedulers", value=[]), "its 'schedulers' is a list"),
    ],
)  # fmt: skip
def test_content_that_does_not_fit(scene: Path, tmp_path: Path, saved: Path, change: Any, message: str) -> None:
    assert message in refused(scene, tmp_path, changed(saved, tmp_path, change))


@pytest.mark.parametrize("name", ["grad2d", "count"])
def test_statistics_of_another_number_of_gaussians(
    scene: Path, tmp_path: Path, messages: pytest.LogCaptureFixture, name: str
) -> None:
    """They are not worth losing the run for."""
    options = {**CHEAP, "densification": "default"}
    trainer = train(make_config(scene, tmp_path, max_num_iterations=8, **options))
    change = _set("splatkit", "modules", "SplatDefaultDensification", name, value=torch.zeros(3))
    path = changed(checkpoint_files.path_of(trainer.checkpoint_dir, 7), tmp_path, change)
    again = make_config(scene, tmp_path / "again", load_checkpoint=path, **options)
    assert train(again).step == 35
    assert "counting starts anew" in messages.text


def test_without_what_only_we_write(scene: Path, tmp_path: Path, saved: Path) -> None:
    """A checkpoint of nerfstudio's own trainer has neither our entry nor, perhaps, schedules."""

    def change(content: dict[str, Any]) -> None:
        del content["splatkit"], content["schedulers"], content["scalers"]

    config = make_config(scene, tmp_path, load_checkpoint=changed(saved, tmp_path, change), **CHEAP)
    assert make_trainer(config)._start_step == 12


class Payload:
    """Makes a folder when it is unpickled, as a malicious file would do worse."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("place", ["top", "optimizers", "splatkit"])
def test_a_malicious_checkpoint_runs_nothing(scene: Path, tmp_path: Path, saved: Path, place: str) -> None:
    canary, content = tmp_path / "canary", read_checkpoint(saved)
    (content if place == "top" else content[place])["evil"] = Payload(canary)
    path = tmp_path / "evil.ckpt"
    torch.save(content, path)
    assert "nothing in it was run" in refused(scene, tmp_path, path)
    assert not canary.exists()


def forge(path: Path, replace: dict[bytes, bytes] | None = None, records: dict[str, bytes] | None = None) -> None:
    """Rewrite a checkpoint's archive, with checksums that are right."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            for old, new in (replace or {}).items():
                if name.endswith("data.pkl"):
                    assert old in content
                    content = content.replace(old, new)
            for ending, new in (records or {}).items():
                if name.endswith(ending):
                    content = new
            archive.writestr(name, content)


def test_a_tensor_that_reaches_beyond_its_bytes(tmp_path: Path) -> None:
    """16 bytes that claim to be 256, in a file that is large enough for them."""
    path = tmp_path / "a.ckpt"
    content = {"x": torch.arange(4.0), "y": torch.zeros(10_000)}
    torch.save({"step": 1, "pipeline": content, "optimizers": {}}, path)
    forge(path, {b"K\x04tq": b"K\x40tq"})
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(path)


def test_sizes_are_checked_also_where_torch_does_not(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another size than its entry"):
        checkpoint_module._check_storages(tmp_path, {"x": torch.zeros(64)}, [16, 10_000])
    checkpoint_module._check_storages(tmp_path, {"x": torch.zeros(64), "y": torch.zeros(0)}, [256, 10_000])


def test_a_deeply_nested_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, path)
    forge(path, records={"data.pkl": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b"."})
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


EMPTY_TUPLE, TUPLE1, TUPLE2, NONE, SETITEM = b")", b"\x85", b"\x86", b"N", b"s"
SHARED_TUPLES = EMPTY_TUPLE + b"".join(b"q%ch%c" % (i, i) + TUPLE2 for i in range(60))
NESTED_LISTS = b"]" * 5000 + b"a" * 4999
STEP = b"}(X\x04\0\0\0step%sX\x08\0\0\0pipeline}X\x0a\0\0\0optimizers}u"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"}" + EMPTY_TUPLE + TUPLE1 * 10**6 + NONE + SETITEM, "more than 100 tuples in one another"),
        (b"}" + SHARED_TUPLES + NONE + SETITEM, "tuples that refer to one another too often"),
        (STEP % SHARED_TUPLES, "tuples that refer to one another too often"),
        (STEP % NESTED_LISTS, "its step is a list"),
    ],
    ids=["nested keys", "shared keys", "shared step", "nested step"],
)
def test_structures_without_end(tmp_path: Path, pickled: bytes, message: str) -> None:
    """Hashing the first ended the process; the next two took years to hash or show; showing the last raised."""
    path = tmp_path / "a.ckpt"
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, path)
    forge(path, records={"data.pkl": b"\x80\x02" + pickled + b"."})
    child = Child(read_limited, tmp_path / "log", read=read_checkpoint, path=path, extra=1 << 30)
    assert child.wait() == 1
    assert message in child.text()


def test_tuples_as_people_write_them(tmp_path: Path) -> None:
    betas, deep = (0.9, 0.999), ()
    for _ in range(90):
        deep = (deep,)
    groups = [{"betas": betas, "lr": 0.1} for _ in range(20_000)]
    content = {("a", (1, 2)): deep, "long": tuple(range(100_000)), "groups": groups}
    path = tmp_path / "a.ckpt"
    torch.save({"step": 1, "pipeline": content, "optimizers": {}}, path)
    assert read_checkpoint(path)["pipeline"] == content


def test_what_torch_would_not_read_as_an_archive(tmp_path: Path) -> None:
    """zipfile finds an archive behind other bytes; torch reads these bytes, as its old format."""
    path = tmp_path / "a.ckpt"
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, path)
    path.write_bytes(b"\x80\x02N." + path.read_bytes())
    with pytest.raises(CheckpointError, match="does not begin as an archive"):
        read_checkpoint(path)


def test_a_program_of_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(path))
    forge(path)  # without its compression, which is refused, too
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_checkpoint(path)


def test_names_in_capitals(tmp_path: Path) -> None:
    """torch finds the pickle under this name, too, and so it is looked at."""
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02}" + EMPTY_TUPLE + TUPLE1 * 150 + NONE + SETITEM + b".")
        archive.writestr("archive/version", b"3\n")
    with pytest.raises(CheckpointError, match="more than 100 tuples"):
        read_checkpoint(path)


def _bomb(path: Path) -> None:
    """A file that would unpack to 300 times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        with archive.open("archive/data/0", "w", force_zip64=True) as record:
            for _ in range(300):
                record.write(bytes(10**6))


def _huge_view(path: Path) -> None:
    torch.save({"step": 1, "pipeline": {"x": torch.zeros(1).expand(10**12)}, "optimizers": {}}, path)


def _large_and_damaged(path: Path) -> None:
    torch.save({"step": 1, "pipeline": {"x": torch.ones(2**24)}, "optimizers": {}}, path)
    with path.open("r+b") as file:
        file.seek(2**25)
        file.write(b"damage")


def _pickled_long(path: Path) -> None:
    """A pickle that claims a string of 2^62 bytes."""
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, path)
    forge(path, records={"data.pkl": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc."})


@pytest.mark.parametrize("make", [_bomb, _huge_view, _large_and_damaged, _pickled_long])
def test_refusing_takes_little_memory(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "bad.ckpt"
    make(path)
    good = tmp_path / "good.ckpt"
    torch.save({"step": 1, "pipeline": {}, "optimizers": {}}, good)
    extra = max(3 * path.stat().st_size, 160 << 20)
    child = Child(read_limited, tmp_path / "log", read=read_checkpoint, path=path, extra=extra, good=good)
    assert child.wait() == 1
    assert child.text().startswith("Error: checkpoint"), child.text()


def test_the_command_refuses_without_a_traceback(scene: Path, tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "short.ckpt"
    path.write_bytes(saved.read_bytes()[:5000])
    child = Child(run_command, tmp_path / "log", config=make_config(scene, tmp_path, load_checkpoint=path, **CHEAP))
    assert child.wait() == 1
    assert f"Error: checkpoint {path} is truncated or damaged" in child.text()
    assert "Traceback" not in child.text()


# ---------------------------------------------------------------------------------------------------------- fuzzing


def write_small(path: Path) -> None:
    """A checkpoint of a few kilobytes."""
    content = {
        "step": 3,
        "pipeline": {"_model.gauss_params.means": torch.arange(12.0).reshape(4, 3)},
        "optimizers": {"means": {"state": {0: {"exp_avg": torch.ones(4, 3)}}, "param_groups": [{"lr": 0.5}]}},
        "splatkit": {"schema_version": 1, "rng": {"python": (3, (1, 2, 3), None)}},
    }
    write_checkpoint(path, content)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bytes of a small checkpoint, its content, and a place for what is made of it."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = folder / "small.ckpt"
    write_small(path)
    return path.read_bytes(), read_checkpoint(path), folder / "input.ckpt"


def same_or_refused(data: bytes, content: Any, path: Path) -> None:
    """Reading either says what is wrong or gives what was written."""
    path.write_bytes(data)
    try:
        loaded = read_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    else:
        assert differences(loaded, content) == []
        return
    assert str(path) in message


def test_every_flipped_bit(small: Any) -> None:
    """One at a time; in the short form every 37th. One in the archive's directory makes torch itself read nothing."""
    original, content, path = small
    for bit in range(0, 8 * len(original), 1 if INPUTS > 1000 else 37):
        data = bytearray(original)
        data[bit // 8] ^= 1 << bit % 8
        same_or_refused(bytes(data), content, path)


def test_an_entry_marked_as_a_folder(small: Any) -> None:
    """torch.load then gives tensors of uninitialised memory; found by fuzzing."""
    original, _, path = small
    data = bytearray(original)
    data[original.rindex(b"archive/data/0") - 8] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="marked as a folder"):
        read_checkpoint(path)


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4))
def test_fuzz_flipped_bytes(small: Any, edits: list[tuple[int, int]]) -> None:
    original, content, path = small
    data = bytearray(original)
    for position, mask in edits:
        data[position % len(data)] ^= mask
    same_or_refused(bytes(data), content, path)


@FUZZ
@given(start=st.integers(0, 2**20), length=st.integers(1, 2**14), insert=st.binary(max_size=64))
def test_fuzz_cut_and_inserted(small: Any, start: int, length: int, insert: bytes) -> None:
    original, content, path = small
    start %= len(original)
    same_or_refused(original[:start] + insert + original[start + length :], content, path)


@FUZZ
@given(data=st.binary(max_size=2000), zipped=st.booleans())
def test_fuzz_any_bytes(small: Any, data: bytes, zipped: bool) -> None:
    """Any bytes as a file, and as the pickle of an archive that is otherwise right."""
    _, _, path = small
    if zipped:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + data)
            archive.writestr("archive/version", b"3\n")
        data = buffer.getvalue()
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3))
def test_fuzz_forged_pickles(small: Any, edits: list[tuple[int, int]]) -> None:
    """The structure is changed and the checksums are made right again: refused, or read as some checkpoint."""
    original, _, path = small
    with zipfile.ZipFile(io.BytesIO(original)) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, entry in entries.items():
            content = bytearray(entry)
            if name.endswith("data.pkl"):
                for position, mask in edits:
                    content[position % len(content)] ^= mask
            archive.writestr(name, bytes(content))
    try:
        loaded = read_checkpoint(path)
    except CheckpointError:
        return
    assert isinstance(loaded["step"], int)
    shutil.copy(path, path.with_suffix(".last"))
