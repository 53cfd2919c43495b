"""The parts of docs/recipes.md, as a module that configs can name; a test compares it with the page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat3DGSLossFn
from splatkit_ns.modules import FrameEdit, RowTrainable, SplatBaseModule, SplatRenderPayload, Trainable
from splatkit_ns.rasterize import rasterization
from splatkit_ns.renderer import RenderOptions, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import SplatTrainingState


@dataclass
class Exposure(SplatImageModel):
    """A gain and an offset for each photograph and channel."""

    capturable: ClassVar[bool] = True
    lr: float = 0.005

    def trainables(self, num_train_images):
        self.log_gain = nn.Parameter(torch.zeros(num_train_images, 3))
        self.offset = nn.Parameter(torch.zeros(num_train_images, 3))
        gain = Trainable(self.log_gain, lr=self.lr, lr_final=self.lr / 10)
        return {"log_gain": gain, "offset": Trainable(self.offset, lr=self.lr / 10)}

    def apply(self, rendered, frame):
        if frame.image_index is None:
            return rendered
        log_gain, offset = (rows.index_select(0, frame.image_index) for rows in (self.log_gain, self.offset))
        return rendered * log_gain.exp() + offset


@dataclass
class FeatureLoss(Splat3DGSLossFn):
    """3DGS's loss, and eight features a Gaussian that learn to tell the photograph's colours."""

    weight: float = 0.1
    feature_lr: float = 0.01

    def trainables(self):
        self.decoder = nn.Parameter(torch.eye(8, 3))
        features = RowTrainable(shape=(8,), lr=self.feature_lr, initial=lambda state: torch.rand(len(state), 8))
        return {"features": features, "decoder": Trainable(self.decoder, lr=0.001)}

    def compute_loss(self, training_state, view, target_frames, **others):
        terms = super().compute_loss(training_state=training_state, view=view, target_frames=target_frames, **others)
        state, camera = training_state, (view.world_to_cams, view.Ks, view.width, view.height)
        places = (value.detach() for value in (state.means, state.quats, state.scales, state.opacities))
        image, _, _ = rasterization(*places, state.params["features"], *camera)  # (1, H, W, 8)
        terms["features"] = self.weight * (image @ self.decoder - target_frames).abs().mean()
        return terms


@dataclass
class AddWhereDepthErrs(SplatBaseModule):
    """Puts Gaussians where the render's depth is far from the data's."""

    every: int = 500
    error: float = 0.05
    """The least error of depth that counts, as a share of the scene's scale."""
    most: int = 200
    """New Gaussians at a time."""

    def post_step(self, step, max_steps, training_state, rend_out, target_depths, target_frames, view, scene_scale):
        if step % self.every != 0 or step > max_steps // 2:
            return
        depths = target_depths[0, ..., 0]
        wrong = (rend_out.depths_expected[0, ..., 0] - depths).abs() > self.error * scene_scale  # False at NaN
        rows, columns = wrong.nonzero(as_tuple=True)
        drawn = torch.randperm(len(rows))[: self.most].to(rows.device)
        rows, columns = rows[drawn], columns[drawn]
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(rows)], dim=-1)
        in_camera = pixels @ view.Ks[0].inverse().T * depths[rows, columns, None]
        pose = view.cam_to_worlds[0]
        training_state.add(in_camera @ pose[:3, :3].T + pose[:3, 3], target_frames[0, rows, columns])


@dataclass(kw_only=True)
class SkyPayload(SplatRenderPayload):
    """A render, and the sky behind it."""

    sky: torch.Tensor
    """(C, H, W, 3)."""

    def extra_images(self, view):
        return {"sky": self.sky}


@dataclass
class SkyRenderer(SplatRenderer[SkyPayload]):
    """3DGS in front of a sky: a picture of all directions that is learnt with the scene."""

    lr: float = 0.02

    def trainables(self):
        self.picture = nn.Parameter(torch.zeros(1, 3, 32, 64))
        return {"picture": Trainable(self.picture, lr=self.lr)}

    def render(self, training_state, view, options=RenderOptions()):
        y, x = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).to(view.device)
        to_world = view.cam_to_worlds[:, None, :3, :3] @ view.Ks[:, None].inverse()
        rays = F.normalize((to_world[:, :, None] @ pixels[..., None])[..., 0], dim=-1)  # (C, H, W, 3)
        azimuth, height = torch.atan2(rays[..., 1], rays[..., 0]) / torch.pi, rays[..., 2]
        places = torch.stack([azimuth, height], dim=-1)
        picture = self.picture.sigmoid().expand(len(view), -1, -1, -1)
        sky = F.grid_sample(picture, places, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
        front = Splat3DGSRenderer().render(training_state, view, dataclasses.replace(options, backgrounds=None))
        fields = dict(front.items())
        fields["renders"] = front.renders + (1 - front.alphas) * sky
        return SkyPayload(**fields, sky=sky)


@dataclass
class MovingRenderer(Splat3DGSRenderer):
    """3DGS whose Gaussians are moved for each photograph, by a field that is smooth in space."""

    lr: float = 0.001

    def trainables(self, num_train_images):
        self.field = nn.Parameter(torch.zeros(num_train_images, 4, 3))
        return {**super().trainables(), "field": Trainable(self.field, lr=self.lr, lr_final=self.lr / 10)}

    def pre_step(self, image_index, step, max_steps):
        super().pre_step(step, max_steps)  # the renderer's own, which counts for its dropout
        self.index = image_index

    def render(self, training_state, view, options=RenderOptions()):
        if options.is_training:
            means = training_state.means
            places = torch.cat([means.tanh(), torch.ones_like(means[:, :1])], dim=1)
            moved = {**training_state.params, "means": means + places @ self.field[self.index]}
            training_state = SplatTrainingState(moved, {})
        return super().render(training_state, view, options)


@dataclass
class TrustBrightLess(SplatBaseModule):
    """Pixels that are overexposed count less."""

    above: float = 0.95
    weight: float = 0.1

    def pre_step(self, target_frames):
        bright = target_frames.amin(dim=-1) > self.above
        return FrameEdit(pixel_weights=torch.where(bright, self.weight, 1.0))


@dataclass
class HarderMoreOften(SplatBaseModule):
    """In every second step, draws a photograph in proportion to its last error."""

    def on_setup(self, num_train_images):
        self.errors = getattr(self, "errors", torch.ones(num_train_images))

    def pre_batch(self, step, data_provider):
        if step % 2 == 0:
            data_provider.draw_next(torch.multinomial(self.errors, 1).tolist())

    def post_step(self, image_index, rendered_frames, target_frames):
        self.errors[image_index] = float((rendered_frames - target_frames).detach().abs().mean())

    def state_dict(self):
        return {"errors": self.errors}

    def load_state_dict(self, state):
        self.errors = state["errors"].cpu()


@dataclass
class StopWhenFlat(SplatBaseModule):
    """Stops once the mean loss of `window` steps is not lower than that of those before, by a share of it."""

    window: int = 1000
    share: float = 0.01

    def on_setup(self):
        self.losses = getattr(self, "losses", [])

    def post_step(self, loss, stop):
        self.losses.append(loss.detach())
        if len(self.losses) == 2 * self.window:
            before, now = self.losses[: self.window], self.losses[self.window :]
            if sum(now) > (1 - self.share) * sum(before):
                stop("the loss is flat")
            self.losses = now

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = state["losses"]
