"""What a checkpoint holds of the data, and what is told if the data of a resumed run are others."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splatkit_ns.plugin.data.sampling.image_work import ImageWork
from splatkit_ns.plugin.data.sampling.sampler_state import load_sampler_state, sampler_state
from splatkit_ns.plugin.reporting.console import collected_notes


class Photographs:
    def __init__(self, paths: list[Path]) -> None:
        self.image_filenames = paths

    def __len__(self) -> int:
        return len(self.image_filenames)


def manager(num: int = 12, shift: float = 0.0, scale: float = 0.5) -> Any:
    transform = torch.eye(4)[:3]
    transform[0, 3] = 3 + shift
    return SimpleNamespace(
        train_dataset=Photographs([Path(f"photos/{number}.jpg") for number in range(num)]),
        eval_dataset=range(2),
        train_unseen_cameras=list(range(num)),
        eval_unseen_cameras=[1],
        random_generator=random.Random(num),
        work=ImageWork(),
        train_dataparser_outputs=SimpleNamespace(dataparser_transform=transform, dataparser_scale=scale),
    )


def drawn() -> Any:
    """A manager that has images 2 and 7 left."""
    found = manager()
    found.train_unseen_cameras = [7, 2]
    found.random_generator.random()
    return found


def test_the_order_goes_on() -> None:
    before, after = drawn(), manager(shift=1e-5)
    with collected_notes() as notes:
        load_sampler_state(after, sampler_state(before))
    assert notes == []
    assert (after.train_unseen_cameras, after.eval_unseen_cameras) == ([7, 2], [1])
    assert after.random_generator.random() == before.random_generator.random()


@pytest.mark.parametrize("num", [8, 11, 13])
def test_another_number_of_images_is_drawn_anew(num: int) -> None:
    """Though all those that were left are there."""
    other = manager(num)
    with collected_notes() as notes:
        load_sampler_state(other, sampler_state(drawn()))
    assert other.train_unseen_cameras == list(range(num))
    assert [note for note in notes if "another number of images" in note] == notes != []


@pytest.mark.parametrize("moved", [{"shift": 0.1}, {"scale": 0.6}])
def test_another_placement_of_the_scene_is_told(moved: dict[str, Any]) -> None:
    other = manager(**moved)
    with collected_notes() as notes:
        load_sampler_state(other, sampler_state(drawn()))
    assert other.train_unseen_cameras == [7, 2]
    assert len(notes) == 1
    assert "otherwise than in the run of the checkpoint" in notes[0]


def test_other_photographs_of_the_same_number_are_told() -> None:
    """As when one is taken out and another is put in: what was learnt of each photograph is found by its place."""
    other = manager()
    paths = other.train_dataset.image_filenames
    paths[3:] = [*paths[4:], Path("elsewhere/new.jpg")]
    with collected_notes() as notes:
        load_sampler_state(other, sampler_state(drawn()))
    assert len(notes) == 1
    assert "9 of 12 have other names now, such as 4.jpg in place of 3.jpg" in notes[0]


def test_states_of_earlier_versions() -> None:
    state = sampler_state(drawn())
    del state["num_images"], state["placement"], state["image_names"]
    more, fewer = manager(13), manager(7)
    with collected_notes() as notes:
        load_sampler_state(more, state)
        assert notes == []
        load_sampler_state(fewer, state)
    assert len(notes) == 1
    assert (more.train_unseen_cameras, fewer.train_unseen_cameras) == ([7, 2], list(range(7)))


@pytest.mark.parametrize("wrong", [{"train_unseen_cameras": []}, {"train_unseen_cameras": [-1]}, {"placement": [1, 2]}])
def test_what_is_no_state_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"list of indices|shapes"):
        load_sampler_state(manager(), sampler_state(drawn()) | wrong)
