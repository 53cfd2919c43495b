"""Options of ``splatkit train``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Suppress


@dataclass
class TrainOptions:
    """Train as ns-train does, with the same options, but start some seconds sooner.

    Nothing is imported but what the method needs: splatkit train METHOD --data FOLDER. splatkit train --help lists the
    methods, splatkit train METHOD --help the options of a method.
    """

    arguments: Annotated[tuple[str, ...], Suppress] = ()
    """Those of ns-train."""
