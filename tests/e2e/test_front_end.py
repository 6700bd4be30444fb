"""What a user does in the front end: open an example, pick a photo, press Run; read help; take the blueprint."""

from __future__ import annotations

import json
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


def test_the_template_browser_shows_every_example_with_its_thumbnail(front_end):
    page = front_end.page
    front_end.command("Comfy.BrowseTemplates")
    page.get_by_text("ComfyUI-PoseFR", exact=True).first.click()
    shown = "() => [...document.querySelectorAll('img')].filter(image => image.naturalWidth === 512).length"
    page.wait_for_function(f"({shown})() >= {len(examples.NAMES)}", timeout=20_000)
    front_end.shot("templates")
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)


def test_a_help_page_opens_with_its_picture(front_end):
    front_end.load(examples.read("restore_faces_one_node"))
    front_end.select("PoseFRRestoreFacesInImage")
    front_end.page.locator('[data-testid="info-button"]').click()
    picture = "document.querySelector('.node-help-content img')"
    front_end.page.wait_for_function(f"{picture}?.naturalWidth > 300", timeout=20_000)
    front_end.shot("help")
    assert "Good to know" in front_end.page.locator(".node-help-content").inner_text()


@pytest.mark.parametrize("path", sorted((ROOT / "subgraphs").glob("*.json")), ids=lambda path: path.stem)
def test_a_blueprint_is_offered_and_runs_as_one_node(server, front_end, path):
    offered = server.ask("/api/global_subgraphs").values()
    assert path.stem in [entry["name"] for entry in offered if "PoseFR" in entry["info"]["node_pack"]]

    front_end.load(json.loads(path.read_text()))
    assert front_end.missing() == []
    front_end.connect_picture("group.png")
    prompt = front_end.run()
    front_end.page.wait_for_timeout(1500)
    front_end.fit()
    front_end.shot("blueprint-ran")

    entry = server.result(prompt)
    (saver,) = entry["outputs"].keys() & {str(number) for number in front_end.numbers("SaveImage")}
    before = photos.read_frames(server.base / "input" / "group.png")
    after = photos.read_frames(server.pictures(entry, saver)[0])
    assert 0 < (after != before).any(-1).mean() < 0.5
