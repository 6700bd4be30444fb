"""What bad photos and bad generators do to a canvas: blur, fewer pixels, noise, dim light, compression, lost colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["degrade"]

Image = NDArray[np.uint8]
Generator = np.random.Generator


def degrade(image: Image, rng: Generator, strength: float = 1.0) -> tuple[Image, float]:
    """A worse copy of an image.

    Args:
        image: [H, W, 3] uint8, BGR.
        rng: the same generator state gives the same copy.
        strength: 0..1; scales how likely each step is. At 1 about one copy in six stays as it is.

    Returns:
        The copy, and by how much its detail shrank: 1 for none, 2 where things must be twice as large to be seen.
    """
    loss = 1.0
    if rng.random() < 0.17:
        return image, loss
    if rng.random() < 0.35 * strength:
        image, factor = _soften(image, rng)
        loss *= factor
    if rng.random() < 0.3 * strength:
        image, factor = _resample(image, rng)
        loss *= factor
    if rng.random() < 0.2 * strength:
        image = _dim(image, rng)
    if rng.random() < 0.15 * strength:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.35 * strength:
        image = _noise(image, rng, float(rng.uniform(2, 22)))
    if rng.random() < 0.5 * strength:
        quality = int(rng.uniform(12, 92))
        image = _compress(image, quality)
        loss *= 1.3 if quality < 30 else 1.0
    return image, loss


def _soften(image: Image, rng: Generator) -> tuple[Image, float]:
    if rng.random() < 0.7:
        sigma = float(np.exp(rng.uniform(np.log(0.4), np.log(3.5))))
        return cv2.GaussianBlur(image, (0, 0), sigma), max(1.0, sigma)
    length = int(rng.integers(3, 10))  # motion
    angle = rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    reach = (length - 1) / 2 * np.array([np.cos(angle), np.sin(angle)])
    start, end = np.round((length - 1) / 2 - reach).astype(int), np.round((length - 1) / 2 + reach).astype(int)
    cv2.line(kernel, tuple(int(v) for v in start), tuple(int(v) for v in end), 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum()), max(1.0, length / 4)


def _resample(image: Image, rng: Generator) -> tuple[Image, float]:
    height, width = image.shape[:2]
    factor = float(rng.uniform(1.2, 4))
    small = cv2.resize(image, (max(8, int(width / factor)), max(8, int(height / factor))), interpolation=cv2.INTER_AREA)
    back = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[rng.integers(3)]
    return cv2.resize(small, (width, height), interpolation=back), factor


def _dim(image: Image, rng: Generator) -> Image:
    ramp = np.linspace(0, 1, 256) ** rng.uniform(1.0, 2.2) * rng.uniform(0.25, 0.9)
    table = (ramp[:, None] * 255 * rng.uniform(0.8, 1.1, 3)).clip(0, 255).astype(np.uint8)
    return _noise(cv2.LUT(image, table[:, None, :]), rng, float(rng.uniform(0.5, 6)))


def _compress(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _noise(image: Image, rng: Generator, sigma: float) -> Image:
    shape = image.shape if rng.random() < 0.6 else (*image.shape[:2], 1)
    noise = rng.standard_normal(shape, dtype=np.float32) * sigma
    return np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
