"""The pack in a real ComfyUI: it loads, its workflows run on photos, and it behaves when things go wrong."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

import examples
import numpy as np
import photos
import pytest
from PIL import Image
from workflows import composed, node, one_node, read

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("POSEFR_SHARED", ROOT.parent / "shared"))
PHOTOS = [
    "whole_lq/vqfr__example.jpg",
    "groups_detection/faceapi_examples__bbt1.jpg",
    "diffusion_small_faces/comfy_sd__simple-original.webp",
]


def test_the_pack_loads_without_a_warning(server):
    offers = server.ask("/object_info")
    for name in json.loads((ROOT / "node_list.json").read_text()):
        assert offers[name]["python_module"] == "custom_nodes.ComfyUI-PoseFR"
    said = [line for line in server.log_of_start.splitlines() if "posefr" in line.lower()]
    assert any("seconds" in line for line in said)  # the line of import times
    for word in ("WARN", "ERROR", "FAILED", "Cannot import"):
        assert not [line for line in said if word.lower() in line.lower()]
    assert "Traceback" not in server.log_of_start


def test_help_pages_and_translations_are_served(server):
    for name in json.loads((ROOT / "node_list.json").read_text()):
        with urllib.request.urlopen(f"{server.url}/extensions/ComfyUI-PoseFR/docs/{name}.md") as page:
            assert page.read() == (ROOT / "web" / "docs" / f"{name}.md").read_bytes()
    assert server.ask("/i18n")["ja"]["nodeDefs"]["PoseFRDetectFaces"]["outputs"]["0"]["name"]


def test_composed_nodes_and_the_one_node_restore_the_same_face(server, astronaut):
    entry = server.run(composed(astronaut, indices="0"))
    before = read(server.base / "input" / astronaut)
    after = read(server.pictures(entry, "save")[0])
    assert len(server.pictures(entry, "faces")) == 1
    changed = np.abs(after - before).max(2) > 0
    rows, columns = np.nonzero(changed)
    assert changed.mean() < 0.15
    assert rows.max() < 260  # the face is in the upper half, in the middle
    assert columns.min() > 120
    assert columns.max() < 330

    entry = server.run(one_node(astronaut, limit=1))
    alone = read(server.pictures(entry, "save")[0])
    assert np.array_equal(alone, after)
    mask = read(server.pictures(entry, "mask")[0])[..., 0]
    assert np.abs(after - before)[mask == 0].max() <= 1  # 8 bits show no mask below 1/255


@pytest.mark.parametrize("name", PHOTOS)
def test_real_photos_run_through_both_workflows(server, name):
    photo = SHARED / "data" / "photos" / name
    if not photo.is_file():
        pytest.skip(f"needs the photo {photo}")
    # a PNG, since hosts differ in how they decode lossy files
    Image.open(photo).convert("RGB").save(server.base / "input" / f"{photo.stem}.png")
    before = read(server.base / "input" / f"{photo.stem}.png")
    for workflow in (composed(f"{photo.stem}.png"), one_node(f"{photo.stem}.png")):
        after = read(server.pictures(server.run(workflow), "save")[0])
        assert after.shape == before.shape
        changed = np.abs(after - before).max(2) > 0
        assert 0 < changed.mean() < 0.9


def test_other_nodes_work_between_ours(server, astronaut):
    """Restored faces twice as large from the core's scaler, pasted through a mask from the core."""
    workflow = composed(astronaut, indices="0")
    workflow["larger"] = node("ImageScaleBy", image=["restore", 0], upscale_method="lanczos", scale_by=2.0)
    workflow["half"] = node("SolidMask", value=1.0, width=512, height=110)
    workflow["none"] = node("SolidMask", value=0.0, width=512, height=512)
    workflow["upper"] = node("MaskComposite", destination=["none", 0], source=["half", 0], x=0, y=0, operation="add")
    workflow["paste"]["inputs"] |= {"restored": ["larger", 0], "custom_mask": ["upper", 0]}
    after = read(server.pictures(server.run(workflow), "save")[0])
    changed = (after != read(server.base / "input" / astronaut)).any(2)
    assert changed[:100].any()
    assert not changed[130:].any()


