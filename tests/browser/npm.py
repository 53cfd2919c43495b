"""Packages from npm for the tests of this folder, fetched once into a folder beside other temporary files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = {
    "@adobe/spz": "0.2.2",
    "@playcanvas/splat-transform": "2.7.1",  # the newest one that runs on Node.js 20
    "@sparkjsdev/spark": "2.2.0",
    "babylonjs": "9.35.0",
    "babylonjs-gltf2interface": "9.28.0",
    "babylonjs-loaders": "9.28.0",
    "cesium": "1.145.0",
    "fflate": "0.8.3",
    "playcanvas": "2.23.3",
    "three": "0.187.0",
}
FOLDER = Path(os.environ.get("SPLATKIT_NPM_FOLDER", Path(tempfile.gettempdir(), "splatkit-ns-npm")))


class MissingPackages(Exception):
    """npm or its registry is missing; the message says which."""


@contextmanager
def skipped_if_missing() -> Generator[None]:
    """Skip the test if playwright, a browser or a package that the block needs cannot be had."""
    pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    try:
        yield
    except MissingPackages as error:
        pytest.skip(str(error))


def node_modules() -> Path:
    """The folder of the packages, which is filled at the first call.

    Raises:
        MissingPackages: npm is missing, or fails.
    """
    wanted = json.dumps({"private": True, "dependencies": PACKAGES}, indent=1)
    done = FOLDER / "installed.json"
    if not done.is_file() or done.read_text() != wanted:
        npm = shutil.which("npm")
        if npm is None:
            raise MissingPackages("npm is not installed")
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "package.json").write_text(wanted)
        # The versions above were tried together; what the packages say of each other is older.
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--legacy-peer-deps"]
        run = subprocess.run([npm, "install", *flags], cwd=FOLDER, capture_output=True, text=True, timeout=600)
        if run.returncode != 0:
            raise MissingPackages(f"npm install failed: {run.stderr[-500:]}")
        done.write_text(wanted)
    return FOLDER / "node_modules"
