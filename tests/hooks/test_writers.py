"""Writers write what they get."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from splatkit_ns.errors import SplatkitError
from splatkit_ns.hooks import JsonLinesWriter, TensorboardWriter, Writer, open_writers
from splatkit_ns.hooks.writers import WRITER_REGISTRY, Writers


def lines(folder: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_json_lines(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path / "logs")
    writer.write_config("config", {"max_steps": 3, "folder": Path("a"), "nested": {"lr": 0.1}}, 0)
    writer.write_scalar("loss", torch.tensor(0.25), 1)
    writer.write_scalar("loss", math.nan, 2)
    image = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    writer.write_image("val image/0", image, 2)
    writer.close()
    assert lines(tmp_path / "logs") == [
        {"step": 0, "name": "config", "config": {"max_steps": 3, "folder": "a", "nested": {"lr": 0.1}}},
        {"step": 1, "name": "loss", "value": 0.25},
        {"step": 2, "name": "loss", "value": "nan"},
        {"step": 2, "name": "val image/0", "image": "images/val_image_0_000002.png"},
    ]
    pixels = np.asarray(Image.open(tmp_path / "logs/images/val_image_0_000002.png"))
    np.testing.assert_allclose(pixels / 255, image.numpy(), atol=0.5 / 255 + 1e-6)


def test_json_lines_of_a_resumed_run_are_appended(tmp_path: Path) -> None:
    for step in (1, 2):
        writer = JsonLinesWriter(tmp_path)
        writer.write_scalar("loss", 0.5, step)
        writer.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_every_line_is_there_at_once(tmp_path: Path) -> None:
    writer = JsonLinesWriter(tmp_path)
    writer.write_scalar("loss", 0.5, 1)
    assert len(lines(tmp_path)) == 1  # also if the process is killed now
    writer.close()


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorboardWriter(tmp_path)
    writer.write_scalar("loss", torch.tensor(0.25), 1)
    writer.write_scalar("loss", 0.125, 2)
    writer.write_image("render", torch.full((4, 5, 3), 0.5), 2)
    writer.write_config("config", {"max_steps": 3}, 0)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.25), (2, 0.125)]
    (image,) = events.Images("render")
    assert (image.step, image.height, image.width) == (2, 4, 5)
    assert b"max_steps: 3" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_joins_the_run_that_nerfstudio_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from splatkit_ns.plugin.reporting.writers import nerfstudio_writer  # alone, nerfstudio's module cannot be imported

    written: list[Any] = []
    theirs = object.__new__(nerfstudio_writer.WandbWriter)
    monkeypatch.setattr(theirs, "write_scalar", lambda *args: written.append(args), raising=False)
    monkeypatch.setattr(nerfstudio_writer, "EVENT_WRITERS", [theirs])
    ours = WRITER_REGISTRY.get("WandbWriter").for_run(tmp_path, "experiment", "project")
    ours.write_scalar("loss", torch.tensor(0.5), 10)
    assert written == [("loss", 0.5, 9)]  # nerfstudio counts from 0


@pytest.mark.parametrize(
    ("vis", "error", "advice"),
    [
        ("wandb", ValueError("requires a key "), "requires a key. Log in with `wandb login`"),
        ("comet", ValueError("requires a key "), "requires a key. Set COMET_API_KEY"),
        ("wandb", ModuleNotFoundError("No module named 'wandb'"), "No module named 'wandb'. Install it with pip."),
    ],
)
def test_a_service_that_cannot_be_reached_is_one_message(
    tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vis: str, error: Exception, advice: str
) -> None:
    from splatkit_ns.plugin.reporting.writers import nerfstudio_writer
    from tests.hooks.runs import make_trainer

    def refuse(**kwargs: Any) -> None:
        raise error  # as wandb and comet do without a login

    monkeypatch.setattr(nerfstudio_writer, "WandbWriter", refuse)
    monkeypatch.setattr(nerfstudio_writer, "CometWriter", refuse)
    run = make_trainer(tiny_scene, tmp_path, vis=vis)
    with pytest.raises(SplatkitError, match=re.escape(f"--vis {vis} could not start a run: {advice}")):
        run.setup()


def test_other_faults_of_the_set_up_are_left_as_they_are() -> None:
    from splatkit_ns.plugin.reporting.writers import explained_logins

    with pytest.raises(ValueError, match="another"), explained_logins("wandb"):
        raise ValueError("another")


def test_several_writers_are_one(tmp_path: Path) -> None:
    writer = open_writers(["JsonLinesWriter", "splatkit_ns.hooks:JsonLinesWriter"], tmp_path, "experiment", "project")
    assert isinstance(writer, Writers)
    writer.write_scalar("loss", torch.tensor(0.5), 1)
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "name": "loss", "value": 0.5}] * 2
    assert open_writers([], tmp_path, "experiment", "project") is None


class Noted(JsonLinesWriter):
    """Notes that it is closed, and that fails."""

    closed: ClassVar[list[Noted]] = []

    def close(self) -> None:
        super().close()
        self.closed.append(self)
        raise OSError(28, "No space left on device")


class Unreachable(JsonLinesWriter):
    """Cannot be made."""

    def __init__(self, log_dir: Path) -> None:
        raise ConnectionError("no network")


def test_writers_are_closed_if_a_later_one_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noted, "closed", [])
    names = [f"{__name__}:{name}" for name in ("Noted", "Noted", "Unreachable")]
    with pytest.raises(ConnectionError, match="no network"):
        open_writers(names, tmp_path, "experiment", "project")
    assert len(Noted.closed) == 2, "the one that failed to close does not keep the other open"


def test_a_writer_must_have_all_three_methods(tmp_path: Path) -> None:
    class Half(Writer):
        def write_scalar(self, name: str, scalar: Any, step: int) -> None:
            pass

    with pytest.raises(TypeError, match="write_config"):
        Half()  # type: ignore[abstract]
