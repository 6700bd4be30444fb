"""The degradation that training and evaluation share: seeded, one draw a face, applied with OpenCV.

Lengths are told at 512 px and scaled to the image's own size, so that a face degraded at 128 px looks like the same
face degraded at 512 px and made smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["SEVERITIES", "Degradation", "Severity", "degrade", "draw", "recolour"]

_REFERENCE = 512.0  # px; the size that lengths are told at
_DOWN = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Severity:
    """Ranges that a degradation is drawn from; lengths in px at 512 px, noise in 1/255, quality in 1..100."""

    sigma: tuple[float, float]
    downsampling: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[int, int]
    motion: float = 0.0
    smear: float = 0.0
    warp: float = 0.0
    colour: float = 0.0
    grey: float = 0.0


SEVERITIES: dict[str, Severity] = {
    "mild": Severity(sigma=(0.3, 2.0), downsampling=(1.0, 3.0), noise=(0.0, 5.0), quality=(70, 95)),
    "medium": Severity(sigma=(1.0, 4.0), downsampling=(3.0, 7.0), noise=(3.0, 12.0), quality=(45, 75)),
    "severe": Severity(sigma=(3.0, 8.0), downsampling=(7.0, 14.0), noise=(8.0, 20.0), quality=(25, 50)),
    "training": Severity(
        sigma=(0.1, 10.0), downsampling=(1.0, 16.0), noise=(0.0, 22.0), quality=(20, 100),
        motion=0.15, smear=0.15, warp=0.1, colour=0.15, grey=0.05,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Degradation:
    """One draw. Lengths in px at 512 px.

    Attributes:
        sigma: (major, minor) standard deviations of the blur; angle: of its major axis in radians.
        motion: length of a motion blur along `angle`, 0 for none.
        downsampling: factor that the image is made smaller by before noise and compression; interpolation: how.
        noise: standard deviation of Gaussian noise in 1/255; poisson: that of shot noise at white; grey_noise: the
            same noise on all channels.
        codec: "jpeg" or "webp"; quality: 1..100, 0 for none.
        smear: strength 0..1 of the soft smear that diffusion models' autoencoders leave.
        warp: amplitude of local distortions.
        gain, offset: [3] per-channel colour change. grey: no colour.
        seed: of the noise and the distortions.
    """

    sigma: tuple[float, float]
    angle: float
    motion: float
    downsampling: float
    interpolation: int
    noise: float
    poisson: float
    grey_noise: bool
    codec: str
    quality: int
    smear: float
    warp: float
    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    grey: bool
    seed: int


def draw(rng: np.random.Generator, severity: Severity) -> Degradation:
    """Draw a degradation. Blur, downsampling and noise grow together, as they do in bad photos, with some freedom."""

    def between(low: float, high: float, spread: float = 0.35) -> float:
        at = min(1.0, max(0.0, strength + spread * (2 * rng.random() - 1)))
        return low + (high - low) * at

    def log_between(low: float, high: float) -> float:
        return math.exp(between(math.log(low), math.log(high)))

    strength = rng.random()
    major = log_between(*severity.sigma)
    round_blur = rng.random() < 0.6
    quality = severity.quality[0] + severity.quality[1] - between(*severity.quality)
    colour = severity.colour > 0 and rng.random() < severity.colour
    return Degradation(
        sigma=(major, major if round_blur else major * (0.3 + 0.7 * rng.random())),
        angle=math.pi * rng.random(),
        motion=6 + 26 * rng.random() if rng.random() < severity.motion else 0.0,
        downsampling=log_between(*severity.downsampling),
        interpolation=int(rng.choice(_DOWN)),
        noise=between(*severity.noise, spread=0.6),
        poisson=between(*severity.noise, spread=0.6) * rng.random(),
        grey_noise=rng.random() < 0.4,
        codec="jpeg" if rng.random() < 0.75 else "webp",
        quality=round(quality),
        smear=0.3 + 0.7 * rng.random() if rng.random() < severity.smear else 0.0,
        warp=2 + 6 * rng.random() if rng.random() < severity.warp else 0.0,
        gain=_triple(1 + 0.12 * (2 * rng.random(3) - 1)) if colour else (1.0, 1.0, 1.0),
        offset=_triple(0.06 * (2 * rng.random(3) - 1)) if colour else (0.0, 0.0, 0.0),
        grey=rng.random() < severity.grey,
        seed=int(rng.integers(1 << 31)),
    )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def degrade(image: NDArray[np.uint8], how: Degradation, enlargement: int | None = cv2.INTER_CUBIC) -> NDArray[np.uint8]:
    """Apply a degradation.

    Args:
        image: [S, S, 3] uint8 RGB.
        how: what to apply; the same draw gives the same picture.
        enlargement: OpenCV's interpolation back to S x S px; None leaves the picture small.

    Returns:
        [S, S, 3] uint8 RGB: distorted, blurred, made smaller, noised, compressed and enlarged back.
    """
    size = image.shape[0]
    unit = size / _REFERENCE
    rng = np.random.default_rng(how.seed)
    if how.warp:
        image = _warp(image, how.warp * unit, rng)
    if how.smear:
        image = _smear(image, how.smear, unit)
    image = _blur(image, how, unit)
    small = min(size, round(_REFERENCE / how.downsampling))
    if small < size:
        image = cv2.resize(image, (small, small), interpolation=how.interpolation)
    image = _noise_and_colour(image, how, rng)
    if how.quality:
        image = _compress(image, how.codec, how.quality)
    if small < size and enlargement is not None:
        image = cv2.resize(image, (size, size), interpolation=enlargement)
    return image


def _blur(image: NDArray[np.uint8], how: Degradation, unit: float) -> NDArray[np.uint8]:
    major, minor = how.sigma[0] * unit, how.sigma[1] * unit
    border = cv2.BORDER_REFLECT_101
    if major == minor and not how.motion:
        if major < 0.15:
            return image
        return cv2.GaussianBlur(image, (0, 0), major, borderType=border)
    length = how.motion * unit
    radius = max(1, math.ceil(3 * major + length / 2))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    along = x * math.cos(how.angle) + y * math.sin(how.angle)
    across = y * math.cos(how.angle) - x * math.sin(how.angle)
    if length:
        along = np.sign(along) * np.maximum(np.abs(along) - length / 2, 0)
    kernel = np.exp(-0.5 * ((along / max(major, 0.3)) ** 2 + (across / max(minor, 0.3)) ** 2))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=border)


def _smear(image: NDArray[np.uint8], strength: float, unit: float) -> NDArray[np.uint8]:
    """Flatten texture but keep outlines, as a latent autoencoder does to small faces."""
    diameter = max(3, round(12 * unit) | 1)
    smooth = cv2.bilateralFilter(image, diameter, 60 * strength + 20, 6 * unit + 1)
    smooth = cv2.medianBlur(smooth, max(3, round(7 * unit * strength) | 1))
    return cv2.addWeighted(smooth, strength, image, 1 - strength, 0)


def _warp(image: NDArray[np.uint8], amplitude: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Distort locally: a smooth random displacement of at most `amplitude` px, strongest around eyes and mouth."""
    size = image.shape[0]
    shift = cv2.resize(rng.uniform(-1, 1, (9, 9, 2)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(grid, grid)
    parts = ((0.37, 0.47), (0.63, 0.47), (0.5, 0.73))  # eyes and mouth in the ffhq frame
    weight = np.sum([np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.02) for cx, cy in parts], 0)
    shift *= (amplitude * np.minimum(weight, 1))[..., None]
    centres = np.arange(size, dtype=np.float32)
    map_x, map_y = centres[None] + shift[..., 0], centres[:, None] + shift[..., 1]
    return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def recolour(image: NDArray[np.uint8], how: Degradation) -> NDArray[np.uint8]:
    """Apply the colour change alone: what training aims at, since a lost colour can only be guessed."""
    return np.clip(_colour(image, how) + 0.5, 0, 255).astype(np.uint8)


def _colour(image: NDArray[np.uint8], how: Degradation) -> NDArray[np.float32]:
    value = image.astype(np.float32)
    if how.grey:
        value[:] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    changed: NDArray[np.float32] = value * np.array(how.gain, np.float32) + np.array(how.offset, np.float32) * 255
    return changed


def _noise_and_colour(image: NDArray[np.uint8], how: Degradation, rng: np.random.Generator) -> NDArray[np.uint8]:
    value = _colour(image, how)
    if how.noise or how.poisson:
        shape = (*value.shape[:2], 1 if how.grey_noise or how.grey else 3)
        deviation = np.sqrt(how.noise**2 + how.poisson**2 * np.clip(value, 0, 255) / 255)
        value += deviation.astype(np.float32) * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(value + 0.5, 0, 255).astype(np.uint8)


def _compress(image: NDArray[np.uint8], codec: str, quality: int) -> NDArray[np.uint8]:
    extension, flag = (".jpg", cv2.IMWRITE_JPEG_QUALITY) if codec == "jpeg" else (".webp", cv2.IMWRITE_WEBP_QUALITY)
    _, data = cv2.imencode(extension, image[..., ::-1], [flag, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1], np.uint8)