def test_networks_come_back_after_the_host_unloaded_them(server, astronaut):
    first = read(server.pictures(server.run(one_node(astronaut)), "save")[0])
    server.ask("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.0)
    workflow = one_node(astronaut)
    workflow["save"]["inputs"]["filename_prefix"] = "again"
    assert np.array_equal(read(server.pictures(server.run(workflow), "save")[0]), first)


@pytest.mark.parametrize("name", examples.NAMES)
def test_the_example_workflows_run(server, name):
    examples.prepare(server.base)
    workflow = examples.ready(name, server.ask("/object_info"))
    (saver,) = (number for number, node in workflow.items() if node["class_type"].startswith("Save"))
    after = photos.read_frames(server.pictures(server.run(workflow), saver)[0])
    before = photos.read_frames(server.base / "input" / examples.source(name))
    assert after.shape == before.shape
    assert (after != before).any()


def test_without_a_face_the_picture_passes_with_a_note(server):
    Image.effect_noise((96, 64), 40).convert("RGB").save(server.base / "input" / "noise.png")
    for workflow, noted in ((one_node("noise.png"), "one"), (composed("noise.png"), "detect")):
        entry = server.run(workflow)
        assert np.array_equal(read(server.pictures(entry, "save")[0]), read(server.base / "input" / "noise.png"))
        assert entry["outputs"][noted]["text"] == ["No face found in 1 image: passed through unchanged."]


def test_without_a_face_the_switch_stops_with_one_sentence(server):
    Image.effect_noise((96, 64), 40).convert("RGB").save(server.base / "input" / "noise.png")
    entry = server.result(server.queue(one_node("noise.png", if_no_face="stop with an error")))
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["exception_type"].endswith("PoseFRError")
    assert error["exception_message"].startswith("No face found in 1 image: lower the threshold")


def test_another_detector_picked_is_another_detector_used(server, astronaut):
    reference = SHARED / "reference" / "retinaface_mobile0.25.pth"
    if not reference.is_file():
        pytest.skip(f"needs a second detector, {reference}")
    shutil.copy(reference, server.base / "elsewhere" / "detectors" / "mobilenet0.25_Final.pth")
    shown = {}
    for turn, detector in enumerate(["bundled", "mobile0.25", "bundled"]):
        workflow = composed(astronaut, detector)
        workflow["detect"]["inputs"]["threshold"] += turn * 1e-6  # so that the host caches nothing
        shown[turn] = read(server.pictures(server.run(workflow), "preview")[0])
    assert not np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])


def test_a_restorer_put_into_an_extra_folder_is_listed_at_once_and_runs(server, astronaut):
    def options() -> list[str]:
        return server.ask("/object_info")["PoseFRLoadRestorer"]["input"]["required"]["restorer"][1]["options"]

    name = "my own.safetensors"
    assert name not in options()
    shutil.copy(ROOT / "posefr" / "weights" / "posefr-256.safetensors", server.base / "elsewhere" / "restorers" / name)
    assert name in options()
    bundled = read(server.pictures(server.run(one_node(astronaut)), "save")[0])
    workflow = one_node(astronaut, restorer=name)
    assert np.array_equal(read(server.pictures(server.run(workflow), "save")[0]), bundled)


def test_a_broken_restorer_file_is_named_in_one_sentence(server, astronaut):
    name = "cut short.safetensors"
    whole = (ROOT / "posefr" / "weights" / "posefr-256.safetensors").read_bytes()
    (server.base / "elsewhere" / "restorers" / name).write_bytes(whole[:100_000])
    entry = server.result(server.queue(one_node(astronaut, restorer=name)))
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["exception_type"].endswith("PoseFRError")
    assert name in error["exception_message"]


def test_a_forced_out_of_memory_ends_in_a_finished_picture(server, astronaut):
    workflow = one_node(astronaut, batch=5, limit=1)
    plain = read(server.pictures(server.run(workflow), "save")[0])
    workflow = composed(astronaut, indices="0")
    workflow["batch"] = node("RepeatImageBatch", image=["load", 0], amount=5)
    workflow["tight"] = node("TestTightRestorer", restorer=["restorer", 0])
    for taker in ("detect", "crop", "paste", "preview"):
        workflow[taker]["inputs"]["image"] = ["batch", 0]
    workflow["restore"]["inputs"]["restorer"] = ["tight", 0]
    entry = server.run(workflow)
    assert entry["outputs"]["restore"]["text"] == ["Memory ran out with 5 faces at a time; done with 2 at a time."]
    pictures = server.pictures(entry, "save")
    assert len(pictures) == 5
    assert np.abs(read(pictures[4]) - plain).max() <= 1


def test_an_interruption_stops_the_run_and_the_next_one_works(server, astronaut):
    prompt = server.queue(one_node(astronaut, batch=400, seed=11))
    while not server.ask("/queue")["queue_running"]:
        time.sleep(0.05)
    time.sleep(1.0)
    server.ask("/interrupt", {})
    entry = server.result(prompt)
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds
    assert "save" not in entry["outputs"]
    assert server.pictures(server.run(one_node(astronaut, seed=12)), "save")
