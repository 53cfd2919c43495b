"""The entries of the methods in NerfBaselines' list. Imports nothing heavy: every command of that program loads it."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

DESCRIPTIONS = {
    "splatkit-3dgs": ("Splatkit3DGS", "3D Gaussian Splatting: high quality in little time."),
    "splatkit-3dgs-fast": ("Splatkit3DGSFast", "3D Gaussian Splatting: good quality in the least time."),
    "splatkit-3dgs-big": ("Splatkit3DGSBig", "3D Gaussian Splatting: the best quality, with more Gaussians."),
    "splatkit-3dgs-small": ("Splatkit3DGSSmall", "3D Gaussian Splatting: small files, with fewer Gaussians."),
    "splatkit-3dgs-adc": ("Splatkit3DGSADC", "3D Gaussian Splatting with adaptive density control as in the paper."),
    "splatkit-3dgs-mcmc": ("Splatkit3DGSMCMC", "3D Gaussian Splatting as Markov chain Monte Carlo."),
    "splatkit-2dgs": ("Splatkit2DGS", "2D Gaussian Splatting: flat discs that lie in surfaces."),
}
"""The name of a method -> its class in `method`, and one sentence."""


def specs() -> list[dict[str, Any]]:
    """The entry of each method. They have no environment of their own: ``--backend python`` runs them in this one."""
    return [
        {
            "id": name,
            "method_class": f"splatkit_ns.nerfbaselines.method:{kind}",
            "backends_order": ["python"],
            "metadata": {
                "name": name,
                "description": f"{sentence} From splatkit-ns, a plugin of nerfstudio.",
                "licenses": [{"name": "Apache 2.0"}],
            },
            "presets": {},
            "implementation_status": {},
        }
        for name, (kind, sentence) in DESCRIPTIONS.items()
    ]


with suppress(ModuleNotFoundError):
    nerfbaselines: Any = import_module("nerfbaselines")
    for _spec in specs():
        nerfbaselines.register(_spec)
