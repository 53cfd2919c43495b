"""The web viewer of a running CPU training, in a real browser.

Needs the package playwright (`pip install playwright`) and Chromium; run it with `python -m pytest -m browser`.
"""

from __future__ import annotations

import re
import shutil
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

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PICTURE = (0, 60, 940, 740)
"""Where the page shows the render: left of the controls, below the banner."""


@pytest.fixture
def training(tiny_scene: Path, tmp_path: Path) -> Iterator[int]:
    """A training that goes on until the test ends; the port of its viewer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        *(sys.executable, "-m", "nerfstudio.scripts.train", "splatkit-3dgs", "--machine.device-type", "cpu"),
        *("--output-dir", str(tmp_path), "--max-num-iterations", "1000000", "--vis", "viewer"),
        *("--viewer.websocket-port", str(port), "--viewer.websocket-host", "127.0.0.1"),
        *("nerfstudio-data", "--data", str(tiny_scene), "--eval-mode", "interval"),
    ]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 240
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
def page(training: int) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"http://127.0.0.1:{training}", wait_until="domcontentloaded")
        page.get_by_text("Pause Training").wait_for(timeout=60_000)
        yield page
        browser.close()


def shot(page: Any) -> np.ndarray[Any, Any]:
    """What the page shows of the scene, (H, W, 3) in 0…255."""
    return np.asarray(Image.open(BytesIO(page.screenshot())).convert("RGB").crop(PICTURE), dtype=np.float64)


def step(page: Any) -> int:
    """The step that the page names."""
    found = re.search(r"Step: (\d+)", page.inner_text("body"))
    assert found is not None
    return int(found[1])


def wait_until(condition: Any, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
    return bool(condition())


def test_scene_outputs_and_pause(page: Any) -> None:
    assert wait_until(lambda: shot(page).std() > 8), "the render is no plain colour"
    before = step(page)
    assert wait_until(lambda: step(page) > before), "the page follows the training"
    page.get_by_text("Pause Training").click()
    page.get_by_text("Resume Training").wait_for(timeout=30_000)
    time.sleep(3)
    paused, colours = step(page), shot(page)
    time.sleep(3)
    assert step(page) == paused, "nothing trains while paused"
    page.locator("input[value=rgb]").first.click()
    page.get_by_text("depth", exact=True).first.click()
    assert wait_until(lambda: np.abs(shot(page) - colours).mean() > 5), "depth looks different from colours"
    page.get_by_text("Resume Training").click()
    assert wait_until(lambda: step(page) > paused), "training goes on"
