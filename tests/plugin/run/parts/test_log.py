"""The table of steps that a run prints."""

from __future__ import annotations

import sys

import pytest
from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils import writer
from nerfstudio.utils.writer import EventName

from splatkit_ns.plugin.run.parts.log import RunLog


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_pipe_or_file_gets_each_line_once_and_no_control_codes(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = writer.LocalWriter(LocalWriterConfig(enable=True))
    buffer = {"step": 0, "steps_per_log": 10, "max_iter": 100, "events": {}, "max_buffer_size": 20}
    monkeypatch.setattr(writer, "EVENT_WRITERS", [table])
    monkeypatch.setattr(writer, "EVENT_STORAGE", [])
    monkeypatch.setattr(writer, "GLOBAL_BUFFER", buffer)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    log = RunLog(10, "cpu", {}, 100, start_step=0)
    log.begin()
    for step in (10, 20, 30):
        writer.put_time(EventName.ITER_TRAIN_TIME, 0.5, step)
        log.flush()
    printed = capsys.readouterr().out
    assert "\n30 (30.00%)" in printed
    assert ("\x1b" in printed, printed.count("20 (20.00%)")) == ((True, 2) if is_terminal else (False, 1))
