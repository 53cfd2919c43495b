"""Our controls in nerfstudio's viewer: figures, saving, a preview of ``splatkit clean``, and export as a download."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from nerfstudio.viewer.viewer_elements import (
    ViewerButton,
    ViewerCheckbox,
    ViewerControl,
    ViewerDropdown,
    ViewerElement,
    ViewerSlider,
)
from torch import Tensor, nn

from splatkit_ns import formats
from splatkit_ns.cleaning import rules
from splatkit_ns.cleaning.weights import seen_in
from splatkit_ns.errors import SplatkitError, describe_os_error
from splatkit_ns.formats import Gaussians, usable_format_names
from splatkit_ns.formats.frames import Similarity, split_offset, transform
from splatkit_ns.plugin.data.cameras import lens_views
from splatkit_ns.plugin.data.scenes.scene_frames import frame_to_training
from splatkit_ns.plugin.viewer.keyframes import mend_camera_paths
from splatkit_ns.plugin.viewer.shown import Shown
from splatkit_ns.splat import SplatTrainingState

FRAMES = ("nerfstudio", "dataset", "world")
MOST_SHARE = 5.0
_MOST_MEASURED = 8


class Text(ViewerElement[str]):
    """A line of text. Unlike nerfstudio's, it has no callback, which would wait for the lock of the training."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def _create_gui_handle(self, viser_server: Any) -> None:
        self.gui_handle = viser_server.gui.add_markdown(self.text)

    def install(self, viser_server: Any) -> None:
        """Add the line to the viewer."""
        self._create_gui_handle(viser_server)

    def show(self, text: str) -> None:
        """Change the text."""
        if text != self.text:
            self.text = text
            if self.gui_handle is not None:
                self.gui_handle.content = text  # type: ignore[union-attr]


class Button(ViewerButton):
    """A button that remembers which client has pressed it."""

    client: Any = None

    def install(self, viser_server: Any) -> None:
        """Add the button to the viewer."""
        self._create_gui_handle(viser_server)
        self.gui_handle.on_click(self._pressed)

    def _pressed(self, event: Any) -> None:
        self.client = event.client
        self.cb_hook(self)


@contextmanager
def _noted(logger: logging.Logger) -> Generator[list[str]]:
    """The warnings that this thread logs in the block, such as of what a format cannot hold."""
    notes: list[str] = []
    handler, thread = logging.Handler(logging.WARNING), threading.get_ident()
    handler.emit = lambda record: notes.append(record.getMessage()) if record.thread == thread else None
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


class _Access(ViewerControl):
    """Reaches the viewer, and through it the trainer if there is one."""

    viewer: Any = None

    def __init__(self, on_ready: Callable[[bool], None]) -> None:
        self._on_ready = on_ready

    def _setup(self, viewer: Any) -> None:
        super()._setup(viewer)
        mend_camera_paths()
        self._on_ready(viewer.trainer is not None)


