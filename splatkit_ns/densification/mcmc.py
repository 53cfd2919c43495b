"""3D Gaussian Splatting as Markov Chain Monte Carlo (https://arxiv.org/abs/2404.09591).

The rules and their settings are those of gsplat's ``MCMCStrategy``. The code is our own because gsplat's needs CUDA
kernels that have no CPU counterpart (relocation, covariances).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from splatkit_ns.densification.base import (
    Motion,
    SplatDensification,
    limit_initial_number,
    warn_if_idle,
)
from splatkit_ns.densification.scene_limit import LimitByNeed
from splatkit_ns.densification.screen_gradients import (
    NO_ABSGRAD,
    add_to_gaussians,
    best_screen_gradients,
    gradient_norms,
    lacks_absgrad,
)
from splatkit_ns.parts.fitting import refine_start, relocation_every, relocation_stop
from splatkit_ns.parts.payload import SplatRenderPayload
from splatkit_ns.parts.steps import is_due
from splatkit_ns.ranges import InnerFraction, NonNegative, Positive
from splatkit_ns.ranks import Ranks
from splatkit_ns.rotations import rotation_matrices
from splatkit_ns.splat import RowChange, SplatTrainingState
from splatkit_ns.triton_kernels import LazyKernel, lazy_kernel

MAX_RATIO = 51
"""The largest number of relocations onto one Gaussian at once (as in the authors' code)."""
LEAST_PULL = 1e-3
"""The share of the mean gradient that is added to each one, so that Gaussians without gradients can be drawn, too."""


@dataclass
class SplatMCMCDensification(SplatDensification[SplatRenderPayload]):
    """A strategy that moves dead Gaussians onto opaque ones, grows by 5 % up to a cap, and adds noise to positions."""

    max_gaussians: Annotated[int, Positive] = 1_000_000
    """Number of Gaussians to grow to (gsplat's cap_max)."""
    max_per_seed: Annotated[float, NonNegative] = 0.0
    """Grow to at most this many Gaussians for each one that the run started with; 0 = no such limit. The limit is at
    least one Gaussian per 1,000 pixels of the training images, for scenes with few seed points, and at most one per
    pixels_per_gaussian."""
    pixels_per_gaussian: Annotated[float, Positive] = 50.0
    """With max_per_seed: at most one Gaussian for this many pixels of all training images."""
    usual_seeds: Annotated[float, NonNegative] = 0.0
    """With max_per_seed: a run that starts with more Gaussians than this grows to fewer for each one, with eight times
    as many to half. 0 = to as many, however many there are."""
    usual_error: Annotated[float, NonNegative] = 0.0
    """With max_per_seed: scenes that are harder to learn grow to more Gaussians, easier ones to fewer. Once, when seven
    tenths of the limit are reached, max_per_seed is multiplied by the root of the training images' error, 1 - SSIM,
    over this one, but by no less than 0.7 and no more than 1.5. 0 = all scenes are the same."""
    noise_lr: Annotated[float, NonNegative] = 5e5
    """Strength of the noise on the positions, times their learning rate."""
    refine_start_iter: Annotated[int, NonNegative] = refine_start(500)
    """Relocation and growth start after this step."""
    refine_stop_iter: Annotated[int, NonNegative] = relocation_stop(25_000)
    """Relocation and growth end before this step; the noise goes on."""
    refine_every: Annotated[int, Positive] = relocation_every(100)
    """Steps between relocations."""
    min_opacity: Annotated[float, InnerFraction] = 0.005
    """Gaussians with at most this opacity are dead, which means that they are relocated."""
    growth: Annotated[float, NonNegative] = 0.05
    """Share of new Gaussians at each refinement."""
    gradient_power: Annotated[float, NonNegative] = 0.0
    """Gaussians are drawn in proportion to their opacity times this power of their (absolute) positional gradients on
    the screen, summed up since the last refinement; a line says if there are only signed ones, or none. 0: by opacity
    alone, as in the paper."""

    number_at_start = cast("int | None", None)  # of Gaussians when the run began; None before the set-up
    cap_before = cast("int | None", None)  # the max_gaussians of the run that is resumed
    need = cast("float | None", None)  # of the scene, see `LimitByNeed`; None if it is not known
    gradient_sums = cast("Tensor | None", None)  # (N,), since the last refinement; None if opacities alone count
    _is_moved = False  # whether this step's noise has been added, see `motion`

    def on_setup(
        self, logger: Any, training_state: SplatTrainingState, data_provider: Any = None, renderer: Any = None
    ) -> None:
        warn_if_idle(self, logger)
        limit_initial_number(training_state, self.max_gaussians, logger, self.cap_before)
        if self.number_at_start is None:
            self.number_at_start = len(training_state)
        self._limit = LimitByNeed(self, self.number_at_start, data_provider, logger, self.need)
        if self.gradient_power > 0:
            found = best_screen_gradients(renderer, data_provider, self.module_name, logger)
            self._absolute, self._logger = found == "absolute", logger
            if found is None:
                self.gradient_sums = None
            elif self.gradient_sums is None or len(self.gradient_sums) != len(training_state):
                self.gradient_sums = torch.zeros(len(training_state), device=training_state.device)

    @property
    def limit(self) -> int:
        """The largest number of Gaussians, once the strategy is set up."""
        return self._limit.number

    @property
    def gpu_kernels(self) -> tuple[LazyKernel[Any], ...]:
        return (noise_kernel,)

    def state_dict(self) -> dict[str, Any]:
        if self.number_at_start is None:
            return {}
        known = {"need": self.need, "gradient_sums": self.gradient_sums}
        return {
            "number_at_start": self.number_at_start,
            "max_gaussians": self.max_gaussians,
            **{name: value for name, value in known.items() if value is not None},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number_at_start = int(state["number_at_start"])
        self.cap_before, self.gradient_sums = state.get("max_gaussians"), state.get("gradient_sums")
        self.need = state.get("need")

    def on_gaussians_changed(self, row_change: RowChange) -> None:
        if self.gradient_sums is not None:
            self.gradient_sums = row_change.apply(self.gradient_sums)

    @torch.no_grad()
    def measure(self, rend_out: SplatRenderPayload) -> None:
        if self.gradient_sums is not None:
            rend_out.gradient_norms = self._norms(rend_out)

    def _norms(self, rend_out: SplatRenderPayload) -> Tensor | None:
        """The norms of a render's gradients, of signed ones if the renderer does not pass on what it was asked for."""
        if self._absolute and rend_out.gradient_norms is None and lacks_absgrad(rend_out):
            self._absolute = False
            message = NO_ABSGRAD.format(type(rend_out).__name__)
            self._logger.warning("%s draws by signed gradients: %s", self.module_name, message)
        return gradient_norms(rend_out, self._absolute)

    @torch.no_grad()
    def count_image(self, rend_out: SplatRenderPayload, step: int) -> None:
        """Add an image's gradients to the sums by which Gaussians are drawn."""
        if self.gradient_sums is not None and step < self.refine_stop_iter:
            norms = self._norms(rend_out)
            if norms is not None:
                add_to_gaussians(self.gradient_sums, norms, rend_out.gaussian_ids)

    @torch.no_grad()
    def densify(
        self,
        step: int,
        training_state: SplatTrainingState,
        rend_out: SplatRenderPayload | None = None,
        images_per_step: int = 1,
        **others: Any,
    ) -> None:
        """Relocate and grow at the steps for it; add noise at every step."""
        if rend_out is not None:
            self.count_image(rend_out, step)
        if self._refines_at(step, images_per_step):
            self.gather_from_ranks(Ranks.current())
            self._relocate(training_state)
            self._grow(training_state)
            if self.gradient_sums is not None:
                self.gradient_sums.zero_()
        if self._is_moved:
            self._is_moved = False
        else:
            learning_rate = float(training_state.optimizers["means"].param_groups[0]["lr"])
            add_position_noise(training_state, learning_rate * self.noise_lr)

    def motion(self, training_state: SplatTrainingState) -> Motion | None:
        kernel = _kernel_for(training_state)
        if kernel is None:
            return None

        def numbers(step: int, images_per_step: int, learning_rate: float) -> tuple[float, float]:
            refines = self._refines_at(step, images_per_step)  # then the noise comes after that
            return 0.0 if refines else learning_rate * self.noise_lr, float(_noise_seed())

        def done(step: int, images_per_step: int) -> None:
            self._is_moved = not self._refines_at(step, images_per_step)

        return Motion(partial(_launch_noise, kernel, training_state), numbers, done, size=2)

    def _refines_at(self, step: int, images_per_step: int) -> bool:
        return self.refine_start_iter < step < self.refine_stop_iter and is_due(
            step, self.refine_every, images_per_step
        )

    @torch.no_grad()
    def gather_from_ranks(self, ranks: Ranks) -> None:
        if ranks.size > 1 and self.gradient_sums is not None:
            ranks.add(self.gradient_sums)

    def forget_gathered(self, ranks: Ranks) -> None:
        if not ranks.is_first and self.gradient_sums is not None:
            self.gradient_sums.zero_()

    def _weights(self, training_state: SplatTrainingState) -> Tensor:
        """The weights with which Gaussians are drawn, (N,)."""
        opacities = training_state.opacities
        if self.gradient_sums is None:
            return opacities
        mean = self.gradient_sums.mean().clamp(min=torch.finfo(torch.float32).tiny)  # of no gradients at all, 0
        return opacities * (self.gradient_sums / mean + LEAST_PULL).pow(self.gradient_power)

    def _relocate(self, training_state: SplatTrainingState) -> None:
        dead = training_state.opacities <= self.min_opacity
        dead_rows = dead.nonzero()[:, 0]
        if len(dead_rows) in (0, len(dead)):
            return
        alive_rows = (~dead).nonzero()[:, 0]
        weights = self._weights(training_state)[alive_rows]
        sampled = alive_rows[sample(weights, len(dead_rows))]
        source = torch.arange(len(training_state), device=dead.device)
        copied = source.clone()
        copied[dead_rows] = sampled
        source[dead_rows] = -1
        source[sampled] = -1
        self._rewrite(training_state, source, sampled, copied[source < 0])

    def _grow(self, training_state: SplatTrainingState) -> None:
        before = len(training_state)
        target = min(self.limit, int((1 + self.growth) * before))
        if target > before:
            self._limit.look(target)
            self.need = self._limit.need
            target = min(self.limit, target)
        if target <= before:
            return
        sampled = sample(self._weights(training_state), target - before)
        source = torch.arange(before, device=training_state.device)
        source[sampled] = -1
        rewritten = (source < 0).nonzero()[:, 0]
        source = torch.nn.functional.pad(source, (0, len(sampled)), value=-1)
        self._rewrite(training_state, source, sampled, torch.cat([rewritten, sampled]))

    def _rewrite(self, training_state: SplatTrainingState, source: Tensor, sampled: Tensor, copied: Tensor) -> None:
        """Put copies of the rows ``copied`` into the rewritten rows, fainter the more often each was ``sampled``."""
        ratios = torch.ones(len(training_state), dtype=torch.int64, device=sampled.device)
        ratios.index_add_(0, sampled, torch.ones_like(sampled))  # unlike `bincount`, this does not wait for the GPU
        opacities, scales = relocated(training_state.opacities[copied], training_state.scales[copied], ratios[copied])
        opacities = opacities.clamp(self.min_opacity, 1 - torch.finfo(torch.float32).eps)
        rows = {name: param.detach()[copied] for name, param in training_state.params.items()}
        rows["opacities"] = torch.logit(opacities)
        rows["scales"] = scales.log()
        training_state.change_rows(RowChange(source, len(training_state), new_parents=copied), rows)


def sample(weights: Tensor, num: int) -> Tensor:
    """Draw ``num`` indices with replacement in proportion to the weights (N,); ``torch.multinomial`` limits N."""
    cumulative = weights.double().cumsum(0)
    drawn = torch.rand(num, dtype=torch.float64, device=weights.device) * cumulative[-1]
    rows = torch.searchsorted(cumulative, drawn, right=True).clamp(max=len(weights) - 1)
    Ranks.current().copy_first(rows)  # a GPU's sums may differ in their last bits, and then the rows drawn
    return rows


def relocated(opacities: Tensor, scales: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the opacity and scale with which several Gaussians at one place look like the original one (equation 9).

    Args:
        opacities: opacity of each original, (N,) in (0, 1).
        scales: scales of each original, (N, 3) standard deviations.
        ratios: number of Gaussians that replace it, itself included, (N,) int, at least 1; more than 51 count as 51.

    Returns:
        Opacities (N,) and scales (N, 3) of each of these Gaussians.
    """
    ratios = ratios.clamp(1, MAX_RATIO)
    new_opacities = -torch.expm1(torch.log1p(-opacities.double()) / ratios)  # 1 - (1 - o)^(1/n), also for small o
    # sum over i = 1..ratio, k = 0..i-1 of binomial(i-1, k) (-1)^k o^(k+1) / sqrt(k+1); for each k the sum over i is
    # a number that depends on the ratio alone.
    coefficients = _coefficients(opacities.device)[ratios - 1]
    powers = new_opacities[:, None].pow(torch.arange(1, MAX_RATIO + 1, device=opacities.device))
    denominator = (coefficients * powers).sum(-1)
    shrink = (opacities.double() / denominator).to(scales.dtype)
    return new_opacities.to(opacities.dtype), scales * shrink[:, None]


@lru_cache(maxsize=8)
def _coefficients(device: torch.device) -> Tensor:
    """Return (51, 51) float64 with the sum over i = k+1..n of binomial(i-1, k) (-1)^k / sqrt(k+1) at [n - 1, k]."""
    table = torch.zeros(MAX_RATIO, MAX_RATIO, dtype=torch.float64)
    for n in range(1, MAX_RATIO + 1):
        for k in range(n):
            table[n - 1, k] = math.comb(n, k + 1) * (-1) ** k / math.sqrt(k + 1)
    return table.to(device)


def add_position_noise(training_state: SplatTrainingState, strength: float) -> None:
    """Move every centre by noise shaped like its Gaussian, stronger for transparent Gaussians (equation 8)."""
    means, kernel = training_state.params["means"].data, _kernel_for(training_state)
    if kernel is not None:
        numbers = torch.tensor([strength, _noise_seed()], dtype=torch.float64)
        _launch_noise(kernel, training_state, numbers.to(means.device, non_blocking=True))
        return
    rotations = rotation_matrices(training_state.quats)
    variances = training_state.scales.square()
    gate = torch.sigmoid(100 * ((1 - training_state.opacities) - 0.995))
    noise = torch.randn_like(means) * (gate * strength)[:, None]
    along_axes = (rotations.transpose(1, 2) @ noise[:, :, None])[:, :, 0] * variances
    means.add_((rotations @ along_axes[:, :, None])[:, :, 0])


def _kernel_for(training_state: SplatTrainingState) -> Callable[..., None] | None:
    return noise_kernel() if training_state.params["means"].is_cuda else None


def _noise_seed() -> int:
    """A seed for the kernel, from the CPU's generator: nothing is read back from the GPU."""
    return int(torch.randint(2**31 - 1, ()))


def _launch_noise(kernel: Callable[..., None], training_state: SplatTrainingState, numbers: Tensor) -> None:
    kernel(*(training_state.params[name].data for name in ("means", "quats", "scales", "opacities")), numbers)


@lazy_kernel(otherwise="MCMC's noise takes a dozen PyTorch kernels")
def noise_kernel() -> Callable[..., None]:
    """The kernel that adds noise to positions."""
    from splatkit_ns.densification._noise_triton import add_noise, first_launch

    first_launch("cuda")
    return add_noise
