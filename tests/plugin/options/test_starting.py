"""What is told when a run begins."""

from __future__ import annotations

import pytest

from splatkit_ns.plugin.options.starting import _note_options_beside_config
from splatkit_ns.plugin.reporting.console import collected_notes


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/bin/ns-train", "m", "--load-config", "c.yml"], None),
        (["/bin/ns-train", "m", "--data", "d"], None),
        (["/bin/splatkit", "prune", "--load-config", "c.yml", "--refine", "3"], None),
        (["/bin/ns-train", "m", "--load-config=c.yml", "--vis", "none", "--max_num_iterations=9"],
         "does not count: --vis, --max-num-iterations."),
    ],
)  # fmt: skip
def test_options_that_do_not_count_are_told(arguments: list[str], told: str | None) -> None:
    with collected_notes() as notes:
        _note_options_beside_config(arguments)
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]
