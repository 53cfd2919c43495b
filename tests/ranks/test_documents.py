"""What the documents say of several processes, and their parts, in two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splatkit_ns.errors import SplatkitError
from splatkit_ns.modules import SplatExporter
from splatkit_ns.plugin.run.processes.rank_main import unpickled
from splatkit_ns.splat import read_checkpoint
from tests.faults.runs import CHEAP, make_config
from tests.ranks.bodies import Trained, in_ranks, train_and_note_files
from tests.ranks.parts import LogsOnRankZero, NamesPhotographs, OpensTooEarly
from tests.trainer.test_densification_document import HALF, ByGradients, SeveralCriteria
from tests.trainer.test_users_parts import GsplatStrategy, SavesCheckpoints

REAL: dict[str, Any] = {"max_num_iterations": 10, "steps_per_eval_image": 0, "model_init_opacity": HALF["init_opacity"]}
"""Options of a run with the real renderer, whose gradients and radii differ between Gaussians."""


def assert_same_bits(found: Trained) -> None:
    first, second = found.parameters
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_rank_0_saves_logs_and_exports_while_each_clones_by_its_own_image(scene: Path, tmp_path: Path) -> None:
    """The modules do not ask for their rank when they save; the strategy is given its rank, and ignores it."""
    folder = tmp_path / "files"
    modules = [
        SavesCheckpoints(str(folder), save_every=4),
        LogsOnRankZero(folder),
        SplatExporter(folder / "export", [4, 10]),
    ]
    strategy = ByGradients(grow_grad2d=1e-6, refine_start_iter=3, refine_stop_iter=5, refine_every=2)
    config = make_config(scene, tmp_path, **REAL, model_densification=strategy)
    found, written = in_ranks(config, (folder, modules), body=train_and_note_files)
    assert_same_bits(found)
    assert len(set(found.numbers)) == 2, "one refinement"
    assert written[1] == ["log_1.txt"], "the module opens it, and writes nothing"
    saved = {f"step_{step:06d}.pth" for step in (4, 8, 10)}
    assert {path.name for path in folder.iterdir()} == saved | {"log_0.txt", "log_1.txt", "export"}
    assert len(written[0]) >= len(saved) + 5
    assert (folder / "log_1.txt").read_text() == ""
    assert [line.split()[0] for line in (folder / "log_0.txt").read_text().splitlines()] == ["2", "4", "6", "8", "10"]
    exported = {str(path.relative_to(folder / "export")) for path in (folder / "export").rglob("*.*")}
    names = {"splats/step_{:06d}.ply", "ckpts/step_{:06d}.ckpt"}
    assert exported == {name.format(step) for name in names for step in (4, 10)}
    assert read_checkpoint(folder / "step_000008.pth")["step"] == 7


def test_several_criteria_of_each_ranks_own_image(scene: Path, tmp_path: Path) -> None:
    strategy = SeveralCriteria(grad_threshold=1e-4, radius_threshold=3)
    config = make_config(scene, tmp_path, **REAL, model_densification=strategy)
    config.max_num_iterations = 4
    found = in_ranks(config)
    assert_same_bits(found)
    assert len(set(found.numbers)) == 2, "Gaussians come and go"


def test_photographs_that_rank_0_names_are_drawn_next(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **CHEAP)
    config.max_num_iterations = 6
    assert in_ranks(config, [NamesPhotographs()]).images == [[3, 3, 3], [1, 1, 1]]


def test_gsplats_strategy_in_a_part_of_a_user_is_refused(scene: Path, tmp_path: Path) -> None:
    config = make_config(scene, tmp_path, **REAL, model_densification=GsplatStrategy(defect=False))
    with pytest.raises(SplatkitError, match=r"Rows of params were changed without a method of training_state"):
        in_ranks(config)


def test_a_resource_that_is_opened_too_early_cannot_be_sent_to_the_ranks(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(SplatkitError, match=r"^This run cannot be sent to several processes, .*cannot pickle"):
        in_ranks(make_config(scene, tmp_path, **CHEAP), [OpensTooEarly()])


@pytest.mark.parametrize("place", [b"tests.ranks.parts\nNoSuchPart", b"no_such_module\nPart"])
def test_a_part_that_a_process_does_not_find_is_told_in_one_message(place: bytes) -> None:
    with pytest.raises(SplatkitError, match=r"^A process .* does not find .* \(.*(NoSuch|no_such).*: it imports"):
        unpickled(b"c" + place + b"\n.")
