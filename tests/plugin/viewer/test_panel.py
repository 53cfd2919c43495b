"""The panel in nerfstudio's viewer, on a real viser server; clients are made up, and press what people click."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer import Viewer

from splatkit_ns import SplatModel
from splatkit_ns.plugin.step.measures import CAMERA_IMAGE
from splatkit_ns.plugin.trainer import SplatkitTrainer
from splatkit_ns.plugin.viewer.panel import ViewerPanel
from splatkit_ns.splat import read_checkpoint
from tests.plugin.helpers import make_pipeline, make_trainer, run_config


class Client:
    """A browser: keeps the messages that it shows, and the files that it downloads."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}

    def add_notification(self, title: str, body: str, **options: Any) -> None:
        self.told.append((title, body))

    def send_file_download(self, filename: str, content: bytes) -> None:
        self.files[filename] = content

    def press(self, button: Any) -> None:
        button._pressed(SimpleNamespace(client=self))


def choose(element: Any, value: Any) -> None:
    """What a client's choice does: the value is set and the callback runs."""
    element.gui_handle._impl.value = value
    element.cb_hook(element)


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def trainer(tiny_scene: Path, tmp_path: Path) -> Iterator[SplatkitTrainer]:
    """A training with a viewer, set up, that nothing but a click ends."""
    config = run_config(tiny_scene, tmp_path, steps=1_000_000)
    config.vis = "viewer"
    config.viewer.websocket_host, config.viewer.websocket_port = "127.0.0.1", free_port()
    config.viewer.quit_on_train_completion = True
    made = make_trainer(config)
    yield made
    made.shutdown()


