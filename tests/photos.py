"""Photos for the host tests and the pictures, made from the astronaut that comes with scikit-image (public domain)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZES = (512, 300, 400)  # px, of the portraits in group()
GROUND = (186, 190, 198)


def astronaut() -> Image.Image:
    """The portrait, 512x512; skips the test where scikit-image is missing."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image, which brings the astronaut's photo")
    return Image.fromarray(data.astronaut())


def group() -> Image.Image:
    """Three portraits beside each other, two sizes smaller than the first and one mirrored: 1212x512."""
    portrait = astronaut()
    sheet = Image.new("RGB", (sum(SIZES), max(SIZES)), GROUND)
    left = 0
    for turn, size in enumerate(SIZES):
        small = portrait.resize((size, size), Image.Resampling.LANCZOS)
        if turn == 1:
            small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sheet.paste(small, (left, max(SIZES) - size))
        left += size
    return sheet


def pan(frames: int = 8, size: int = 384) -> np.ndarray:
    """A short clip, [frames, size, size, 3] uint8: the camera moves over the portrait, with noise."""
    portrait = np.asarray(astronaut(), np.float32)
    noise = np.random.default_rng(0)
    clip = []
    for frame in range(frames):
        left, top = 40 + 6 * frame, 2 * frame
        view = portrait[top : top + size, left : left + size]
        clip.append(noise.normal(view, 8).clip(0, 255).astype(np.uint8))
    return np.stack(clip)


def write_clip(path: Path, frames: np.ndarray, rate: float = 8.0) -> None:
    """A video file of [frames, height, width, 3] uint8 RGB."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


def read_frames(path: Path) -> np.ndarray:
    """A picture or a video, [frames, height, width, 3] int16 RGB."""
    if path.suffix != ".mp4":
        return np.asarray(Image.open(path).convert("RGB"), np.int16)[None]
    import cv2

    video, frames = cv2.VideoCapture(str(path)), []
    while (frame := video.read()[1]) is not None:
        frames.append(frame[..., ::-1])
    return np.stack(frames).astype(np.int16)
