"""Graphs in the form that a ComfyUI server takes, for the host tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ALL_FACES = {
    "order": "area",
    "indices": "",
    "tracks": "",
    "frames": "",
    "limit": 0,
    "min_size": 0,
    "max_size": 0,
    "min_sharpness": 0.0,
    "max_sharpness": 0.0,
    "min_confidence": 0.0,
    "min_yaw": -180,
    "max_yaw": 180,
    "min_pitch": -180,
    "max_pitch": 180,
}
PASTE = {"strength": 1.0, "mask": "ellipse", "feather": 8.0, "color_match": "mean_std", "grow": 0.0}
DETECT = {
    "threshold": 0.5,
    "if_no_face": "pass the image through",
    "working_size": 640,
    "angles": "upright",
    "tile_size": 0,
}
RESTORE = {"fidelity": 0.7, "seed": 0}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def composed(photo: str, detector: str = "bundled", indices: str = "") -> dict:
    """LoadImage -> detect -> select -> crop -> restore -> paste -> SaveImage."""
    return {
        "load": node("LoadImage", image=photo),
        "detector": node("PoseFRLoadDetector", detector=detector),
        "restorer": node("PoseFRLoadRestorer", restorer="posefr-256"),
        "detect": node("PoseFRDetectFaces", detector=["detector", 0], image=["load", 0], **DETECT),
        "preview": node("PoseFRPreviewFaces", image=["load", 0], faces=["detect", 0], order="area"),
        "select": node("PoseFRSelectFaces", faces=["detect", 0], **{**ALL_FACES, "indices": indices}),
        "crop": node(
            "PoseFRCropFaces",
            image=["load", 0],
            faces=["select", 0],
            restorer=["restorer", 0],
            size=256,
            alignment="ffhq",
        ),
        "restore": node(
            "PoseFRRestoreFaces", restorer=["restorer", 0], images=["crop", 1], crops=["crop", 0], **RESTORE
        ),
        "faces": node("PreviewImage", images=["restore", 0]),
        "paste": node("PoseFRPasteFaces", image=["load", 0], crops=["crop", 0], restored=["restore", 0], **PASTE),
        "save": node("SaveImage", images=["paste", 0], filename_prefix="composed"),
    }


def one_node(photo: str, batch: int = 1, **changes) -> dict:
    widgets = {
        "restorer": "posefr-256",
        "detector": "bundled",
        "limit": 0,
        "video": False,
        **RESTORE,
        **PASTE,
        **DETECT,
        **changes,
    }
    return {
        "load": node("LoadImage", image=photo),
        "batch": node("RepeatImageBatch", image=["load", 0], amount=batch),
        "one": node("PoseFRRestoreFacesInImage", image=["batch", 0], **widgets),
        "mask": node("MaskPreview", mask=["one", 1]),
        "save": node("SaveImage", images=["one", 0], filename_prefix="one"),
    }


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), np.int16)
