"""The methods that ``ns-train`` offers, and a function to make further ones.

Every ``ns-train`` imports this file, for any method: so its imports need no GPU, no compiler and no optional package.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nerfstudio.plugins.types import MethodSpecification

from splatkit_ns.densification import (
    SplatBudgetDensification,
    SplatDensification,
    SplatFittingDensification,
    SplatMCMCDensification,
)
from splatkit_ns.errors import OptionsError, SplatkitError, did_you_mean
from splatkit_ns.image_model import SplatImageModel
from splatkit_ns.loss_fn import Splat2DGSLossFn, Splat3DGSLossFn, SplatLossFn
from splatkit_ns.parts.base import SplatBaseModule
from splatkit_ns.parts.copying import copyable_or_wrapped
from splatkit_ns.parts.fitting import (
    FittingSteps,
    FittingValue,
    in_short_run,
    relocation_every,
    relocation_stop,
    scene_dropout,
    scene_steps,
    sh_interval,
    with_few,
)
from splatkit_ns.plugin.model import SplatkitModelConfig
from splatkit_ns.plugin.run.ending.excepthook import install_config_excepthook
from splatkit_ns.plugin.run.opaque_parts import opaque_part
from splatkit_ns.plugin.run.parts.modules import check_parts
from splatkit_ns.plugin.run_config import gaussian_optimizers, trainer_config
from splatkit_ns.renderer import Splat2DGSRenderer, Splat3DGSRenderer, SplatRenderer
from splatkit_ns.splat import LEARNING_RATES

__all__ = [
    "MethodSpecification",
    "find_method",
    "gaussian_optimizers",
    "make_method",
    "splatkit_2dgs",
    "splatkit_3dgs",
    "splatkit_3dgs_adc",
    "splatkit_3dgs_big",
    "splatkit_3dgs_fast",
    "splatkit_3dgs_mcmc",
    "splatkit_3dgs_small",
    "trainer_config",
]

QUICK_RATES: Mapping[str, float] = MappingProxyType({"scales": 0.01})
"""The learning rates that differ from 3DGS's."""
USUAL_SEEDS, USUAL_ERROR = 17_500, 0.18
"""Those of the scenes for which the numbers of Gaussians for each seed point were chosen."""
MOST_SEED_POINTS = 100_000
"""The seed points that the methods of `_quick_mcmc` and `_small` start from at most. Their number of Gaussians follows
that of the points, but a scanner's millions do not say how many are needed, and those that training adds lie better."""
NAME = re.compile(r"\w[\w.-]*")
"""The names that a method may have: a word of a command line, and of a folder."""

install_config_excepthook()


def make_method(
    name: str,
    *,
    renderer: SplatRenderer[Any] | None = None,
    image_model: SplatImageModel[Any] | None = None,
    loss_fn: SplatLossFn[Any] | None = None,
    densification: SplatDensification[Any] | None = None,
    modules: Sequence[SplatBaseModule[Any]] = (),
    description: str = "",
    **settings: Any,
) -> MethodSpecification:
    """A method for ``ns-train``, made of parts.

    Register what it returns as an entry point of the group ``nerfstudio.method_configs``, or in the environment
    variable ``NERFSTUDIO_METHOD_CONFIGS`` as ``name=package.module:variable``. The fields of parts that are dataclasses
    become flags, such as ``--pipeline.model.loss-fn.ssim-lambda``, but for those of ``modules``.

    Args:
        name: as ``ns-train`` will call it: letters and digits, and after the first also ``.``, ``_`` and ``-``.
        renderer: None means 3DGS's, as for the other parts.
        image_model: None means that images are the renders themselves.
        loss_fn: see `renderer`.
        densification: see `renderer`.
        modules: further modules whose hooks are called during training.
        description: one line for ``ns-train --help``.
        settings: values of further fields of `SplatkitModelConfig` (such as ``sh_degree``) or `SplatkitTrainerConfig`
            (such as ``max_num_iterations``), or the datamanager's ``max_seed_points``.

    Raises:
        ModuleError: a part is no instance of what it should be.
        OptionsError: names every setting of a part that is out of its range, or the name, which is none.
        TypeError: a setting is a field of neither.
    """
    if not NAME.fullmatch(name):
        raise OptionsError([f"name is {name!r}, expected letters and digits, and after the first also . _ -"])
    check_parts(renderer, loss_fn, densification, modules, image_model)
    parts = {"renderer": renderer, "image_model": image_model, "loss_fn": loss_fn, "densification": densification}
    fields = {field.name for field in dataclasses.fields(SplatkitModelConfig)}
    model_settings = {key: value for key, value in settings.items() if key in fields}
    model_settings |= {key: opaque_part(part) for key, part in parts.items() if part is not None}
    trainer_settings = {key: value for key, value in settings.items() if key not in fields}
    config = trainer_config(
        name,
        SplatkitModelConfig(**model_settings),
        attached=tuple(copyable_or_wrapped(module) for module in modules),
        **trainer_settings,
    )
    return MethodSpecification(config=config, description=description)


