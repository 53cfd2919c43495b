"""The web viewer of a running CPU training, in a real browser.

Needs the package playwright (`pip install playwright`) and Chromium; run it with `python -m pytest -m browser`.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splatkit_ns import View, formats, render
from splatkit_ns.splat import read_checkpoint
from tests.browser.npm import skipped_if_missing
from tests.browser.viewers import VIEWERS, chromium, open_viewers

pytestmark = pytest.mark.browser

PICTURE = (0, 60, 940, 740)
"""Where the page shows the render: left of the controls, below the banner."""
BUSY = 900
"""Seconds after which something is taken not to happen, on a busy machine, too."""


@pytest.fixture
def training(tiny_scene: Path, tmp_path: Path) -> Iterator[int]:
    """A training that goes on until it is stopped or the test ends; the port of its viewer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        *(sys.executable, "-m", "nerfstudio.scripts.train", "splatkit-3dgs", "--machine.device-type", "cpu"),
        *("--output-dir", str(tmp_path), "--max-num-iterations", "1000000", "--vis", "viewer"),
        *("--steps-per-save", "1000000"),
        *("--viewer.websocket-port", str(port), "--viewer.websocket-host", "127.0.0.1"),
        *("nerfstudio-data", "--data", str(tiny_scene), "--eval-mode", "interval"),
    ]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + BUSY
            while process.poll() is None and time.monotonic() < deadline:
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(1)
            assert process.poll() is None, (tmp_path / "log.txt").read_text()[-3000:]
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    with skipped_if_missing(), chromium() as running:
        yield running


@pytest.fixture
def page(browser: Any, training: int) -> Any:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(BUSY * 1000)
    page.goto(f"http://127.0.0.1:{training}", wait_until="domcontentloaded")
    page.get_by_text("Pause Training").wait_for(timeout=BUSY * 1000)
    return page


def shot(page: Any) -> np.ndarray[Any, Any]:
    """What the page shows of the scene, (H, W, 3) in 0…255."""
    return np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB").crop(PICTURE), dtype=np.float64)


def step(page: Any) -> int:
    """The step that the page names."""
    found = re.search(r"Step: (\d+)", page.inner_text("body"))
    assert found is not None
    return int(found[1])


def wait_until(condition: Any, seconds: float = BUSY) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.5)
    return False


def stands_still(page: Any) -> bool:
    """Whether the page shows the same step and picture for three seconds: on a busy machine it lags behind."""
    before, picture = step(page), shot(page)
    time.sleep(3)
    return step(page) == before and np.abs(shot(page) - picture).max() == 0


def test_scene_outputs_and_pause(page: Any) -> None:
    assert wait_until(lambda: shot(page).std() > 8), "the render is no plain colour"
    before = step(page)
    assert wait_until(lambda: step(page) > before), "the page follows the training"
    page.get_by_text("Pause Training").click()
    page.get_by_text("Resume Training").wait_for(timeout=BUSY * 1000)
    assert wait_until(lambda: stands_still(page)), "nothing trains while paused"
    paused, colours = step(page), shot(page)
    page.locator("input[value=rgb]").first.click()
    page.get_by_text("depth", exact=True).first.click()
    assert wait_until(lambda: np.abs(shot(page) - colours).mean() > 5), "depth looks different from colours"
    page.get_by_text("Resume Training").click()
    assert wait_until(lambda: step(page) > paused), "training goes on"


def number(page: Any, pattern: str) -> int:
    """The number that the page shows in a text; 0 if the text is not there."""
    found = re.search(pattern, page.inner_text("body"))
    return int(found[1].replace(",", "")) if found else 0


def slide(page: Any, label: str, share: float) -> None:
    """Click into a slider, at this share of its width."""
    slider = page.locator(f"[id='{page.get_by_text(label, exact=True).get_attribute('for')}']")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_stopped_cleaned_downloaded_and_opened_in_spark(page: Any, tmp_path: Path) -> None:
    page.get_by_text("Measure PSNR").click()
    page.get_by_text(re.compile(r"Held-out PSNR: \d+\.\d+ dB of \d+ image")).wait_for(timeout=BUSY * 1000)
    page.get_by_text("Save now").click()
    page.get_by_text("Saved", exact=True).wait_for(timeout=BUSY * 1000)
    saved = set(tmp_path.rglob("*.ckpt"))
    assert len(saved) == 1
    page.get_by_text("Stop and save").click()
    page.get_by_text("The training ends after this step, and is saved.").wait_for(timeout=BUSY * 1000)
    assert wait_until(lambda: set(tmp_path.rglob("*.ckpt")) > saved), "the last step is saved"
    last = max(tmp_path.rglob("*.ckpt"))
    assert wait_until(lambda: stands_still(page)), "nothing trains any more"

    total = number(page, r"Gaussians: ([\d,]+)")
    page.get_by_text("Preview clean", exact=True).click()
    pattern = r"([\d,]+) of [\d,]+ Gaussians are hidden"
    assert wait_until(lambda: "are hidden" in page.inner_text("body"))
    few = number(page, pattern)
    slide(page, "Clean: share (%)", 0.95)
    assert wait_until(lambda: number(page, pattern) > few), "a larger share hides more"
    hidden = number(page, pattern)
    assert hidden < total
    with page.expect_download(timeout=BUSY * 1000) as download:
        page.get_by_text("Download", exact=True).click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    page.screenshot(path=tmp_path / "panel.png")
    assert path.suffix == ".spz"
    assert len(formats.read(path)) == total - hidden
    means = read_checkpoint(last)["pipeline"]["_model.gauss_params.means"]
    assert len(means) == total, "the preview has removed nothing from the run"

    view = View.look_at(eye=(0.3, -1.2, 0.8), target=tuple(means.mean(0).tolist()), fov=60, width=320, height=240)
    with skipped_if_missing(), open_viewers(page.context.browser) as viewers:
        shown = viewers.open("spark", path, view, VIEWERS["spark"]["spz"])
    Image.fromarray((shown.image * 255).astype(np.uint8)).save(tmp_path / "spark.png")
    ours = render(path, view).numpy()
    assert shown.num == total - hidden
    assert ours.std() > 0.05
    assert -10 * np.log10(np.mean((shown.image - ours) ** 2)) > 36
