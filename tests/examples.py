"""The example workflows as tests and pictures run them: with a photo of ours, and without a diffusion checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import photos
import torch
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SAMPLER = ["VAEDecode", "VAEEncode", "KSampler", "EmptyLatentImage", "CLIPTextEncode", "CheckpointLoaderSimple"]
# Which node gives the image that the sampler would, its widgets, and the node and output that feed it.
INSTEAD_OF_SAMPLER = {
    "restore_small_faces_after_sampler": ("LoadImage", {"image": "group.png"}, None),
    "sampler_on_face_crops": ("ImageQuantize", {"colors": 6, "dither": "none"}, ("PoseFRCropFaces", "images", 1)),
}
# What a user picks: node, widget, value.
PICKED = [("LoadImage", "image", "group.png"), ("PoseFRFacePartsMask", "parser", "bisenet")]


def read(name: str) -> dict:
    """As the front end saved it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def as_sent(saved: dict, offers: dict) -> dict:
    """A saved workflow in the form that the front end sends.

    Args:
        saved: a workflow in the form that the front end saves.
        offers: the server's answer to /object_info.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    workflow = {}
    for node in saved["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        offered = offers[node["type"]]["input"]
        entries = {**offered.get("required", {}), **offered.get("optional", {})}
        values, inputs = iter(node["widgets_values"]), {}
        for entry in node["inputs"]:
            if "widget" in entry:
                inputs[entry["name"]] = next(values)
                options = (entries.get(entry["name"], [])[1:] or [{}])[0]
                # these bring a second widget, which is not sent
                if any(options.get(name) for name in ("control_after_generate", "image_upload", "video_upload")):
                    next(values)
            if entry["link"] is not None:
                inputs[entry["name"]] = sources[entry["link"]]
        # what an older ComfyUI asks for beyond what was saved
        for name, (_, *options) in offered.get("required", {}).items():
            if name not in inputs and options and "default" in options[0]:
                inputs[name] = options[0]["default"]
        workflow[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return workflow


def without_sampler(name: str, workflow: dict) -> dict:
    """What `as_sent` gave for the example `name`, with another node in the sampler's place if it has one."""
    if name not in INSTEAD_OF_SAMPLER:
        return workflow
    kind, inputs, fed_by = INSTEAD_OF_SAMPLER[name]
    if fed_by:
        (source,) = (number for number, node in workflow.items() if node["class_type"] == fed_by[0])
        inputs = {**inputs, "image": [source, fed_by[2]]}
    (decode,) = (number for number, node in workflow.items() if node["class_type"] == "VAEDecode")
    kept = {number: node for number, node in workflow.items() if node["class_type"] not in SAMPLER}
    for node in kept.values():
        for taken, value in node["inputs"].items():
            if value == [decode, 0]:
                node["inputs"][taken] = ["instead", 0]
    return {**kept, "instead": {"class_type": kind, "inputs": inputs}}


def ready(name: str, offers: dict) -> dict:
    """The example `name` in the form that the front end sends, with what `prepare` put there."""
    workflow = without_sampler(name, as_sent(read(name), offers))
    for node in workflow.values():
        for kind, widget, value in PICKED:
            if node["class_type"] == kind:
                node["inputs"][widget] = value
    return workflow


def prepare(base: Path, group: Image.Image | None = None) -> None:
    """Put what the examples need into a ComfyUI's folders.

    A photo of several people, a clip, and a face parser of random weights, since the true ones are a download: its
    masks mean nothing.
    """
    from posefr.detection.torchvision_repair import ensure_torchvision

    ensure_torchvision()
    from facexlib.parsing.bisenet import BiSeNet

    (base / "input").mkdir(parents=True, exist_ok=True)
    (base / "models" / "facexlib").mkdir(parents=True, exist_ok=True)
    group = photos.group() if group is None else group
    for name in ("group.png", "example.png"):  # the second is what the examples ask for before the first is picked
        group.save(base / "input" / name)
    photos.write_clip(base / "input" / "example.mp4", photos.pan())
    torch.manual_seed(0)
    torch.save(BiSeNet(num_class=19).state_dict(), base / "models" / "facexlib" / "parsing_bisenet.pth")


def source(name: str) -> str:
    """The file in the input folder that the example works on."""
    return "example.mp4" if "video" in name else "group.png"
