"""Checkpoints: what is written comes back, and what is not a checkpoint is refused without harm."""

from __future__ import annotations

import io
import os
import pickle
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splatkit_ns.splat import CheckpointError, CheckpointRequests, SplatTrainingState, read_checkpoint, write_checkpoint
from splatkit_ns.splat.rng import rng_state, set_rng_state
from tests.splat.helpers import make_state, make_tensors, snapshot, step_optimizers


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state.ckpt"
    make_state(6).save_ckpt(path, step=7)
    return path


def test_parameters_and_optimizers_come_back(tmp_path: Path) -> None:
    state = SplatTrainingState.from_tensors(make_tensors(6), learning_rates={"means": 0.125})
    step_optimizers(state)
    state.save_ckpt(str(tmp_path / "state.ckpt"))
    again = SplatTrainingState.from_ckpt(tmp_path / "state.ckpt")
    before, after = snapshot(state), snapshot(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert again.optimizers["means"].param_groups[0]["lr"] == 0.125
    for each in (state, again):
        torch.manual_seed(1)
        step_optimizers(each)
    assert all(torch.equal(again.params[name], state.params[name]) for name in state.params), (
        "the next step is the same"
    )


def test_before_the_first_step(tmp_path: Path) -> None:
    make_state(3, stepped=False).save_ckpt(tmp_path / "state.ckpt")
    step_optimizers(SplatTrainingState.from_ckpt(tmp_path / "state.ckpt"))


def test_the_format_is_nerfstudios(saved: Path) -> None:
    loaded = torch.load(saved, weights_only=True)
    assert set(loaded) == {"step", "pipeline", "optimizers", "schedulers", "scalers", "splatkit"}
    assert loaded["step"] == 7
    assert set(loaded["pipeline"]) == {f"_model.gauss_params.{key}" for key in make_tensors(1)}
    assert loaded["splatkit"]["schema_version"] == 1
    assert torch.__version__.startswith(loaded["splatkit"]["versions"]["torch"])


def test_a_trainer_supplies_the_full_checkpoint(tmp_path: Path) -> None:
    state = make_state(3)
    steps: list[int | None] = []

    def source(step: int | None) -> dict[str, Any]:
        steps.append(step)
        return {"step": 5, "pipeline": {}, "optimizers": {}, "from": "trainer"}

    state.use_checkpoints_of(CheckpointRequests(source))
    state.save_ckpt(tmp_path / "a.ckpt")
    state.save_ckpt(tmp_path / "b.ckpt", step=9)
    assert steps == [None, 9]
    assert read_checkpoint(tmp_path / "a.ckpt")["from"] == "trainer"


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.standard_normal()), float(torch.rand(()))]  # noqa: NPY002

    draw()
    checkpoint = {"step": 0, "pipeline": {}, "optimizers": {}, "rng": rng_state()}
    write_checkpoint(tmp_path / "rng.ckpt", checkpoint)
    first = draw() + draw()
    set_rng_state(read_checkpoint(tmp_path / "rng.ckpt")["rng"])
    assert draw() + draw() == first


def test_numpy_values_are_converted(tmp_path: Path) -> None:
    """nerfstudio's schedulers leave numpy.float64 in their state, which weights_only loading refuses."""
    value = {"lr": np.float64(0.5), "list": [np.int64(3)], "array": np.arange(3), np.str_("key"): (1, None)}
    write_checkpoint(tmp_path / "a.ckpt", {"step": 1, "pipeline": {}, "optimizers": {}, "value": value})
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)["value"]
    assert type(loaded["lr"]) is float
    assert loaded["list"] == [3]
    assert loaded["array"].tolist() == [0, 1, 2]
    assert loaded["key"] == (1, None)


def test_other_values_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\['pipeline'\]\['x'\]\[0\] is a pathlib"):
        write_checkpoint(tmp_path / "a.ckpt", {"step": 1, "pipeline": {"x": [Path("a")]}, "optimizers": {}})
    assert os.listdir(tmp_path) == []


