"""Viewers of Gaussians for the web, each in a page of headless Chromium that opens a file and draws it."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splatkit_ns.cameras import View
from tests.browser.npm import MissingPackages, node_modules

PAGES = Path(__file__).parent / "pages"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
FLAGS = (
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run"),
    *("--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
OPEN = """settings => Promise.race([
  window.openSplats(settings),
  new Promise((_, no) => setTimeout(() => no(new Error("nothing is shown after ten minutes")), 600_000)),
])"""
PATIENCE = 600
"""Seconds for a page to load, on a busy machine, too."""
SAME, TURNED = np.diag([1.0, 1.0, 1.0]), np.diag([1.0, -1.0, -1.0])
"""From the axes of our files to those of a viewer's world, in which y is up: as they are, or half a turn around x."""
VIEWERS: dict[str, dict[str, np.ndarray[Any, Any]]] = {
    "spark": {"ply": SAME, "compressed.ply": SAME, "sog": SAME, "splat": SAME, "spz": TURNED},
    "playcanvas": {"ply": SAME, "compressed.ply": SAME, "sog": SAME},
    "babylon": {"spz": SAME, **dict.fromkeys(("ply", "compressed.ply", "sog", "splat", "glb"), TURNED)},
    "cesium": {"spz.glb": TURNED},
}
"""The formats that each viewer opens, and the axes in which it shows them."""


@dataclass(frozen=True)
class Opened:
    """A file as a viewer has shown it."""

    num: int
    """The number of Gaussians that the viewer counts."""
    image: np.ndarray[Any, np.dtype[np.float64]]
    """(H, W, 3) in [0, 1], on black."""


class Viewers:
    """Opens files in the viewers.

    Args:
        browser: of playwright.
        address: of the server of the pages and packages.
        files: served files by name.
    """

    def __init__(self, browser: Any, address: str, files: dict[str, Path]) -> None:
        self._browser, self._address, self._files = browser, address, files

    def open(self, viewer: str, path: Path, view: View, axes: np.ndarray[Any, Any] = SAME) -> Opened:
        """Open a file and draw it as one pinhole camera sees it.

        Args:
            viewer: its name in `VIEWERS`.
            path: of the file.
            view: in world coordinates of the file.
            axes: turns the camera, (3, 3); the value of `VIEWERS` turns it to where the viewer puts the Gaussians.

        Raises:
            ViewerError: the viewer does not open it; the message is the viewer's.
        """
        from playwright.sync_api import Error

        self._files[path.name] = path
        pose = np.asarray(view.cam_to_worlds[0], np.float64) @ np.diag([1, -1, -1, 1])  # OpenCV axes -> OpenGL
        pose[:3] = axes @ pose[:3]
        fov = 2 * np.degrees(np.arctan(view.height / 2 / float(view.Ks[0, 1, 1])))
        settings = {"url": f"{self._address}/files/{path.name}", "width": view.width, "height": view.height}
        settings |= {"fov": fov, "cameraToWorld": pose.T.ravel().tolist()}
        page = self._browser.new_page(viewport={"width": view.width, "height": view.height})
        page.set_default_timeout(PATIENCE * 1000)
        failures: list[str] = []
        page.on("requestfailed", lambda request: failures.append(f"{request.url} was asked for"))
        try:
            page.goto(f"{self._address}/pages/{viewer}.html")
            page.wait_for_function("!!window.openSplats")
            found = page.evaluate(OPEN, settings)
        except Error as error:
            raise ViewerError("; ".join([str(error).splitlines()[0], *failures])) from error
        finally:
            page.close()
        png = base64.b64decode(found["image"].partition(",")[2])
        image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.float64) / 255
        return Opened(found["splats"], image)


class ViewerError(Exception):
    """A viewer does not open a file; the message is the viewer's."""


@contextmanager
def open_viewers(browser: Any = None) -> Iterator[Viewers]:
    """Chromium with the pages of the viewers, until the block ends.

    Args:
        browser: of playwright; None starts one.

    Raises:
        MissingPackages: see `node_modules` and `chromium`.
    """
    files: dict[str, Path] = {}
    roots = {"npm": node_modules(), "pages": PAGES}

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            root, _, rest = path.partition("?")[0].lstrip("/").partition("/")
            return str(files.get(rest, "missing") if root == "files" else roots.get(root, Path("missing")) / rest)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with nullcontext(browser) if browser else chromium() as running:
            yield Viewers(running, f"http://127.0.0.1:{server.server_port}", files)
    finally:
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Any]:
    """Headless Chromium, as playwright drives it, until the block ends.

    Raises:
        MissingPackages: Chromium is not installed.
    """
    if shutil.which(CHROMIUM) is None:
        raise MissingPackages("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
