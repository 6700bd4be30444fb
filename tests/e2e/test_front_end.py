"""What a user does in the front end: open an example, pick a photo, press Run; read help; take the blueprint."""

from __future__ import annotations

from pathlib import Path

import examples
import numpy as np
import photos
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", examples.NAMES)
def test_an_example_loads_runs_and_gives_a_picture(server, front_end, name):
    workflow = examples.read(name)
    front_end.load(workflow)
    assert front_end.missing() == []
    front_end.shot(f"{name}-loaded")

    if name in examples.INSTEAD_OF_SAMPLER:
        front_end.replace_sampler(name)
    for picked in examples.PICKED:
        front_end.set(*picked)
    prompt = front_end.run()
    front_end.page.wait_for_timeout(1500)
    front_end.fit()
    front_end.shot(f"{name}-ran")

    (saver,) = (str(node["id"]) for node in workflow["nodes"] if node["type"].startswith("Save"))
    before = photos.read_frames(server.base / "input" / examples.source(name))
    after = photos.read_frames(server.pictures(server.result(prompt), saver)[0])
    assert after.shape == before.shape
    changed = np.abs(after - before).max(-1) > (40 if len(before) > 1 else 0)  # a video is compressed
    assert 0 < changed.mean() < 0.5
