"""The examples with a sampler, with the sampler in its place, small and in few steps.

POSEFR_CHECKPOINT names the file of a Stable Diffusion 1.5 checkpoint; it takes minutes on a CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import examples
import numpy as np
import photos
import pytest

QUICKER = {
    "KSampler": {"steps": 2},
    "EmptyLatentImage": {"width": 256, "height": 256},
    "PoseFRCropFaces": {"size": 256},
    "LoadImage": {"image": "astronaut.png"},
}


@pytest.fixture(scope="module")
def checkpoint(server) -> str:
    if "POSEFR_CHECKPOINT" not in os.environ:
        pytest.skip("needs a Stable Diffusion 1.5 checkpoint: set POSEFR_CHECKPOINT to its path")
    path = Path(os.environ["POSEFR_CHECKPOINT"])
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path.name).symlink_to(path.resolve())
    return path.name


@pytest.mark.parametrize("name", sorted(examples.INSTEAD_OF_SAMPLER))
def test_an_example_runs_with_its_sampler(server, astronaut, checkpoint, name):
    workflow = examples.as_sent(examples.read(name), server.ask("/object_info"))
    for node in workflow.values():
        node["inputs"].update(QUICKER.get(node["class_type"], {}))
        if node["class_type"] == "CheckpointLoaderSimple":
            node["inputs"]["ckpt_name"] = checkpoint
    (saver,) = (number for number, node in workflow.items() if node["class_type"] == "SaveImage")
    entry = server.result(server.queue(workflow), limit=900)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
    picture = photos.read_frames(server.pictures(entry, saver)[0])
    if name == "sampler_on_face_crops":
        before = photos.read_frames(server.base / "input" / astronaut)
        assert picture.shape == before.shape
        assert 0 < (np.abs(picture - before).max(-1) > 0).mean() < 0.5
    else:
        assert picture.shape[1:3] == (256, 256)