def _mcmc(densification: SplatDensification[Any], mse_lambda: float = 0.0) -> dict[str, Any]:
    """The start and the regularisers of 3DGS-MCMC, which needs superfluous Gaussians to become transparent."""
    loss_fn = Splat3DGSLossFn(mse_lambda=mse_lambda, opacity_reg=0.01, scale_reg=0.01)
    start = {
        "init_opacity": in_short_run(0.5, short=0.1),
        "init_scale": in_short_run(0.1, short=1.0),
    }
    return {"densification": densification, "loss_fn": loss_fn, **start}


def _quick_mcmc(
    max_per_seed: float,
    refine_stop_iter: FittingSteps,
    dropout: FittingValue,
    pixels_per_gaussian: FittingValue,
    usual_seeds: FittingValue,
    usual_error: FittingValue,
    dropout_full_from: float = 1.0,
    decay_from: float = 0.9,
    growth: float = 0.15,
    refine_every: int = 100,
    rates: Mapping[str, float] = QUICK_RATES,
    beta2: float = 0.999,
) -> dict[str, Any]:
    """3DGS-MCMC that grows within 3,000 steps to a number of Gaussians that follows the scene, overfits less to few
    photographs, and settles at the end. Short runs have another strategy, and no dropout.

    The effect of each setting is in docs/experiments.md.
    """
    densification = SplatFittingDensification(
        max_gaussians=5_000_000,
        max_per_seed=max_per_seed,
        pixels_per_gaussian=pixels_per_gaussian,
        usual_seeds=usual_seeds,
        usual_error=usual_error,
        noise_lr=in_short_run(1e6, short=1e6),
        min_opacity=in_short_run(0.005, short=0.005),
        growth=in_short_run(growth, short=growth),
        gradient_power=in_short_run(1.0, short=1.0),
        refine_every=relocation_every(refine_every),
        refine_stop_iter=refine_stop_iter,
    )
    return {
        **_mcmc(densification, mse_lambda=in_short_run(0.0, short=4.0)),
        "renderer": Splat3DGSRenderer(dropout=dropout, dropout_full_from=dropout_full_from),
        "optimizers": gaussian_optimizers(rates, lr_share=0.1, decay_from=decay_from, beta2=beta2),
        "batch_size": None,
        "max_seed_points": MOST_SEED_POINTS,
    }


def _faster(factor: float) -> dict[str, float]:
    """All learning rates but that of positions, times a factor; short runs have the usual ones."""
    return {
        name: in_short_run(round(factor * rate, 9), short=rate)
        for name, rate in {**LEARNING_RATES, **QUICK_RATES}.items()
        if name != "means"
    }


def _small(max_per_seed: float, refine_stop_iter: int) -> dict[str, Any]:
    """A number of Gaussians known beforehand, for those that the photographs pull at most, with MCMC's regularisers,
    start and noise."""
    densification = SplatBudgetDensification(
        by_opacity=True,
        noise_lr=1e6,
        max_per_seed=max_per_seed,
        pixels_per_gaussian=in_short_run(50, short=100),
        usual_seeds=in_short_run(USUAL_SEEDS, short=0.0),
        refine_every=relocation_every(100),
        refine_stop_iter=relocation_stop(refine_stop_iter),
        reset_every=0,
    )
    return {
        **_mcmc(densification, mse_lambda=4.0),
        "renderer": Splat3DGSRenderer(dropout=in_short_run(0.2, short=0.0)),
        "optimizers": gaussian_optimizers(QUICK_RATES, lr_share=0.1),
        "max_seed_points": MOST_SEED_POINTS,
    }


