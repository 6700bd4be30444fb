"""Networks in a real ComfyUI: other projects' restorers, what is kept and freed, previews, interruption."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from foreign_networks import build, publish
from PIL import Image
from workflows import composed, node, one_node, read

from posefr.detection import ensure_torchvision

ensure_torchvision()

LISTEN = Path(__file__).with_name("listen.py")


def _changed(server, entry: dict, photo: str) -> float:
    """The share of pixels that a run changed."""
    (after,) = (read(path) for path in server.pictures(entry, "save"))
    return float((after != read(server.base / "input" / photo)).any(2).mean())


def _has(comfyui, package: str) -> bool:
    return subprocess.run([comfyui.python, "-c", f"import {package}"], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("GFPGAN", "models/facerestore_models"),
        ("RestoreFormer", "elsewhere/facerestore"),
        ("CodeFormer", "elsewhere/restorers"),
    ],
)
def test_other_projects_restorers_are_listed_and_run(server, comfyui, astronaut, tmp_path, kind, folder):
    if kind == "CodeFormer" and not _has(comfyui, "spandrel_extra_arches"):
        pytest.skip("needs the package spandrel_extra_arches in ComfyUI's Python")
    (server.base / folder).mkdir(parents=True, exist_ok=True)
    path = Path(shutil.move(publish(kind, tmp_path), server.base / folder / f"{kind}.pth"))
    try:
        offered = server.ask("/object_info")["PoseFRLoadRestorer"]["input"]["required"]["restorer"][1]["options"]
        assert path.name in offered
        entry = server.run(one_node(astronaut, limit=1, restorer=path.name))
        assert 0.01 < _changed(server, entry, astronaut) < 0.15
    finally:
        path.unlink()


def test_an_upscale_model_of_the_core_restores_faces(server, astronaut, tmp_path):
    folder = server.base / "models" / "upscale_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.move(publish("Compact", tmp_path), folder / "Compact.pth")
    workflow = composed(astronaut, indices="0")
    workflow["restorer"] = node("UpscaleModelLoader", model_name="Compact.pth")
    entry = server.run(workflow)
    (faces,) = (read(path) for path in server.pictures(entry, "faces"))
    assert faces.shape == (512, 512, 3)
    stepwise = read(server.pictures(entry, "save")[0])
    alone = one_node(astronaut, limit=1)
    alone["upscaler"] = workflow["restorer"]
    alone["one"]["inputs"]["restorer_model"] = ["upscaler", 0]
    entry = server.run(alone)
    assert np.array_equal(read(server.pictures(entry, "save")[0]), stepwise)
    assert 0.01 < _changed(server, entry, astronaut) < 0.15


def test_another_packs_bare_network_restores_faces_twice(server, astronaut):
    """Twice, with the network unloaded in between: the host moves it and takes it for no leak."""
    workflow = one_node(astronaut, limit=1)
    workflow["other"] = node("TestBareFaceRestoreModel")
    workflow["one"]["inputs"]["restorer_model"] = ["other", 0]
    first = server.run(workflow)
    assert 0.01 < _changed(server, first, astronaut) < 0.15
    server.ask("/free", {"unload_models": True})
    workflow["one"]["inputs"]["seed"] = 1
    second = server.run(workflow)
    assert 0.01 < _changed(server, second, astronaut) < 0.15
    assert "memory leak" not in server.log().lower()


def test_networks_stay_between_runs_and_go_when_the_host_frees_its_memory(server, astronaut):
    def alive() -> int:
        return server.ask("/tests/networks")["PoseFRNet"]

    def wait_for(count: int) -> None:
        end = time.monotonic() + 20
        while alive() != count and time.monotonic() < end:
            time.sleep(0.2)
        assert alive() == count

    server.ask("/free", {"unload_models": True, "free_memory": True})
    wait_for(0)
    server.run(one_node(astronaut, seed=21))
    assert alive() == 1
    server.run(one_node(astronaut, seed=22))
    assert alive() == 1
    server.ask("/free", {"unload_models": True, "free_memory": True})
    wait_for(0)
    server.run(one_node(astronaut, seed=23))
    assert alive() == 1
    other = {"empty": node("EmptyImage", width=64, height=64, batch_size=1, color=0)}
    server.run({**other, "save": node("PreviewImage", images=["empty", 0])})  # a workflow without our nodes
    wait_for(0)


def test_a_restorer_that_was_written_anew_is_used(server, astronaut, tmp_path):
    """A file of one name whose content changes, as after more training; nothing else in the workflow does."""
    path = server.base / "elsewhere" / "facerestore" / "mine.pth"
    network = build("Compact")
    workflow = one_node(astronaut, limit=1, restorer=path.name, color_match="none")
    pictures = []
    for scale in (1.0, 0.5):
        for parameter in network.parameters():
            parameter.data.mul_(scale)
        shutil.move(publish("Compact", tmp_path, network), path)
        pictures.append(read(server.pictures(server.run(workflow), "save")[0]))
    assert not np.array_equal(*pictures)


def test_faces_are_shown_on_the_node_as_they_come_out(server, comfyui, astronaut, tmp_path):
    workflow = composed(astronaut, indices="0")
    workflow["batch"] = node("RepeatImageBatch", image=["load", 0], amount=10)
    for taker in ("detect", "crop", "paste", "preview"):
        workflow[taker]["inputs"]["image"] = ["batch", 0]
    workflow["restore"]["inputs"]["seed"] = 31
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(workflow))
    done = subprocess.run(
        [comfyui.python, str(LISTEN), server.url, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert [(where, kind) for where, kind, _ in shown] == [("restore", "image/jpeg")] * 2  # eight faces, then two
    pictures = [Image.open(io.BytesIO(bytes.fromhex(data))).convert("RGB") for _, _, data in shown]
    assert [picture.size for picture in pictures] == [(512, 512), (512, 256)]
    workflow["restore"]["inputs"]["seed"] = 32
    (face, *_) = (read(p) for p in server.pictures(server.run(workflow), "faces"))
    left = np.asarray(pictures[1], np.int16)[:, :256]
    assert np.abs(left - face).mean() < 8  # it is the restored face, but for the noise and JPEG


@pytest.mark.parametrize("which", ["restorer", "detector"])
def test_an_interruption_returns_within_one_chunk(server, astronaut, which):
    passes = server.base / "output" / "passes.txt"
    passes.unlink(missing_ok=True)
    workflow = composed(astronaut, indices="0")
    workflow["batch"] = node("RepeatImageBatch", image=["load", 0], amount=160)
    slow = {"restorer": ("TestSlowRestorer", "restore"), "detector": ("TestSlowDetector", "detect")}
    kind, taker = slow[which]
    for other in ("detect", "crop", "paste", "preview"):
        workflow[other]["inputs"]["image"] = ["batch", 0]
    if which == "restorer":  # the faces of one image, many times: detecting them in all would take long
        workflow["detect"]["inputs"]["image"] = workflow["preview"]["inputs"]["image"] = ["load", 0]
        workflow["crop"]["inputs"]["image"] = workflow["paste"]["inputs"]["image"] = ["load", 0]
        workflow["many"] = node("RepeatImageBatch", image=["crop", 1], amount=160)
        workflow["restore"]["inputs"] |= {"images": ["many", 0]}
    workflow["slow"] = node(kind, restorer=[which, 0])
    workflow[taker]["inputs"][which] = ["slow", 0]
    prompt = server.queue(workflow)
    end = time.monotonic() + 120
    while (not passes.exists() or passes.stat().st_size < 2) and time.monotonic() < end:
        time.sleep(0.02)
    server.ask("/interrupt", {})
    before = passes.stat().st_size
    entry = server.result(prompt)
    assert "execution_interrupted" in [kind for kind, _ in entry["status"]["messages"]]
    assert passes.stat().st_size - before <= 1
    assert passes.stat().st_size < 20  # all chunks there are
    assert "save" not in entry["outputs"]


def test_how_it_is_pasted_may_change_without_restoring_again(server, astronaut):
    passes = server.base / "output" / "passes.txt"
    passes.unlink(missing_ok=True)
    counts = []
    for changed in ({}, {"strength": 0.5}, {"mask": "box"}, {"fidelity": 0.1}):
        workflow = one_node(astronaut, **changed)
        workflow["bundled"] = node("PoseFRLoadRestorer", restorer="posefr-256")
        workflow["slow"] = node("TestSlowRestorer", restorer=["bundled", 0])
        workflow["one"]["inputs"]["restorer_model"] = ["slow", 0]
        server.run(workflow)
        counts.append(passes.stat().st_size)
    assert counts == [1, 1, 1, 2]


@pytest.mark.parametrize("size", [(1, 1), (16384, 30), (30, 16384)])
def test_images_of_odd_shapes_come_back_as_they_were(server, size):
    workflow = one_node("unused", working_size=0)
    workflow["load"] = node("EmptyImage", width=size[0], height=size[1], batch_size=1, color=0x405060)
    (picture,) = server.pictures(server.run(workflow), "save")
    pixels = read(picture)
    assert pixels.shape == (size[1], size[0], 3)
    assert (pixels == (0x40, 0x50, 0x60)).all()
