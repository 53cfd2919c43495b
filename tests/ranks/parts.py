"""Parts for runs of several ranks."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splatkit_ns.cameras import View
from splatkit_ns.densification import SplatDensification
from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules import SplatBaseModule
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.plugin.run.folder.folder_lock import FolderLock
from splatkit_ns.renderer import RenderOptions
from splatkit_ns.splat import SplatTrainingState
from tests.faults.runs import CheapRenderer


class LeaderDecides(SplatDensification):
    """As the documents show it: only rank 0 makes masks, and changes rows with them."""

    def densify(
        self, step: int, training_state: SplatTrainingState, rend_out: Any, world_rank: int = 0, world_size: int = 1
    ) -> None:
        assert world_size == 2
        if world_rank == 0 and step % 6 == 0:
            gradients = rend_out.means2d.grad[0].norm(dim=-1)
            clone_mask, prune_mask = torch.zeros_like(gradients, dtype=torch.bool), training_state.opacities < 0.05
            clone_mask[gradients.topk(5).indices] = True
            if clone_mask.any():
                training_state.duplicate(clone_mask)
            if prune_mask.any():
                training_state.remove(prune_mask)


class EachDecides(SplatDensification):
    """Does not know of ranks: each splits and removes other Gaussians, by the photograph that it has just seen."""

    def densify(self, step: int, training_state: SplatTrainingState, image_index: int) -> None:
        if step % 6 == 0:
            rows = torch.arange(len(training_state))
            training_state.split(rows % 11 == image_index)
            training_state.remove(rows % 7 == image_index % 7)


class NamesPhotographs(SplatBaseModule[Any]):
    """Each rank names other photographs to be drawn next."""

    def pre_batch(self, world_rank: int, data_provider: Any) -> None:
        data_provider.draw_next([3 - world_rank, 1 + world_rank])


class LogsOnRankZero(SplatBaseModule[Any]):
    """As the documents advise: a resource that is opened in `on_setup`, and a log that rank 0 alone writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_setup(self, world_rank: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = (self.folder / f"log_{world_rank}.txt").open("w")

    def post_step(self, step: int, world_rank: int, loss: Tensor) -> None:
        if world_rank == 0:
            self.log.write(f"{step} {float(loss.detach())}\n")

    def on_cleanup(self) -> None:
        self.log.close()


class OpensTooEarly(SplatBaseModule[Any]):
    """Against the documents' advice, its resource is opened before the ranks are started."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def post_step(self, step: int) -> None:
        with self.lock:
            pass


@dataclass
class ListsByView(CheapRenderer):
    """The tile lists of some cameras are longer than those of others, and become longer by and by."""

    def render(
        self, training_state: SplatTrainingState, view: View, options: RenderOptions = RenderOptions()
    ) -> SplatRenderPayload:
        if options.list_space is not None:
            options.list_space.longest = 50_000 + int(1e4 * view.cam_to_worlds[0, 0, 3]) + len(training_state)
        return super().render(training_state, view, options)


class OnRank(SplatBaseModule[Any]):
    """Does something at a step on one rank alone, between the drawing of its photograph and its render.

    Args:
        rank: of the process.
        when: the step, 1-based.
        action: the name of one of the methods below.
    """

    def __init__(self, rank: int, when: int, action: str) -> None:
        self.rank, self.when, self.action = rank, when, action

    def pre_step(self, step: int, world_rank: int, training_state: SplatTrainingState, stop: Any) -> None:
        if step == self.when and world_rank == self.rank:
            getattr(self, self.action)(training_state, stop)

    def kill(self, training_state: SplatTrainingState, stop: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def terminate(self, training_state: SplatTrainingState, stop: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def fail(self, training_state: SplatTrainingState, stop: Any) -> None:
        raise KeyError("a fault of a part")

    def refuse(self, training_state: SplatTrainingState, stop: Any) -> None:
        raise SplatkitError("The part cannot go on.")

    def fill_memory(self, training_state: SplatTrainingState, stop: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def ask_to_stop(self, training_state: SplatTrainingState, stop: Any) -> None:
        stop("enough")

    def leave(self, training_state: SplatTrainingState, stop: Any) -> None:
        raise SystemExit(7)

    def fill_disk(self, training_state: SplatTrainingState, stop: Any) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = full

    def shift(self, training_state: SplatTrainingState, stop: Any) -> None:
        training_state.params["means"].data[0, 0] += 1e-3


class MovesTheFolder(SplatBaseModule[Any]):
    """Moves the folder of the run away at step 6, on rank 0; another run, on rank 1, begins to write there at step 24.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pre_step(self, step: int, world_rank: int) -> None:
        if world_rank == 0 and step == 6:
            self.folder.rename(self.folder.with_name("moved"))
        if world_rank == 1 and step == 24:
            FolderLock.acquire(self.folder)


class ClosesTheTerminal(SplatBaseModule[Any]):
    """Lets rank 0 write to a terminal, and closes it at step 12, of which the process that started the ranks is told.

    Args:
        terminal: its path.
        holder: the process that has the other end.
        starter: the process that started the ranks.
    """

    def __init__(self, terminal: str, holder: int, starter: int) -> None:
        self.terminal, self.holder, self.starter = terminal, holder, starter

    def on_setup(self, world_rank: int) -> None:
        if world_rank == 0:
            descriptor = os.open(self.terminal, os.O_RDWR | os.O_NOCTTY)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.close(descriptor)

    def pre_step(self, step: int, world_rank: int) -> None:
        if world_rank == 0 and step == 12:
            assert os.isatty(1)
            os.kill(self.holder, signal.SIGKILL)
            while os.isatty(1):
                time.sleep(0.001)
            os.kill(self.starter, signal.SIGHUP)
            os.kill(self.starter, signal.SIGHUP)
            while signal.getsignal(signal.SIGINT) != signal.SIG_DFL:  # until it has been passed on
                time.sleep(0.001)


class SpoiltLoss(SplatBaseModule[Any]):
    """The photograph of rank 1 holds NaN at a step."""

    def pre_step(self, step: int, world_rank: int, target_frames: Tensor) -> Any:
        from splatkit_ns.parts.frame_edit import FrameEdit

        if step == 8 and world_rank == 1:
            return FrameEdit(target_frames=target_frames * torch.nan)
        return None
