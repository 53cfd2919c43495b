"""Settings that fit the length of a run: the shares of the steps that settings in steps take in short runs.

A method's numbers of steps are made for runs of its own length. In a much shorter run densification would begin after
half of the steps or never, and nothing would come to rest. So the numbers that a method has chosen know what they are
in shorter runs; `fitted` puts that into their place. A plain number is one that the user has chosen for the run: it
stays.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, TypeVar

import yaml

T = TypeVar("T")

SHORT_RUN = 2500
"""Runs with fewer steps begin with Gaussians that touch each other, as 3DGS does, and cannot overfit yet. MCMC's own
start, small dots, takes 500 steps to cover anything; in long runs it overfits less to few photographs."""
FEW_PHOTOGRAPHS = 30
"""More Gaussians and more steps make scenes with fewer photographs worse."""


class Fitting(ABC):
    """The value of a setting in runs of a method's own length, which knows its value in shorter runs.

    A number equals the plain one, but has another hash: tyro remembers what it knows of a default, type included, under
    it.
    """

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    @abstractmethod
    def in_run(self, steps: int) -> Any:
        """The value in a shorter run of so many steps."""


class FittingSteps(int, Fitting):
    """A number of steps; a shorter run takes a share of its steps instead, if that is less.

    Args:
        number: in runs of the method's own length.
        share: of the steps of a shorter run.
        least: the least number of steps in a shorter run.
    """

    share: float
    least: int
    __hash__ = Fitting.__hash__  # type: ignore[reportAssignmentType]  # the order of the bases is that of numbers

    def __new__(cls, number: int, share: float, least: int = 1) -> FittingSteps:
        self = super().__new__(cls, number)
        self.share, self.least = share, least
        return self

    def __getnewargs__(self) -> tuple[int, float, int]:
        return int(self), self.share, self.least

    def in_run(self, steps: int) -> int:
        return min(int(self), max(self.least, round(self.share * steps)))


class SceneSteps(FittingSteps):
    """The length of a method's runs; a scene with few photographs takes fewer steps, since more would overfit it.

    Args:
        number: with as many photographs as that needs.
        per_photograph: the largest number of steps for each training photograph.
        least: the least number of steps with few photographs.
    """

    def __new__(cls, number: int, per_photograph: float, least: int = 1) -> SceneSteps:
        return super().__new__(cls, number, per_photograph, least)  # type: ignore[return-value]

    def of_scene(self, photographs: int) -> int:
        """The number of steps with so many training photographs."""
        return super().in_run(photographs)

    def in_run(self, steps: int) -> int:
        return int(self)


class FittingValue(float, Fitting):
    """A value of runs of the method's own length; much shorter ones have another one.

    Args:
        value: in runs of the method's own length.
        short: in shorter ones of fewer than `below` steps.
        below: a number of steps.
    """

    short: float
    below: int
    __hash__ = Fitting.__hash__  # type: ignore[reportAssignmentType]  # the order of the bases is that of numbers

    def __new__(cls, value: float, short: float, below: int) -> FittingValue:
        self = super().__new__(cls, value)
        self.short, self.below = short, below
        return self

    def __getnewargs__(self) -> tuple[float, float, int]:
        return float(self), self.short, self.below

    def in_run(self, steps: int) -> float:
        return self.short if steps < self.below else float(self)


class SceneFitting(FittingValue):
    """A value of runs of the method's own length that follows the number of training photographs."""

    @abstractmethod
    def of_scene(self, photographs: int) -> float:
        """The value with so many training photographs."""

    def in_run(self, steps: int) -> float:
        return self.short if steps < self.below else self


class SceneShare(SceneFitting):
    """A share that falls with the number of photographs: as a number, that of a scene with `photographs` of them.

    Args:
        share: with that many training photographs; with half as many, twice the share.
        short: in runs of fewer than `below` steps.
        below: a number of steps.
        photographs: a number of training photographs.
        least: the least share, with many photographs.
        most: the largest share, with few.
    """

    photographs: int
    least: float
    most: float

    def __new__(cls, share: float, short: float, below: int, photographs: int, least: float, most: float) -> SceneShare:
        self: SceneShare = super().__new__(cls, share, short, below)  # type: ignore[assignment]
        self.photographs, self.least, self.most = photographs, least, most
        return self

    def __getnewargs__(self) -> tuple[float, float, int, int, float, float]:
        return float(self), self.short, self.below, self.photographs, self.least, self.most

    def of_scene(self, photographs: int) -> float:
        """The share with so many training photographs, with three decimals."""
        return round(min(self.most, max(self.least, float(self) * self.photographs / max(1, photographs))), 3)