class Payload:
    """Runs a function when it is unpickled, as a malicious file would."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    evil = {"step": 1, "pipeline": {}, "optimizers": {}, "evil": Payload(os.mkdir, str(canary))}
    torch.save(evil, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"nothing in it was run|truncated or damaged"):
        read_checkpoint(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the payload works, when it is run"


@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_file_is_refused(saved: Path, tenths: int) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) * tenths // 10])
    with pytest.raises(CheckpointError, match=rf"{saved.name} is truncated or damaged"):
        SplatTrainingState.from_ckpt(saved)


def test_a_flipped_bit_in_any_record_is_found(saved: Path) -> None:
    content = saved.read_bytes()
    with zipfile.ZipFile(saved) as archive:
        records = [(entry.header_offset, entry.filename, archive.read(entry)) for entry in archive.infolist()]
    for offset, name, record in records:
        if not record:
            continue
        start = content.index(record, offset)
        for position in (start, start + len(record) // 2, start + len(record) - 1):
            flipped = bytearray(content)
            flipped[position] ^= 0x10
            saved.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="truncated or damaged"):
                read_checkpoint(saved)
            assert name


def test_flipped_bits_anywhere_never_change_what_is_read(saved: Path) -> None:
    """Outside the records (padding, file names, dates) a bit may not matter; it must not matter silently."""
    content, good = saved.read_bytes(), read_checkpoint(saved)
    generator = random.Random(0)
    for _ in range(60):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        saved.write_bytes(flipped)
        try:
            loaded = read_checkpoint(saved)
        except CheckpointError:
            continue
        assert str(loaded) == str(good)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a list, expected a dict"),
        ({"model": 1}, r"\['step', 'pipeline', 'optimizers'\] missing; found \['model'\]"),
        ({"step": 1, "pipeline": {}, "optimizers": {}, "splatkit": {"schema_version": 2}}, "upgrade splatkit-ns"),
        ({"step": 1, "pipeline": {}, "optimizers": {}, "splatkit": {"schema_version": "1"}}, "schema_version is '1'"),
        ({"step": 1, "pipeline": {}, "optimizers": {}, "splatkit": 3}, "schema_version is None"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.ckpt")


def with_pipeline(saved: Path, key: str, value: Any) -> None:
    checkpoint = read_checkpoint(saved)
    checkpoint["pipeline"][f"_model.gauss_params.{key}"] = value
    torch.save(checkpoint, saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quats", torch.zeros(5, 4), r"quats must have shape \(6, 4\), found \(5, 4\)"),
        ("means", "text", "must be a floating-point tensor"),
        ("means", torch.zeros(6, 3, dtype=torch.int64), "must be a floating-point tensor"),
    ],
)
def test_parameters_that_do_not_fit(saved: Path, key: str, value: Any, message: str) -> None:
    with_pipeline(saved, key, value)
    with pytest.raises(CheckpointError, match=message):
        SplatTrainingState.from_ckpt(saved)


def test_an_optimizer_state_that_does_not_fit(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    checkpoint["optimizers"]["scales"]["state"][0]["exp_avg"] = torch.zeros(2, 3)
    torch.save(checkpoint, saved)
    with pytest.raises(CheckpointError, match=r"'exp_avg' of 'scales' has shape \(2, 3\).*\(6, 3\)"):
        SplatTrainingState.from_ckpt(saved)


def test_a_small_file_cannot_claim_a_huge_tensor(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(10**12)
    torch.save({"step": 1, "pipeline": {"x": huge}, "optimizers": {}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"shape \(1000000000000,\) has only 4 bytes"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(saved: Path) -> None:
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(0))
        archive.writestr("archive/data/0", io.BytesIO(bytes(10**7)).getvalue())
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(saved)


def test_a_multi_gpu_checkpoint_has_other_names(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    checkpoint["pipeline"] = {
        key.replace("_model.", "_model.module."): value for key, value in checkpoint["pipeline"].items()
    }
    torch.save(checkpoint, saved)
    assert len(SplatTrainingState.from_ckpt(saved)) == 6


def test_parameters_of_a_kind_of_its_own_come_back(tmp_path: Path) -> None:
    tensors = {**make_tensors(4), "features": torch.randn(4, 8)}
    state = SplatTrainingState.from_tensors(tensors, learning_rates={"features": 0.25})
    step_optimizers(state)
    state.duplicate(torch.tensor([True, False, False, True]))
    state.save_ckpt(tmp_path / "a.ckpt")
    again = SplatTrainingState.from_ckpt(tmp_path / "a.ckpt")
    assert torch.equal(again.params["features"], state.params["features"])
    assert again.optimizers["features"].param_groups[0]["lr"] == 0.25


def test_an_impossible_learning_rate(saved: Path) -> None:
    checkpoint = read_checkpoint(saved)
    checkpoint["optimizers"]["means"]["param_groups"][0]["lr"] = -1.0
    torch.save(checkpoint, saved)
    with pytest.raises(CheckpointError, match=r"cannot be trained further.*Invalid learning rate"):
        SplatTrainingState.from_ckpt(saved)


def test_refusing_a_file_takes_little_memory(tmp_path: Path) -> None:
    """The checksum pass streams: a damaged file of 64 MB is refused without loading it."""
    path = tmp_path / "big.ckpt"
    torch.save({"step": 1, "pipeline": {"x": torch.ones(2**24)}, "optimizers": {}}, path)
    with path.open("r+b") as file:
        file.seek(2**25)
        file.write(b"damage")
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
