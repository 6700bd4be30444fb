"""A real ComfyUI for the tests in this folder; `tests/comfyui_server.py` tells what names it."""

from __future__ import annotations

import comfyui_server
import pytest

# A node for tests alone: a restorer that runs out of memory with more than two faces at a time.
TIGHT = """
import dataclasses
import torch

class Tight:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def restore(self, crops, *, batch, **options):
        if batch > 2:
            raise torch.cuda.OutOfMemoryError("forced by a test")
        return self.inner.restore(crops, batch=batch, **options)

class TightRestorer:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"restorer": ("POSEFR_RESTORER",)}})
    RETURN_TYPES = ("POSEFR_RESTORER",)
    FUNCTION = "wrap"
    CATEGORY = "tests"

    def wrap(self, restorer):
        return (dataclasses.replace(restorer, model=Tight(restorer.model)),)

NODE_CLASS_MAPPINGS = {"TestTightRestorer": TightRestorer}
"""


# Where the user keeps models outside ComfyUI's own folder.
EXTRA_PATHS = """
elsewhere:
    base_path: {base}/elsewhere
    facedetection: detectors
    posefr: restorers
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
    for folder in ("detectors", "restorers"):
        (base / "elsewhere" / folder).mkdir(parents=True)
    nodes = {"tight_restorer.py": TIGHT}
    with comfyui_server.running(comfyui, base, nodes=nodes, extra_paths=EXTRA_PATHS.format(base=base)) as running:
        yield running
