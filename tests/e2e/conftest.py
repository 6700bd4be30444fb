"""A ComfyUI and a browser for the tests in this folder.

They need COMFYUI_DIR and COMFYUI_PYTHON as the host tests do, the package playwright and a Chromium, which CHROMIUM
names or the search path has. Screenshots are written to the folder POSEFR_SCREENSHOTS, or to pytest's own.
"""

from __future__ import annotations

import os
from pathlib import Path

import comfyui_server
import examples
import pytest


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    found = comfyui_server.from_environment()
    if found is None:
        pytest.skip(comfyui_server.NEEDED)
    base = tmp_path_factory.mktemp("comfyui")
    examples.prepare(base)
    with comfyui_server.running(found, base) as running:
        yield running


@pytest.fixture(scope="session")
def front_end(server, tmp_path_factory):
    pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    import front_end

    chromium = front_end.browser_path()
    if chromium is None:
        pytest.skip("needs a Chromium: set CHROMIUM to its path")
    asked = os.environ.get("POSEFR_SCREENSHOTS")
    shots = Path(asked) if asked else tmp_path_factory.mktemp("screenshots")
    shots.mkdir(parents=True, exist_ok=True)
    with front_end.open_front_end(server.url, shots, chromium) as opened:
        yield opened