class SceneValue(SceneFitting):
    """A value of scenes with many photographs; scenes with few have another one.

    Args:
        value: with at least `photographs` training photographs.
        few: with fewer.
        short: in runs of fewer than `below` steps.
        below: a number of steps.
        photographs: a number of training photographs.
    """

    few: float
    photographs: int

    def __new__(cls, value: float, few: float, short: float, below: int, photographs: int) -> SceneValue:
        self: SceneValue = super().__new__(cls, value, short, below)  # type: ignore[assignment]
        self.few, self.photographs = few, photographs
        return self

    def __getnewargs__(self) -> tuple[float, float, float, int, int]:
        return float(self), self.few, self.short, self.below, self.photographs

    def of_scene(self, photographs: int) -> float:
        """The value with so many training photographs."""
        return self.few if photographs < self.photographs else float(self)


for kind in (FittingSteps, SceneSteps):
    yaml.add_representer(kind, lambda dumper, number: dumper.represent_int(int(number)))
for kind in (FittingValue, SceneShare, SceneValue):
    yaml.add_representer(kind, lambda dumper, value: dumper.represent_float(float(value)))

refine_start = partial(FittingSteps, share=1 / 10)
"""Densification begins after a tenth of the steps."""
gradients_stop = partial(FittingSteps, share=1 / 2)
"""Adaptive density control ends after half of the steps."""
relocation_stop = partial(FittingSteps, share=5 / 6)
"""MCMC ends with a sixth of the steps left."""
gradients_every = partial(FittingSteps, share=1 / 10, least=10)
"""Adaptive density control sums up gradients over a tenth of the steps, or 10."""
relocation_every = partial(FittingSteps, share=1 / 20, least=10)
"""MCMC relocates after each twentieth of the steps, or 10."""
sh_interval = partial(FittingSteps, share=1 / 4)
"""One more degree of the spherical harmonics is used after each quarter of the steps."""
in_short_run = partial(FittingValue, below=SHORT_RUN)
"""A value, and ``short``, that of runs with fewer than 2,500 steps."""
scene_steps = partial(SceneSteps, least=10_000)
"""A method takes ``per_photograph`` steps for each photograph at most, if that is more than 10,000 or ``least``."""
scene_dropout = partial(SceneShare, short=0.0, below=SHORT_RUN, photographs=40, least=0.05, most=0.4)
"""The dropout of 40 photographs: the fewer there are, the more, from 0.05 to 0.4; short runs have none."""
with_few = partial(SceneValue, below=SHORT_RUN, photographs=FEW_PHOTOGRAPHS)
"""A value, ``few``, that of scenes with fewer than 30 photographs, and ``short``, as of `in_short_run`."""
distortion_start = partial(FittingSteps, share=1 / 10)
"""2DGS's term of distortion is used from a tenth of the steps on."""
normals_start = partial(FittingSteps, share=7 / 30)
"""2DGS's consistency of normals is used from then on."""
poses_warmup = partial(FittingSteps, share=1 / 10)
"""The learning rate of poses rises for a tenth of the steps."""


def fitted(settings: T, steps: int) -> T:
    """Settings with the values that fit a run shorter than the method's own length.

    Args:
        settings: a dataclass or dict, in which others may be; it stays as it is.
        steps: the number of steps of the run.

    Returns:
        Copies of what has changed, and the rest itself.
    """
    return _changed(settings, lambda value: value.in_run(steps))


def fitted_to_scene(settings: T, photographs: int) -> T:
    """Settings with the values that fit the number of training photographs; see `fitted`."""
    return _changed(settings, lambda value: value.of_scene(photographs) if isinstance(value, SceneFitting) else value)


def _changed(settings: T, change: Callable[[Any], Any], owners: tuple[int, ...] = ()) -> T:
    """Settings whose values have been changed, within all that are not in ``owners``, which are ids."""
    if isinstance(settings, Fitting):
        found = change(settings)
        if found is not settings or isinstance(settings, int | float):
            return found
    if id(settings) in owners:
        return settings
    owners = (*owners, id(settings))
    if isinstance(settings, dict):
        entries: dict[Any, Any] = {name: _changed(entry, change, owners) for name, entry in settings.items()}
        return settings if all(entries[name] is entry for name, entry in settings.items()) else entries  # type: ignore
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    made = settings
    for field in dataclasses.fields(settings):
        entry = vars(settings).get(field.name)
        value = _changed(entry, change, owners)
        if value is not entry:
            made = copy(settings) if made is settings else made
            vars(made)[field.name] = value
    return made