def test_saved_and_stopped_by_clicks_while_it_trains(trainer: SplatkitTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, client = trainer.pipeline.panel, Client()
    assert isinstance(panel, ViewerPanel)
    assert isinstance(trainer.viewer_state, Viewer)
    assert {element for _, element in trainer.viewer_state.viewer_elements} >= {panel.a_number, panel.l_download}
    failures: list[BaseException] = []

    def clicks() -> None:
        try:
            wait_for(lambda: trainer.pipeline.model.context.step > 4)
            client.press(panel.c_measure)
            client.press(panel.d_save)
            client.press(panel.l_download)
            wait_for(lambda: bool(client.files))
        except BaseException as error:
            failures.append(error)
        client.press(panel.e_stop)

    person = threading.Thread(target=clicks)
    person.start()
    trainer.train()
    person.join()
    assert failures == []
    saved = Path(dict(client.told)["Saved"])
    assert f"step-{read_checkpoint(saved)['step']:09d}.ckpt" == saved.name
    last = max(trainer.checkpoint_dir.glob("*.ckpt"))
    assert 4 <= int(saved.stem[5:]) <= int(last.stem[5:]) == trainer.step
    assert dict(client.told)["Stopping"] == "The training ends after this step, and is saved."
    assert panel.b_psnr.text.startswith("Held-out PSNR: ")
    assert " dB of 2 image(s), after step " in panel.b_psnr.text
    assert client.files["scene.spz"][:2] == b"\x1f\x8b"

    def full(path: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(trainer.pipeline.model.training_state, "save_ckpt", full)
    client.press(panel.d_save)
    title, text = client.told[-1]
    assert title == "Error"
    assert "No space left on device" in text


def test_psnr_is_that_of_ns_eval(tiny_scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what an image model makes of the render, if it does so in evaluation."""
    pipeline = make_pipeline(tiny_scene).eval()
    model: Any = pipeline.model
    darker = lambda self, rendered, view: {CAMERA_IMAGE: 0.5 * rendered}  # noqa: E731
    monkeypatch.setattr(type(model.parts), "images_of_new_view", darker)
    pipeline.panel._measure(None)
    figures = pipeline.get_average_eval_image_metrics()
    assert f"Held-out PSNR: {figures['psnr']:.2f} dB" in pipeline.panel.b_psnr.text


def test_psnr_of_images_that_are_trained_on_is_not_called_held_out(tiny_scene: Path) -> None:
    pipeline = make_pipeline(tiny_scene).eval()
    pipeline.datamanager.eval_dataset.image_filenames[0] = pipeline.datamanager.train_dataset.image_filenames[0]
    pipeline.panel.c_measure.cb_hook(pipeline.panel.c_measure)
    assert pipeline.panel.b_psnr.text.startswith("PSNR, nothing held out: ")


def test_the_panel_without_a_training(tiny_scene: Path, tmp_path: Path) -> None:
    """As ns-viewer opens a run: no buttons for a training; preview, degree and downloads work."""
    pipeline, client, lock = make_pipeline(tiny_scene).eval(), Client(), threading.Lock()
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port=free_port())
    viewer = Viewer(config, tmp_path / "log.txt", tiny_scene, pipeline, train_lock=lock)
    try:
        panel, model = pipeline.panel, pipeline.model
        assert panel.d_save.gui_handle.visible is False
        assert panel.l_download.gui_handle.visible is True
        torch.nn.init.normal_(model.gauss_params["shN"], std=0.1)
        model.update_to_step(10_000)  # when all degrees are used
        camera = pipeline.datamanager.eval_dataset.cameras[:1]
        whole = model.get_outputs_for_camera(camera)["rgb"]

        class InViewer(RenderStateMachine):
            def __init__(self) -> None:
                threading.Thread.__init__(self)

            def run(self) -> None:
                self.image = model.get_outputs_for_camera(camera)["rgb"]

        def shown() -> torch.Tensor:
            thread = InViewer()
            thread.start()
            thread.join()
            return thread.image

        assert torch.equal(shown(), whole)
        assert panel.a_number.text == f"Gaussians: {model.num_points:,}"
        choose(panel.f_degree, 0)
        plain = shown()
        assert not torch.allclose(plain, whole, atol=1e-3)
        assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], whole), "evaluation does not follow the panel"
        choose(panel.f_degree, 3)
        choose(panel.g_share, 5.0)
        assert torch.equal(shown(), whole)
        choose(panel.h_preview, True)
        hidden = int(panel.i_cleaned.text.split()[0].replace(",", ""))
        assert 0 < hidden < model.num_points
        assert 0 < float((shown() - whole).abs().mean()) < 0.05
        for name in ("ply", "sog", "splat"):
            choose(panel.j_format, name)
            client.press(panel.l_download)
            wait_for(lambda name=name: f"scene.{name}" in client.files)
        notes = [text for title, text in client.told if title == "Note"]
        assert notes == [
            "scene.splat: .splat files have no spherical harmonics; colours do not change with the direction."
        ]
        (tmp_path / "scene.ply").write_bytes(client.files["scene.ply"])
        found = SplatModel.load(tmp_path / "scene.ply")
        assert len(found) == model.num_points - hidden
        state = model.training_state  # as if training went on, and moved unneeded Gaussians to where they are needed
        for parameter in state.params.values():
            parameter.data = parameter.data.flip(0)
        model.update_to_step(10_001)
        client.files.clear()
        choose(panel.j_format, "ply")
        client.press(panel.l_download)
        wait_for(lambda: bool(client.files))
        (tmp_path / "later.ply").write_bytes(client.files["scene.ply"])
        assert torch.equal(SplatModel.load(tmp_path / "later.ply").means, found.means.flip(0)), "the same are hidden"
        choose(panel.h_preview, False)
        assert panel.i_cleaned.text == "Nothing is hidden"
        for parameter in state.params.values():
            parameter.data = parameter.data.flip(0)
        assert torch.equal(shown(), whole)
        choose(panel.j_format, "ply")
        choose(panel.k_frame, "dataset")
        client.files.clear()
        client.press(panel.l_download)
        wait_for(lambda: bool(client.files))
        (tmp_path / "moved.ply").write_bytes(client.files["scene.ply"])
        moved = SplatModel.load(tmp_path / "moved.ply")
        assert len(moved) == model.num_points
        ours = model.training_state.means.detach().numpy()
        ratio = np.linalg.norm(np.ptp(moved.means.numpy(), axis=0)) / np.linalg.norm(np.ptp(ours, axis=0))
        scale = float(pipeline.datamanager.train_dataparser_outputs.dataparser_scale)
        assert ratio == pytest.approx(1 / scale, rel=0.3)
        assert not lock.locked()
    finally:
        viewer.viser_server.stop()