splatkit_3dgs = make_method(
    "splatkit-3dgs",
    **_quick_mcmc(
        max_per_seed=in_short_run(7.6, short=13),
        pixels_per_gaussian=in_short_run(63, short=100),
        usual_seeds=in_short_run(USUAL_SEEDS, short=0.0),
        usual_error=in_short_run(USUAL_ERROR, short=0.0),
        refine_stop_iter=relocation_stop(16_000, share=4 / 5),
        dropout=scene_dropout(0.2),
    ),
    max_num_iterations=scene_steps(20_000, per_photograph=200),
    description="3D Gaussian Splatting: high quality in little time (splatkit-ns).",
)

splatkit_3dgs_fast = make_method(
    "splatkit-3dgs-fast",
    **_quick_mcmc(
        max_per_seed=9,
        pixels_per_gaussian=in_short_run(70, short=100),
        usual_seeds=in_short_run(USUAL_SEEDS, short=0.0),
        usual_error=in_short_run(USUAL_ERROR, short=0.0),
        refine_stop_iter=relocation_stop(5200, share=4 / 5),
        dropout=scene_dropout(0.1, most=0.2),
        decay_from=0.8,
        growth=0.1,
        refine_every=50,
        rates=_faster(2),
        beta2=in_short_run(0.99, short=0.999),
    ),
    pairs_on_one_gpu=True,
    sh_degree_interval=sh_interval(500),
    max_num_iterations=scene_steps(6500, per_photograph=65, least=4500),
    description="3D Gaussian Splatting: good quality in the least time (splatkit-ns).",
)

splatkit_3dgs_big = make_method(
    "splatkit-3dgs-big",
    **_quick_mcmc(
        max_per_seed=with_few(13, few=7.6, short=13),
        pixels_per_gaussian=with_few(45, few=63, short=100),
        usual_seeds=with_few(0.0, few=USUAL_SEEDS, short=0.0),
        usual_error=with_few(0.0, few=USUAL_ERROR, short=0.0),
        refine_stop_iter=relocation_stop(24_000, share=4 / 5),
        dropout=scene_dropout(0.2),
        dropout_full_from=with_few(1 / 3, few=1.0, short=1.0),
    ),
    max_num_iterations=scene_steps(30_000, per_photograph=340),
    description="3D Gaussian Splatting: more Gaussians and steps, for the best quality (splatkit-ns).",
)

splatkit_3dgs_small = make_method(
    "splatkit-3dgs-small",
    **_small(max_per_seed=4.5, refine_stop_iter=8000),
    max_num_iterations=10_000,
    description="3D Gaussian Splatting: small files, with fewer Gaussians than splatkit-3dgs (splatkit-ns).",
)

splatkit_3dgs_adc = make_method(
    "splatkit-3dgs-adc",
    description="3D Gaussian Splatting with the paper's adaptive density control (splatkit-ns).",
)

splatkit_3dgs_mcmc = make_method(
    "splatkit-3dgs-mcmc",
    **_mcmc(SplatMCMCDensification()),
    description="3D Gaussian Splatting as Markov Chain Monte Carlo, with the paper's settings (splatkit-ns).",
)

splatkit_2dgs = make_method(
    "splatkit-2dgs",
    renderer=Splat2DGSRenderer(),
    loss_fn=Splat2DGSLossFn(mse_lambda=4.0, opacity_reg=0.001, scale_reg=0.01),
    densification=SplatBudgetDensification(
        absgrad=False,
        grow_grad2d=0.0002,
        prune_opa=0.05,  # as the 2DGS authors' code and gsplat's example have it
        pixels_per_gaussian=15,
    ),
    optimizers=gaussian_optimizers(lr_share=0.1),
    description="2D Gaussian Splatting: flat discs, for surfaces with normals (splatkit-ns).",
)


def find_method(name: str) -> MethodSpecification:
    """The method of a name: one of this package, or one that is registered with nerfstudio.

    Raises:
        SplatkitError: there is none; names the nearest ones.
    """
    ours = (
        splatkit_3dgs,
        splatkit_3dgs_fast,
        splatkit_3dgs_big,
        splatkit_3dgs_small,
        splatkit_3dgs_adc,
        splatkit_3dgs_mcmc,
        splatkit_2dgs,
    )
    known = {str(method.config.method_name): method for method in ours}
    if name not in known:
        from nerfstudio.plugins.registry import discover_methods  # imports every plugin, this file among them

        configs, descriptions = discover_methods()
        known |= {key: MethodSpecification(config, descriptions[key]) for key, config in configs.items()}
    if name in known:
        return known[name]
    raise SplatkitError(f"There is no method {name!r}; {did_you_mean(name, sorted(known))}")
