"""A real ComfyUI for the tests in this folder; `tests/comfyui_server.py` tells what names it."""

from __future__ import annotations

from pathlib import Path

import comfyui_server
import photos
import pytest

NODES = Path(__file__).with_name("nodes_for_tests.py")

# Where the user keeps models outside ComfyUI's own folder.
EXTRA_PATHS = """
elsewhere:
    base_path: {base}/elsewhere
    facedetection: detectors
    posefr: restorers
    facerestore_models: facerestore
"""


@pytest.fixture(scope="session")
def comfyui() -> comfyui_server.ComfyUI:
    found = comfyui_server.from_environment()
    if found is None:
        pytest.skip(comfyui_server.NEEDED)
    return found


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    for folder in ("detectors", "restorers", "facerestore"):
        (base / "elsewhere" / folder).mkdir(parents=True)
    nodes = {NODES.name: NODES.read_text()}
    with comfyui_server.running(comfyui, base, nodes=nodes, extra_paths=EXTRA_PATHS.format(base=base)) as running:
        yield running


@pytest.fixture(scope="session")
def astronaut(server) -> str:
    photos.astronaut().save(server.base / "input" / "astronaut.png")
    return "astronaut.png"