class ViewerPanel(nn.Module):
    """The elements of the panel, which nerfstudio's viewer finds as attributes and shows in the order of their names.

    Callbacks run while no step is trained and nothing is rendered: nerfstudio holds the lock of the training.

    Args:
        model: a `SplatkitModel`.
        datamanager: of the same pipeline.
    """

    def __init__(self, model: Any, datamanager: Any) -> None:
        super().__init__()
        self._owned = (model, datamanager)  # in a tuple, so that they are not counted as modules of this one
        self.shown = Shown(sh_degree=model.config.sh_degree, on_render=self._count)
        self._weights: Tensor | None = None
        self._looked_at_step = -1
        """The step after which the photographs were looked at for `_weights`."""
        self.access = _Access(self._hide_for_viewing)
        self.a_number = Text("Gaussians: ?")
        self.b_psnr = Text("PSNR: not measured")
        self.c_measure = Button("Measure PSNR", self._told(self._measure))
        self.d_save = Button("Save now", self._told(self._save))
        self.e_stop = Button("Stop and save", self._told(self._stop))
        highest = model.config.sh_degree
        self.f_degree = ViewerSlider(
            "SH degree", highest, 0, max(highest, 1), 1, disabled=highest == 0, cb_hook=self._choose_degree
        )
        self.g_share = ViewerSlider(
            "Clean: share (%)", 100 * rules.WEIGHT_SHARE, 0.0, MOST_SHARE, 0.01, cb_hook=self._told(self._preview),
            hint="The share of the training photographs that may be lost.",
        )  # fmt: skip
        self.h_preview = ViewerCheckbox(
            "Preview clean", False, cb_hook=self._told(self._preview),
            hint="Hide the Gaussians that the photographs hardly show. The first time, all photographs are looked at.",
        )  # fmt: skip
        self.i_cleaned = Text("Nothing is hidden")
        names = list(usable_format_names())
        self.j_format = ViewerDropdown("Format", "spz" if "spz" in names else names[0], names)
        self.k_frame = ViewerDropdown("Frame", FRAMES[0], list(FRAMES))
        self.l_download = Button("Download", self._told(self._download))

    # ------------------------------------------------------------------ figures

    @property
    def _model(self) -> Any:
        return self._owned[0]

    def _count(self, state: SplatTrainingState) -> None:
        self.a_number.show(f"Gaussians: {len(state):,}")

    @torch.no_grad()
    def _measure(self, element: Any) -> None:
        model = self._model
        frames: list[Any] = self._owned[1].fixed_indices_eval_dataloader
        chosen = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(len(frames), _MOST_MEASURED))})
        was_training = model.training
        model.eval()
        try:
            found: list[float] = []
            for index in chosen:
                camera, batch = frames[index]
                found.append(float(model.get_metrics_dict(model.get_outputs_for_camera(camera), batch)["psnr"]))
        finally:
            model.train(was_training)
        name = "Held-out PSNR" if model.context.data_provider.holds_images_out else "PSNR, nothing held out"
        if not found:
            self.b_psnr.show(f"{name}: masks leave no pixel")
            return
        of = f"{len(found)} of {len(frames)}" if len(found) < len(frames) else str(len(found))
        self.b_psnr.show(f"{name}: {np.mean(found):.2f} dB of {of} image(s), after step {model.context.step:,}")

    # ------------------------------------------------------------------ training

    def _hide_for_viewing(self, trains: bool) -> None:
        """Hide what has no meaning without a training."""
        for element in (self.d_save, self.e_stop):
            element.set_hidden(not trains)

    def _save(self, element: Any) -> None:
        context = self._model.context
        if context.step < 1:
            raise SplatkitError("There is nothing to save before the first step.")
        path = Path(self.access.viewer.trainer.checkpoint_dir) / f"step-{context.step - 1:09d}.ckpt"
        self._model.training_state.save_ckpt(path)
        self._tell(element, "Saved", str(path))

    def _stop(self, element: Any) -> None:
        self._model.context.stop("stopped in the viewer")
        self._tell(element, "Stopping", "The training ends after this step, and is saved.")

    # ------------------------------------------------------------------ view

    def _choose_degree(self, element: Any) -> None:
        self.shown.sh_degree = int(element.value)

    def _preview(self, element: Any) -> None:
        if not self.h_preview.value:
            self.shown.kept = None
            self.i_cleaned.show("Nothing is hidden")
            return
        self._hide(anew=element is self.h_preview)

    def _hide(self, *, anew: bool) -> None:
        """Hide what the photographs hardly show.

        Args:
            anew: whether all photographs are looked at again if Gaussians have been trained since; else only if their
                number has changed, so that the slider follows the hand.
        """
        model = self._model
        state, step = model.training_state, model.context.step
        if self._weights is None or len(self._weights) != len(state) or (anew and step != self._looked_at_step):
            self._weights, self._looked_at_step = self._look(state), step
        gone = torch.from_numpy(rules.unneeded(self._weights.numpy(), self.g_share.value / 100))
        self.shown.kept = ~gone
        hidden = int(gone.sum())
        self.i_cleaned.show(f"{hidden:,} of {len(gone):,} Gaussians are hidden ({hidden / len(gone):.1%})")

    def _look(self, state: SplatTrainingState) -> Tensor:
        cameras = self._owned[1].train_dataset.cameras.to(state.device)
        views = lens_views(cameras)
        return seen_in(self._model.renderer, state, views).weights

    # ------------------------------------------------------------------ export

    def _download(self, element: Any) -> None:
        """Copy the Gaussians while nothing trains, and write and send the file while training goes on."""
        gaussians = self._gaussians()
        name, frame = f"scene.{self.j_format.value}", self.k_frame.value
        move = Similarity.identity() if frame == "nerfstudio" else self._move_to(frame)
        move, offset = split_offset(gaussians, move)
        if offset is not None:
            raise SplatkitError(
                f"The scene is too far from the origin of the frame {frame} for one file: use splatkit export --frame."
            )
        self._tell(element, "Export", f"{name} is being written.")
        work = self._told(lambda element: self._send(element, transform(gaussians, move), name))
        threading.Thread(target=work, args=(element,), daemon=True).start()

    def _gaussians(self) -> Gaussians:
        """A copy of the Gaussians, without those that the preview hides; they are chosen anew if training went on."""
        if self.h_preview.value:
            self._hide(anew=True)
        model = self._model
        whole = model.training_state.to_splat_model(model.renderer.splat_mode).to_gaussians()
        kept = self.shown.kept
        return whole if kept is None else whole.take(kept.numpy())

    def _move_to(self, frame: Any) -> Similarity:
        return Similarity.from_dataparser(*frame_to_training(self._owned[1], frame)).inverse()

    def _send(self, element: Any, gaussians: Gaussians, name: str) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder, name)
            with _noted(logging.getLogger(formats.__name__)) as notes:
                formats.write(path, gaussians)
            content = path.read_bytes()
        for note in notes:
            self._tell(element, "Note", note.replace(str(path), name))
        element.client.send_file_download(name, content)

    # ------------------------------------------------------------------ messages

    def _told(self, work: Callable[[Any], None]) -> Callable[[Any], None]:
        """A callback that shows errors in the viewer."""

        def call(element: Any) -> None:
            try:
                work(element)
            except SplatkitError as error:
                self._tell(element, "Error", str(error))
            except OSError as error:
                self._tell(element, "Error", describe_os_error(error))

        return call

    def _tell(self, element: Any, title: str, text: str) -> None:
        """Show a message to the client that has pressed a button, or to all."""
        client = getattr(element, "client", None)
        clients = [client] if client is not None else list(self.access.viewer.viser_server.get_clients().values())
        for each in clients:
            each.add_notification(title, text, auto_close=8000)
